"""The page's form of a workflow, sorted: nodes and links by id, one scope for each subgraph."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.headless.failures import UserError

INPUT_NODE, OUTPUT_NODE = -10, -20
"""Ids that stand for a subgraph's own inputs and outputs in its links."""

MUTED, BYPASSED = 2, 4
"""Values of a node's ``mode``; every other one runs."""


@dataclass(frozen=True, slots=True)
class PageLink:
    """A wire from an output to an input."""

    source: Any
    output: int
    target: Any
    input: int


@dataclass(slots=True)
class Scope:
    """The nodes among which links hold: the whole page, or one use of a subgraph.

    Attributes:
        prefix: Before the ids of its nodes in a prompt: "", "57:", "57:3:".
        nodes: By id, as text.
        links: By id, as text.
        inner: The scope behind each node that stands for a subgraph, by the node's id.
        parent: The scope around it; None for the page.
        holder: The node that stands for it in the parent.
        definition: The subgraph's own record.
    """

    prefix: str
    nodes: dict[str, dict[str, Any]]
    links: dict[str, PageLink]
    inner: dict[str, Scope] = field(default_factory=dict)
    parent: Scope | None = None
    holder: Mapping[str, Any] = field(default_factory=dict)
    definition: Mapping[str, Any] = field(default_factory=dict)

    def walk(self) -> Iterator[tuple[Scope, dict[str, Any]]]:
        """Every node that can run, those of subgraphs in the place of the node for them."""
        for number, node in self.nodes.items():
            if node.get("mode") in (MUTED, BYPASSED):
                continue
            if number in self.inner:
                yield from self.inner[number].walk()
            else:
                yield self, node

    def outer_input(self, slot: int) -> Mapping[str, Any] | None:
        """The input of the holder that is wired to one of the subgraph's inputs; None if none is."""
        wanted = self.definition["inputs"][slot]["name"]
        given = self.holder.get("inputs") or []
        return next((one for one in given if one.get("name") == wanted), None)

    def outer_value(self, slot: int) -> Any:
        """What the holder's field for one of the subgraph's inputs holds; None if it has none.

        The holder keeps one value for each input that leads to a field inside, in their order; or
        none at all, and then the fields inside count.
        """
        name = self.definition["inputs"][slot]["name"]
        named = self.holder.get("widgets_values_named")
        if isinstance(named, Mapping):
            return named.get(name)
        stored = self.holder.get("widgets_values")
        if isinstance(stored, Mapping):
            return stored.get(name)
        with_field = [
            number
            for number in range(len(self.definition["inputs"]))
            if self._leads_to_field(number)
        ]
        if not stored or slot not in with_field:
            return None
        place = with_field.index(slot)
        return stored[place] if place < len(stored) else None

    def _leads_to_field(self, slot: int) -> bool:
        for link in self.links.values():
            if link.source == INPUT_NODE and link.output == slot:
                given = self.nodes.get(str(link.target), {}).get("inputs") or []
                if link.input < len(given) and given[link.input].get("widget"):
                    return True
        return False


def scopes_of(page: Mapping[str, Any]) -> Scope:
    """Sort a workflow.

    Raises:
        UserError: If it is not of the page's form, or a subgraph holds itself.
    """
    try:
        definitions = (page.get("definitions") or {}).get("subgraphs") or []
        known = {str(one["id"]): one for one in definitions}
        return _scope(page, known, "", ())
    except UserError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as err:
        raise UserError(
            f"This workflow has a form that is not known ({type(err).__name__}: {err})."
        ) from err


def _scope(
    graph: Mapping[str, Any],
    definitions: Mapping[str, Mapping[str, Any]],
    prefix: str,
    around: tuple[str, ...],
) -> Scope:
    nodes = {str(node["id"]): node for node in graph["nodes"]}
    links = dict(_link(one) for one in graph.get("links") or () if one is not None)
    made = Scope(prefix, nodes, links)
    for number, node in nodes.items():
        kind = str(node.get("type"))
        if kind not in definitions:
            continue
        if kind in around:
            name = definitions[kind].get("name", kind)
            raise UserError(f"The subgraph '{name}' holds itself, so it has no end.")
        inside = _scope(definitions[kind], definitions, f"{prefix}{number}:", (*around, kind))
        inside.parent, inside.holder, inside.definition = made, node, definitions[kind]
        made.inner[number] = inside
    return made


def _link(given: Any) -> tuple[str, PageLink]:
    if isinstance(given, Mapping):
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        number, source, output, target, slot = (given[name] for name in names)
    else:
        number, source, output, target, slot = given[:5]
    return str(number), PageLink(source, int(output), target, int(slot))

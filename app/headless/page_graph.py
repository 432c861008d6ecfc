"""From the page's form of a workflow to the form that runs.

What exists on the page only is resolved: reroutes, primitives, notes, muted and bypassed nodes,
subgraphs. A node in a subgraph gets the id "57:3": the node that stands for the subgraph, then its
own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.headless.failures import UserError
from app.headless.page_scopes import (
    BYPASSED,
    INPUT_NODE,
    MUTED,
    OUTPUT_NODE,
    PageLink,
    Scope,
    scopes_of,
)
from app.headless.page_widgets import values_of
from comfy_execution.validation_values import WRAPPER

Prompt = dict[str, dict[str, Any]]
"""Node id to {"class_type", "inputs", "_meta"}."""

_NOTES = ("Note", "MarkdownNote")
_REROUTE, _PRIMITIVE = "Reroute", "PrimitiveNode"
_ON_PAGE_ONLY = (*_NOTES, _REROUTE, _PRIMITIVE)


@dataclass(frozen=True, slots=True)
class _Constant:
    value: Any


_Source = list[Any] | _Constant | None


def to_prompt(
    page: Mapping[str, Any], classes: Mapping[str, Any], titles: Mapping[str, str]
) -> Prompt:
    """Convert a workflow.

    Args:
        page: What the page saved.
        classes: Node classes by name. A node of no known class keeps its links and values that it
            names, so that validation can tell of it.
        titles: Display name by class, for nodes without a title of their own.

    Raises:
        UserError: If the workflow is not of the page's form.
    """
    top = scopes_of(page)
    prompt: Prompt = {}
    for scope, node in top.walk():
        kind = str(node.get("type"))
        if kind in _ON_PAGE_ONLY:
            continue
        try:
            inputs = _inputs(scope, node, classes.get(kind))
        except (KeyError, TypeError, IndexError, AttributeError) as err:
            raise UserError(
                f"Node {scope.prefix}{node['id']} ({kind}) has a form that is not known "
                f"({type(err).__name__}: {err})."
            ) from err
        title = node.get("title") or titles.get(kind) or kind
        prompt[f"{scope.prefix}{node['id']}"] = {
            "class_type": kind,
            "inputs": inputs,
            "_meta": {"title": title},
        }
    return prompt


def _inputs(scope: Scope, node: Mapping[str, Any], node_class: Any) -> dict[str, Any]:
    stored = node.get("widgets_values_named") or node.get("widgets_values")
    if node_class is None:
        found = dict(stored) if isinstance(stored, Mapping) else {}
    else:
        found = values_of(node_class, stored)
    found = {name: _constant(value) for name, value in found.items()}
    for given in node.get("inputs") or ():
        if given.get("link") is None:
            continue
        source = _follow(scope, given["link"], ())
        if isinstance(source, _Constant):
            found[given["name"]] = _constant(source.value)
        elif source is not None:
            found[given["name"]] = source
    return found


def _constant(value: Any) -> Any:
    """A value as a prompt holds it: a list there is a link unless it is wrapped."""
    return {WRAPPER: value} if isinstance(value, list) else value


def _follow(scope: Scope, link_id: Any, seen: tuple[Any, ...]) -> _Source:
    """Find what a link brings: an output that runs, a value, or nothing."""
    here = (scope.prefix, str(link_id))
    if here in seen:
        raise UserError(f"Link {link_id} leads through reroutes back to itself.")
    seen = (*seen, here)
    link = scope.links.get(str(link_id))
    if link is None:
        return None
    if link.source == INPUT_NODE:
        return _from_outside(scope, link, seen)
    node = scope.nodes.get(str(link.source))
    if node is None or node.get("mode") == MUTED or node.get("type") in _NOTES:
        return None
    if node.get("mode") == BYPASSED:
        return _follow_input(scope, _input_past(node, link.output), seen)
    if node.get("type") == _REROUTE:
        return _follow_input(scope, next(iter(node.get("inputs") or ()), None), seen)
    if node.get("type") == _PRIMITIVE:
        return _value_of_primitive(node)
    inside = scope.inner.get(str(link.source))
    if inside is not None:
        return _from_inside(inside, link.output, seen)
    return [f"{scope.prefix}{link.source}", link.output]


def _follow_input(scope: Scope, given: Mapping[str, Any] | None, seen: tuple[Any, ...]) -> _Source:
    if given is None or given.get("link") is None:
        return None
    return _follow(scope, given["link"], seen)


def _from_outside(scope: Scope, link: PageLink, seen: tuple[Any, ...]) -> _Source:
    """Follow a subgraph's input to what the node around it is wired to, or to its field."""
    assert scope.parent is not None, "only subgraphs have links from their own inputs"
    given = scope.outer_input(link.output)
    if given is not None and given.get("link") is not None:
        return _follow(scope.parent, given["link"], seen)
    value = scope.outer_value(link.output)
    return None if value is None else _Constant(value)


def _from_inside(inside: Scope, output: int, seen: tuple[Any, ...]) -> _Source:
    """Follow an output of a node that stands for a subgraph to the node that makes it."""
    for number, link in inside.links.items():
        if link.target == OUTPUT_NODE and link.input == output:
            return _follow(inside, number, seen)
    return None


def _input_past(node: Mapping[str, Any], output: int) -> Mapping[str, Any] | None:
    """Which input a bypassed node hands on: that of the output's place, or the first of its type."""
    inputs: Sequence[Mapping[str, Any]] = node.get("inputs") or ()
    wanted = node["outputs"][output].get("type")
    beside = inputs[output : output + 1]
    for given in (*beside, *inputs):
        if given.get("link") is not None and _is_same(given.get("type"), wanted):
            return given
    return None


def _is_same(one: Any, other: Any) -> bool:
    return one == other or "*" in (one, other)


def _value_of_primitive(node: Mapping[str, Any]) -> _Constant | None:
    stored = node.get("widgets_values") or ()
    return _Constant(stored[0]) if isinstance(stored, Sequence) and stored else None

"""Graphs that nodes build and return: links, a builder, and the value that stops a branch."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar

_LINK_LENGTH = 2

Link = list[Any]
"""``[node id, slot]``: the value that a slot of another node has."""


class ExecutionBlocker:
    """As an output it keeps every call that would get it from being made.

    Attributes:
        message: Shown to the user at the first node that is blocked; None blocks silently.
    """

    def __init__(self, message: str | None) -> None:
        self.message = message


class ListValue(list[Any]):
    """A list that a prompt gave as ``{"__value__": [...]}``: a value, even if it looks like a link."""


def is_link(obj: Any) -> bool:
    """Whether an input's value is a link: a list of a node's id and a slot's number."""
    return (
        isinstance(obj, list)
        and not isinstance(obj, ListValue)
        and len(obj) == _LINK_LENGTH
        and isinstance(obj[0], str)
        and isinstance(obj[1], (int, float))
    )


class Node:
    """One node of a graph under construction.

    Attributes:
        id: Its id, prefix included.
        class_type: Name of its class.
        inputs: Constants and links by name.
        override_display_id: Id of the node in whose place it is shown, or None for the parent's.
    """

    def __init__(self, id: str, class_type: str, inputs: Mapping[str, Any]) -> None:
        self.id = id
        self.class_type = class_type
        self.inputs = dict(inputs)
        self.override_display_id: str | None = None

    def out(self, index: int) -> Link:
        """A link to one of its outputs."""
        return [self.id, index]

    def set_input(self, key: str, value: Any) -> None:
        """Set an input; None takes it away."""
        if value is None:
            self.inputs.pop(key, None)
        else:
            self.inputs[key] = value

    def get_input(self, key: str) -> Any:
        """The constant or link of an input; None if it has none."""
        return self.inputs.get(key)

    def set_override_display_id(self, override_display_id: str) -> None:
        """Show its progress at another node than the one that is expanded."""
        self.override_display_id = override_display_id

    def serialize(self) -> dict[str, Any]:
        """The node as it stands in a prompt."""
        written: dict[str, Any] = {"class_type": self.class_type, "inputs": self.inputs}
        if self.override_display_id is not None:
            written["override_display_id"] = self.override_display_id
        return written


@dataclass
class _Counter:
    """The prefixes that one call of a node gives out."""

    root: str = ""
    call: int = 0
    graph: int = 0


# A context variable, so that an async node that awaited still counts its own graphs.
_counter: ContextVar[_Counter] = ContextVar("graph_prefixes")


class GraphBuilder:
    """Builds a graph whose ids no other graph has.

    An id is "<expanding node>.<call>.<graph>.<name>". The executor sets the first two before it
    calls a node; the third counts the builders of that call.

    Attributes:
        prefix: What all ids begin with.
        nodes: By full id.
        id_gen: Number of the next node without a name.
    """

    # For threads that nodes start: those begin without context, and their ids must be unique, too.
    _newest: ClassVar[_Counter] = _Counter()

    def __init__(self, prefix: str | None = None) -> None:
        """Begin an empty graph.

        Args:
            prefix: None takes the next one of the running call; "" leaves ids as they are.
        """
        self.prefix = type(self).alloc_prefix() if prefix is None else prefix
        self.nodes: dict[str, Node] = {}
        self.id_gen = 1

    @classmethod
    def set_default_prefix(cls, prefix_root: str, call_index: int, graph_index: int = 0) -> None:
        """Say which node's which call the next builders belong to."""
        GraphBuilder._newest = _Counter(prefix_root, call_index, graph_index)
        _counter.set(GraphBuilder._newest)

    @classmethod
    def alloc_prefix(
        cls, root: str | None = None, call_index: int | None = None, graph_index: int | None = None
    ) -> str:
        """A prefix; what is not given comes from the running call, and the graph is counted on."""
        counter = _counter.get(cls._newest)
        head = counter.root if root is None else root
        call = counter.call if call_index is None else call_index
        graph = counter.graph if graph_index is None else graph_index
        counter.graph += 1
        return f"{head}.{call}.{graph}."

    def node(self, class_type: str, id: str | None = None, **kwargs: Any) -> Node:
        """Add a node.

        Args:
            class_type: Name of its class.
            id: Its name in this graph; that of an existing node returns that one, unchanged.
            **kwargs: Its inputs, constants or links.
        """
        if id is None:
            id = str(self.id_gen)
            self.id_gen += 1
        full = self.prefix + id
        if full not in self.nodes:
            self.nodes[full] = Node(full, class_type, kwargs)
        return self.nodes[full]

    def lookup_node(self, id: str) -> Node | None:
        """The node of that name, without the prefix; None if there is none."""
        return self.nodes.get(self.prefix + id)

    def finalize(self) -> dict[str, dict[str, Any]]:
        """The graph as it stands in a prompt, for a node's "expand"."""
        return {node.id: node.serialize() for node in self.nodes.values()}

    def replace_node_output(self, node_id: str, index: int, new_value: Any) -> None:
        """Put a value or link in the place of all links to an output; None takes them away.

        Args:
            node_id: Without the prefix.
            index: The output.
            new_value: What stands there from now on.
        """
        old = [self.prefix + node_id, index]
        for node in self.nodes.values():
            # Constants may be arrays, which compare by element.
            links = {name: value for name, value in node.inputs.items() if is_link(value)}
            for name in [name for name, link in links.items() if link == old]:
                node.set_input(name, new_value)

    def remove_node(self, id: str) -> None:
        """Take a node away; links to it stay.

        Raises:
            KeyError: If there is no node of that name.
        """
        del self.nodes[self.prefix + id]


def add_graph_prefix(
    graph: Mapping[str, Any], outputs: Any, prefix: str
) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """Copy a graph under other ids.

    Args:
        graph: In a prompt's form.
        outputs: Links into it, or constants.
        prefix: Put before each id.

    Returns:
        The graph, and the outputs that fit it.
    """

    def moved(value: Any) -> Any:
        return [prefix + value[0], value[1]] if is_link(value) else value

    copied = {
        prefix + node_id: {
            **node,
            "inputs": {name: moved(value) for name, value in node.get("inputs", {}).items()},
        }
        for node_id, node in graph.items()
    }
    return copied, tuple(moved(output) for output in outputs)

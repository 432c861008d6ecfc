"""What calls of a node returned, and one list of values per output made of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from comfy_execution.graph_utils import ExecutionBlocker, is_link
from comfy_execution.schema_nodes import NodeResult

Outputs = list[list[Any]]
"""Per output the values of all calls, in order."""

Lookup = Callable[[list[Any]], list[Any]]
"""The values that a link has."""


class Returned(NamedTuple):
    """What one call returned.

    Attributes:
        values: One per output; links where a graph stands for the node. None if it gave none.
        ui: For the page, or None.
        graph: Nodes that stand for the node, or None.
    """

    values: tuple[Any, ...] | None
    ui: dict[str, Any] | None = None
    graph: dict[str, Any] | None = None


def read_return(result: Any, class_def: Any) -> Returned:
    """Take one call's result apart.

    Args:
        result: A tuple or list of outputs; a dict with "result", "ui" and "expand"; a NodeResult;
            or an ExecutionBlocker, which then is on every output.
        class_def: The node's class.

    Raises:
        TypeError: It is something else.
    """
    if isinstance(result, dict):
        values = _values(result.get("result"), class_def, may_lack=True)
        return Returned(values, result.get("ui"), result.get("expand"))
    if isinstance(result, NodeResult):
        ui = result.ui.as_dict() if hasattr(result.ui, "as_dict") else result.ui
        if result.block_execution is not None:
            # Without words it blocks silently.
            blocker = ExecutionBlocker(result.block_execution or None)
            return Returned(_values(blocker, class_def), ui)
        return Returned(_values(result.result, class_def, may_lack=True), ui, result.expand)
    return Returned(_values(result, class_def))


def _values(result: Any, class_def: Any, may_lack: bool = False) -> tuple[Any, ...] | None:
    expected = len(class_def.RETURN_TYPES)
    if isinstance(result, ExecutionBlocker):
        return (result,) * expected
    if isinstance(result, (tuple, list)):
        return tuple(result)
    if result is None and (may_lack or not expected):
        return None
    raise TypeError(
        f"The node class {class_def.__name__} returned {type(result).__name__} where a tuple with "
        f"one value for each of its {expected} outputs is expected."
    )


def merged_values(
    returns: Sequence[Returned], class_def: Any, lookup: Lookup | None = None
) -> Outputs:
    """Put the outputs of all calls together.

    Args:
        returns: Of each call.
        class_def: The node's class. Where ``OUTPUT_IS_LIST`` is set, calls return lists.
        lookup: Resolves the links of calls that returned a graph.

    Raises:
        ValueError: Calls returned different numbers of outputs.
        TypeError: An output that is to be a list is none.
    """
    rows = [one for one in returns if one.values is not None]
    counts = {len(one.values) for one in rows if one.values is not None}
    if len(counts) > 1:
        raise ValueError(
            f"Calls of the node class {class_def.__name__} returned different numbers of outputs: "
            f"{sorted(counts)}. Return one value for each output every time."
        )
    merged: Outputs = [[] for _ in range(counts.pop() if counts else 0)]
    for one in rows:
        resolve = lookup if one.graph is not None else None
        for slot, value in enumerate(one.values or ()):
            merged[slot] += _slot_values(value, slot, class_def, resolve)
    return merged


def _slot_values(value: Any, slot: int, class_def: Any, lookup: Lookup | None) -> list[Any]:
    if lookup is not None and is_link(value):
        return lookup(value)
    flags = getattr(class_def, "OUTPUT_IS_LIST", None) or ()
    is_list = slot < len(flags) and flags[slot]
    if not is_list or isinstance(value, ExecutionBlocker):
        return [value]
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError(
            f"Output {slot} of the node class {class_def.__name__} is declared as a list, but a "
            f"{type(value).__name__} was returned. Return a list, or change OUTPUT_IS_LIST."
        )
    return list(value)


def merged_ui(returns: Sequence[Returned]) -> dict[str, list[Any]]:
    """Join what calls have for the page, by the keys of the first; empty if there is nothing."""
    given = [one.ui for one in returns if one.ui]
    if not given:
        return {}
    return {key: [item for ui in given for item in _items(ui.get(key))] for key in given[0]}


def _items(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, (list, tuple)) else [value]

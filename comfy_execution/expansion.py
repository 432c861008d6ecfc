"""Graphs that nodes return in their own place: their nodes join the running prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from comfy_execution.graph import DuplicateNodeError
from comfy_execution.graph_utils import is_link
from comfy_execution.results import Returned


async def add_expansion(state: Any, node_id: str, returns: Sequence[Returned]) -> None:
    """Add the nodes of an expansion, and let the expanded node wait for those it links to.

    Args:
        state: The running prompt, a `comfy_execution.node_run.PromptState`.
        node_id: The node that is expanded.
        returns: What its calls returned, some of them with graphs.

    Raises:
        DuplicateNodeError: A node's id is taken.
        NodeNotFoundError: A link of the graph leads nowhere.
        KeyError: The class of a node is not installed.
    """
    added: list[str] = []
    for one in returns:
        for new_id, node in (one.graph or {}).items():
            _add_node(state, node_id, new_id, node)
            added.append(new_id)
    for cache in state.caches.all:
        await cache.ensure_subcache_for(node_id, added)
    for new_id in added:
        if getattr(state.dynprompt.class_of(new_id), "OUTPUT_NODE", False):
            state.execution_list.add_node(new_id)
    for one in returns:
        links = (value for value in one.values or () if one.graph is not None and is_link(value))
        for source, slot in links:
            state.execution_list.add_strong_link(source, int(slot), node_id)


def _add_node(state: Any, parent_id: str, new_id: str, node: dict[str, Any]) -> None:
    if state.dynprompt.has_node(new_id):
        raise DuplicateNodeError(
            f"Node {parent_id} adds a node with the id {new_id!r}, which is taken. "
            "Make graphs with GraphBuilder, which gives ids that are not."
        )
    display_id = node.get("override_display_id") or parent_id
    state.dynprompt.add_ephemeral_node(new_id, node, parent_id, display_id)

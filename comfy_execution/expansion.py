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
        NodeNotFoundError: A link of the graph leads nowhere, or a class is not installed.
    """
    added: dict[str, bool] = {}
    for one in returns:
        for new_id, node in (one.graph or {}).items():
            if new_id in added or not _is_free(state, node_id, new_id):
                raise DuplicateNodeError(
                    f"Node {node_id} adds a node with the id {new_id!r}, which is taken. "
                    "Make graphs with GraphBuilder, which gives ids that are not."
                )
            display_id = node.get("override_display_id") or node_id
            whole = {"inputs": {}, **node}
            state.dynprompt.add_ephemeral_node(new_id, whole, node_id, display_id)
            added[new_id] = True
    for cache in state.caches.all:
        await cache.ensure_subcache_for(node_id, added)
    for new_id in added:
        if getattr(state.dynprompt.class_of(new_id), "OUTPUT_NODE", False):
            state.execution_list.add_node(new_id)
    for one in returns:
        links = (value for value in one.values or () if one.graph is not None and is_link(value))
        for source, slot in links:
            state.execution_list.add_strong_link(source, int(slot), node_id)


def _is_free(state: Any, parent_id: str, new_id: str) -> bool:
    """Whether an id can be given: to a new node, or again to one of an earlier run of this node.

    A node runs again within a prompt if its result was let go before a lazy input asked for it.
    """
    if not state.dynprompt.has_node(new_id):
        return True
    is_own = state.dynprompt.get_parent_node_id(new_id) == parent_id
    return is_own and new_id not in state.execution_list.pendingNodes

"""The global progress hook: from what nodes tell of their work to messages and to their state."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
from comfy_execution.progress import get_progress_state, supports_previews_of_nodes
from comfy_execution.utils import get_executing_context
from protocol import BinaryEventTypes


def install(server: Any) -> None:
    """Let every progress bar of a node report to a server.

    Args:
        server: Has ``send_sync(event, data, sid)``, ``client_id``, ``last_prompt_id`` and
            ``last_node_id``.

    Note:
        The hook raises InterruptProcessingException if the user wants the run to stop.
    """

    def hook(
        value: float, total: float, preview: Any = None, node_id: str | None = None, **_: Any
    ) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        context = get_executing_context()
        prompt_id = server.last_prompt_id if context is None else context.prompt_id
        node = node_id or (server.last_node_id if context is None else context.node_id)
        if node is not None:
            get_progress_state().update_progress(node, value, total, preview)
        message = {"value": value, "max": total, "prompt_id": prompt_id, "node": node}
        server.send_sync("progress", message, server.client_id)
        if preview is not None and not supports_previews_of_nodes(server):
            server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, preview, server.client_id)

    comfy.utils.set_progress_bar_global_hook(hook)

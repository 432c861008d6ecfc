"""Prompts that wait or run: /queue."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api_server.utils import json_text
from comfy_execution.queue import without_sensitive


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the addresses.

    Args:
        routes: Gets them.
        server: The `PromptServer`.
    """

    @routes.get("/queue")
    async def get_queue(request: web.Request) -> web.Response:
        running, pending = server.prompt_queue.get_current_queue_volatile()
        return json_text.answer(
            {
                "queue_running": [without_sensitive(item) for item in running],
                "queue_pending": [without_sensitive(item) for item in pending],
            }
        )

    @routes.post("/queue")
    async def post_queue(request: web.Request) -> web.Response:
        body = await json_text.read_object(request)
        ids = ids_to_delete(body)
        if body.get("clear"):
            server.prompt_queue.wipe_queue()
        for prompt_id in ids:
            server.prompt_queue.delete_queue_item(
                lambda item, prompt_id=prompt_id: item[1] == prompt_id
            )
        return web.Response()


def ids_to_delete(body: dict[str, Any]) -> list[str]:
    """The ids under "delete".

    Raises:
        json_text.BadBody: They are no list.
    """
    ids = body.get("delete")
    if ids is None:
        return []
    if not isinstance(ids, list):
        raise json_text.BadBody("'delete' must be a list of prompt ids.")
    return [str(one) for one in ids]

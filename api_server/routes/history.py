"""Prompts that ended: /history."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api_server.routes.queue import ids_to_delete
from api_server.utils import json_text
from api_server.utils.queries import whole_number


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the addresses.

    Args:
        routes: Gets them.
        server: The `PromptServer`.
    """

    @routes.get("/history")
    async def get_history(request: web.Request) -> web.Response:
        try:
            limit = _number_in(request, "max_items")
            offset = _number_in(request, "offset")
        except ValueError as err:
            return json_text.refusal(str(err))
        return await json_text.long_answer(
            server.prompt_queue.get_history(
                max_items=None if limit is None else max(0, limit),
                offset=-1 if offset is None else offset,
                map_function=as_it_is,
            )
        )

    @routes.get("/history/{prompt_id}")
    async def get_history_entry(request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        return json_text.answer(
            server.prompt_queue.get_history(prompt_id=prompt_id, map_function=as_it_is)
        )

    @routes.post("/history")
    async def post_history(request: web.Request) -> web.Response:
        body = await json_text.read_object(request)
        ids = ids_to_delete(body)
        if body.get("clear"):
            server.prompt_queue.wipe_history()
        for prompt_id in ids:
            server.prompt_queue.delete_history_item(prompt_id)
        return web.Response()


def as_it_is(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry itself: it changes no more, and copies of thousands would hold up the queue."""
    return entry


def _number_in(request: web.Request, name: str) -> int | None:
    given = request.query.get(name)
    return None if given is None else whole_number(name, given)

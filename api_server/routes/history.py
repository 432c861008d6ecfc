"""Prompts that ended: /history."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api_server.routes.queue import ids_to_delete
from api_server.utils import json_text


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the addresses.

    Args:
        routes: Gets them.
        server: The `PromptServer`.
    """

    @routes.get("/history")
    async def get_history(request: web.Request) -> web.Response:
        try:
            limit = _whole_number(request, "max_items")
            offset = _whole_number(request, "offset")
        except ValueError as err:
            return json_text.refusal(str(err))
        return json_text.answer(
            server.prompt_queue.get_history(
                max_items=limit, offset=-1 if offset is None else offset, map_function=_as_it_is
            )
        )

    @routes.get("/history/{prompt_id}")
    async def get_history_entry(request: web.Request) -> web.Response:
        prompt_id = request.match_info["prompt_id"]
        return json_text.answer(
            server.prompt_queue.get_history(prompt_id=prompt_id, map_function=_as_it_is)
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


def _as_it_is(entry: dict[str, Any]) -> dict[str, Any]:
    # Entries do not change any more; copying thousands of them would hold up the queue.
    return entry


def _whole_number(request: web.Request, name: str) -> int | None:
    """A parameter of the query.

    Raises:
        ValueError: It is no whole number, or a negative count.
    """
    given = request.query.get(name)
    if given is None:
        return None
    try:
        number = int(given)
    except ValueError:
        raise ValueError(f"{name} must be a whole number, not {given[:40]!r}.") from None
    return max(0, number) if name == "max_items" else number

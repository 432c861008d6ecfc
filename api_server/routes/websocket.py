"""Connections of pages, to which messages are sent: /ws."""

from __future__ import annotations

import json
import logging
import uuid
from typing import Any

from aiohttp import WSMsgType, web

from comfy_api import feature_flags

logger = logging.getLogger(__name__)


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the address.

    Args:
        routes: Gets it.
        server: The `PromptServer`.
    """

    @routes.get("/ws")
    async def connect(request: web.Request) -> web.WebSocketResponse:
        # Pictures are most of what is sent, and gain nothing by being compressed again.
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        sid = request.query.get("clientId") or uuid.uuid4().hex
        server.clients.enter(sid, socket, request)
        try:
            await _greet(server, sid)
            await _listen(server, sid, socket)
        finally:
            server.clients.leave(sid, socket)
        return socket


async def _greet(server: Any, sid: str) -> None:
    """Say how many prompts wait; and which node runs, if the page was there before."""
    await server.send("status", {"status": server.get_queue_info(), "sid": sid}, sid)
    node = server.last_node_id
    if server.client_id == sid and node is not None:
        message = {"node": node, "display_node": node, "prompt_id": server.last_prompt_id}
        await server.send("executing", message, sid)


async def _listen(server: Any, sid: str, socket: web.WebSocketResponse) -> None:
    """Take what the page sends until it goes: its first message may say what it can do."""
    is_first = True
    async for message in socket:
        if message.type is WSMsgType.ERROR:
            logger.warning("The connection of a page failed: %s", socket.exception())
        elif message.type is WSMsgType.TEXT and is_first:
            try:
                said = json.loads(message.data)
            except (ValueError, RecursionError):
                continue
            is_first = False
            await _take(server, sid, said)


async def _take(server: Any, sid: str, said: Any) -> None:
    if not isinstance(said, dict) or said.get("type") != "feature_flags":
        return
    flags = said.get("data")
    if isinstance(flags, dict) and sid in server.sockets_metadata:
        server.sockets_metadata[sid]["feature_flags"] = flags
    await server.send("feature_flags", feature_flags.get_server_features(), sid)

"""What this server can do: /features."""

from __future__ import annotations

from typing import Any

from aiohttp import web

from api_server.utils import json_text
from comfy_api import feature_flags


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the address.

    Args:
        routes: Gets it.
        server: The `PromptServer`.
    """

    @routes.get("/features")
    async def get_features(request: web.Request) -> web.Response:
        return json_text.answer(feature_flags.get_server_features())

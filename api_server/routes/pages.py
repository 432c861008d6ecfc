"""The page itself, and the list of scripts that it loads."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aiohttp import web

import nodes
from api_server.utils.json_text import answer
from app.web_files import list_extensions

WELCOME = "onecopy-welcome"
"""What opens an example for new users, in the address of its script."""

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
WELCOME_FOLDER = os.path.join(_ROOT, "comfy_extras", "web", "welcome")

# A page that was kept from another version would ask for files that are gone.
_NOT_KEPT = {
    "Cache-Control": "no-store, must-revalidate",
    "Pragma": "no-cache",
    "Expires": "0",
}


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the routes, and let the page find the script that opens an example."""
    nodes.EXTENSION_WEB_DIRS.setdefault(WELCOME, WELCOME_FOLDER)

    @routes.get("/")
    async def get_page(request: web.Request) -> web.StreamResponse:
        path = os.path.join(server.web_root or "", "index.html")
        if server.web_root is None or not os.path.isfile(path):
            raise web.HTTPNotFound(text="There is no page here; programs can use the server.")
        return web.FileResponse(path, headers=_NOT_KEPT)

    @routes.get("/extensions")
    async def get_extensions(request: web.Request) -> web.Response:
        return answer(await asyncio.to_thread(list_extensions, server.web_root))

"""Names of models, and what their files say of themselves."""

from __future__ import annotations

import asyncio
import os
from typing import Any

from aiohttp import web

import folder_paths
from api_server.utils.json_text import answer
from app.model_metadata import read_metadata
from utils.safe_paths import below

_HEADER_LIMIT_BYTES = 1 << 20


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the routes."""

    @routes.get("/embeddings")
    async def get_embeddings(request: web.Request) -> web.Response:
        names = await asyncio.to_thread(folder_paths.get_filename_list, "embeddings")
        return answer([os.path.splitext(name)[0] for name in names])

    @routes.get("/models")
    async def get_kinds(request: web.Request) -> web.Response:
        return answer(list(folder_paths.folder_names_and_paths))

    @routes.get("/models/{folder}")
    async def get_names(request: web.Request) -> web.Response:
        folder = request.match_info["folder"]
        # Old names of kinds are no keys, though folder_paths takes them.
        if folder not in folder_paths.folder_names_and_paths:
            raise web.HTTPNotFound(text="")
        return answer(await asyncio.to_thread(folder_paths.get_filename_list, folder))

    @routes.get("/view_metadata/{folder}")
    async def view_metadata(request: web.Request) -> web.Response:
        found = await asyncio.to_thread(
            _metadata, request.match_info["folder"], request.query.get("filename", "")
        )
        if found is None:
            raise web.HTTPNotFound(text="")
        return answer(found)


def _metadata(folder: str, filename: str) -> dict[str, Any] | None:
    if not filename.endswith(".safetensors") or below(os.sep, filename) is None:
        return None
    path = folder_paths.get_full_path(folder, filename)
    if path is None:
        return None
    try:
        return read_metadata(path, _HEADER_LIMIT_BYTES)
    except OSError:
        return None

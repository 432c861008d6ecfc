"""Routes for the page that is shipped with the program; others should not rely on them."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from aiohttp import web

import folder_paths
from api_server.utils.json_text import BadBody, answer, read_object, refusal
from app import logger as app_logger
from app.log_listeners import LogListeners

_TYPES = ("output", "input", "temp")


class InternalRoutes:
    """An application of its own, mounted at ``/internal`` only."""

    def __init__(self, prompt_server: Any) -> None:
        """Prepare.

        Args:
            prompt_server: Sends messages to clients.
        """
        self.routes = web.RouteTableDef()
        self.prompt_server = prompt_server
        self.listeners = LogListeners(prompt_server)
        self._app: web.Application | None = None

    def setup_routes(self) -> None:
        """Add the routes."""
        routes = self.routes

        @routes.get("/logs")
        async def get_logs(request: web.Request) -> web.Response:
            return answer("".join(f"{one['t']} - {one['m']}" for one in app_logger.get_logs()))

        @routes.get("/logs/raw")
        async def get_raw_logs(request: web.Request) -> web.Response:
            entries = app_logger.get_logs()
            return answer({"entries": entries, "size": self.listeners.size()})

        @routes.patch("/logs/subscribe")
        async def subscribe(request: web.Request) -> web.Response:
            wish = await read_object(request)
            client = wish.get("clientId")
            if not isinstance(client, str):
                raise BadBody("The body must tell who wants to hear, as 'clientId'.")
            if wish.get("enabled"):
                self.listeners.subscribe(client)
            else:
                self.listeners.unsubscribe(client)
            return web.Response()

        @routes.get("/folder_paths")
        async def get_folder_paths(request: web.Request) -> web.Response:
            kinds = folder_paths.folder_names_and_paths
            return answer({key: list(value[0]) for key, value in kinds.items()})

        @routes.get("/files/{directory_type}")
        async def get_files(request: web.Request) -> web.Response:
            kind = request.match_info["directory_type"]
            folder = folder_paths.get_directory_by_type(kind)
            if folder is None:
                return refusal(f"The type {kind!r} is none of {', '.join(_TYPES)}.")
            return answer(await asyncio.to_thread(_newest_first, folder))

    def get_app(self) -> web.Application:
        """The application; the same at each call."""
        if self._app is None:
            self._app = web.Application()
            self.setup_routes()
            self._app.add_routes(self.routes)
        return self._app


def _newest_first(folder: str) -> list[str]:
    """Names of visible files in a folder; none if there is no folder."""
    ages: list[tuple[float, str]] = []
    try:
        with os.scandir(folder) as entries:
            for one in entries:
                # A node, or a user, may remove it meanwhile.
                with contextlib.suppress(FileNotFoundError):
                    if one.is_file() and not one.name.startswith("."):
                        ages.append((one.stat().st_mtime, one.name))
    except FileNotFoundError:
        return []
    return [name for _, name in sorted(ages, key=lambda pair: pair[0], reverse=True)]

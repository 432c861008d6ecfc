"""Settings of a user: one JSON object in a file, read and changed by the page."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any, Protocol

from aiohttp import web

from app.json_bodies import as_object, read_body
from app.json_files import read_json_object, write_json

SETTINGS_FILE = "comfy.settings.json"

# Two requests that change one file at a time would lose one's keys.
_changing = threading.Lock()


class HasUserPaths(Protocol):
    """What settings and files of users need of the user manager; looked up at each request."""

    def get_request_user_filepath(
        self, request: Any, file: str | None, type: str = "userdata", create_dir: bool = True
    ) -> str | None:
        """Path of a file of the user who asks."""


class AppSettings:
    """Reads and writes the settings of whoever sent a request."""

    def __init__(self, user_manager: HasUserPaths) -> None:
        self.user_manager = user_manager

    def _file(self, request: Any) -> str:
        path = self.user_manager.get_request_user_filepath(request, SETTINGS_FILE, create_dir=False)
        if path is None:
            raise web.HTTPUnauthorized
        return path

    def get_settings(self, request: Any) -> dict[str, Any]:
        """All settings; empty if there are none yet or the file is damaged.

        Raises:
            web.HTTPUnauthorized: The user is not known.
        """
        path = _or_unauthorized(lambda: self._file(request))
        with _changing:
            return read_json_object(path)

    def save_settings(self, request: Any, settings: dict[str, Any]) -> None:
        """Put other settings in place of all.

        Raises:
            web.HTTPUnauthorized: The user is not known.
            OSError: They could not be written.
        """
        path = _or_unauthorized(lambda: self._file(request))
        with _changing:
            write_json(path, settings)

    def merge_settings(self, request: Any, changes: dict[str, Any]) -> None:
        """Set some settings and leave the others as they are; see `save_settings`."""
        path = _or_unauthorized(lambda: self._file(request))
        with _changing:
            write_json(path, read_json_object(path) | changes)

    def add_routes(self, routes: web.RouteTableDef) -> None:
        """Answer requests for settings."""

        @routes.get("/settings")
        async def get_all(request: web.Request) -> web.Response:
            return web.json_response(await asyncio.to_thread(self.get_settings, request))

        @routes.get("/settings/{id}")
        async def get_one(request: web.Request) -> web.Response:
            settings = await asyncio.to_thread(self.get_settings, request)
            return web.json_response(settings.get(request.match_info["id"]))

        @routes.post("/settings")
        async def set_some(request: web.Request) -> web.Response:
            changes = as_object(await read_body(request))
            await asyncio.to_thread(self.merge_settings, request, changes)
            return web.Response()

        @routes.post("/settings/{id}")
        async def set_one(request: web.Request) -> web.Response:
            changes = {request.match_info["id"]: await read_body(request)}
            await asyncio.to_thread(self.merge_settings, request, changes)
            return web.Response()


def _or_unauthorized(find: Callable[[], str]) -> str:
    try:
        return find()
    except KeyError as err:
        raise web.HTTPUnauthorized(text=str(err.args[0])) from err


def settings_path(user_folder: str) -> str:
    """Where the settings of the user of this folder are."""
    return os.path.join(user_folder, SETTINGS_FILE)

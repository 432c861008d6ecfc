"""Users and their folders: who asks, and where their files are."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import re
import threading
import uuid
from typing import Any
from urllib import parse

from aiohttp import web

import folder_paths
from app import new_user, userdata_routes
from app.app_settings import AppSettings
from app.json_bodies import BadBody, as_object, read_body
from app.json_files import read_json_object, write_json
from comfy import unfinished
from comfy.cli_args import args
from utils.safe_paths import below, inside

logger = logging.getLogger(__name__)

DEFAULT_USER = "default"

# Two requests at a time would lose one's user.
_adding = threading.Lock()


class UserManager:
    """The users that there are; with one user, "default", unless ``--multi-user`` is given."""

    def __init__(self) -> None:
        folder = folder_paths.get_user_directory()
        os.makedirs(folder, exist_ok=True)
        unfinished.remove_abandoned(folder)
        self.settings = AppSettings(self)
        self.users: dict[str, str] = {DEFAULT_USER: DEFAULT_USER}
        if args.multi_user:
            self.users = read_json_object(self.get_users_file())

    def get_users_file(self) -> str:
        """Where the names of users are kept, by id."""
        return os.path.join(folder_paths.get_user_directory(), "users.json")

    def get_request_user_id(self, request: Any) -> str:
        """The id of whoever sent a request.

        Raises:
            KeyError: There is no such user, or it stands for a part of the program.
        """
        user = DEFAULT_USER
        if args.multi_user:
            # The page sends an empty header before a user is chosen.
            user = request.headers.get("comfy-user") or DEFAULT_USER
        if user.startswith(folder_paths.SYSTEM_USER_PREFIX) or user not in self.users:
            raise KeyError(f"Unknown user: {user}")
        return user

    def get_request_user_filepath(
        self, request: Any, file: str | None, type: str = "userdata", create_dir: bool = True
    ) -> str | None:
        """Path of a file of whoever sent a request.

        Args:
            request: Tells the user.
            file: Relative to the user's folder, perhaps percent-encoded; None for the folder.
            type: Only "userdata".
            create_dir: Make the folder that the file is in.

        Returns:
            The path, or None if it would be outside the user's folder.

        Raises:
            KeyError: There is no such user, or no such type.
        """
        if type != "userdata":
            raise KeyError(f"Unknown filepath type:{type}")
        user = self.get_request_user_id(request)
        if folder_paths.get_public_user_directory(user) is None:
            return None
        # The folder of a user may be a link; what is below it may not lead out.
        path = root = below(folder_paths.get_user_directory(), user)
        if root is None or root == os.path.abspath(folder_paths.get_user_directory()):
            return None
        if file is not None:
            path = inside(root, parse.unquote(file) if "%" in file else file)
        if path is not None and create_dir:
            os.makedirs(root if file is None else os.path.dirname(path), exist_ok=True)
        return path

    def add_user(self, name: str) -> str:
        """Add a user.

        Args:
            name: What people call them.

        Returns:
            The id.

        Raises:
            ValueError: The name is empty, taken, or one of those for parts of the program.
            OSError: The list of users could not be written.
        """
        shown = name.strip() if name else ""
        if not shown:
            raise ValueError("username not provided")
        if shown.startswith(folder_paths.SYSTEM_USER_PREFIX):
            raise ValueError("System User prefix not allowed")
        user = f"{re.sub(r'[^a-zA-Z0-9_-]+', '-', shown)}_{uuid.uuid4()}"
        if user.startswith(folder_paths.SYSTEM_USER_PREFIX):
            raise ValueError("System User prefix not allowed")
        with _adding:
            # Without --multi-user those in the file were not read, but must stay there.
            known = {**read_json_object(self.get_users_file()), **self.users}
            if shown in known.values():
                raise ValueError(f"There is a user named {json.dumps(shown)} already")
            write_json(self.get_users_file(), {**known, user: shown})
            self.users[user] = shown
        return user

    def add_routes(self, routes: web.RouteTableDef) -> None:
        """Answer requests for users, their settings and their files."""
        self.settings.add_routes(routes)
        userdata_routes.add_routes(routes, self)

        @routes.get("/users")
        async def get_users(request: web.Request) -> web.Response:
            if args.multi_user:
                return web.json_response({"storage": "server", "users": self.users})
            folder = folder_paths.get_public_user_directory(DEFAULT_USER)
            migrated = folder is not None and os.path.exists(folder)
            return web.json_response({"storage": "server", "migrated": migrated})

        @routes.post("/users")
        async def post_users(request: web.Request) -> web.Response:
            name = as_object(await read_body(request)).get("username")
            if not isinstance(name, str):
                raise BadBody('The body must name the new user as "username".')
            try:
                user = await asyncio.to_thread(self._add_and_welcome, name)
            except ValueError as err:
                raise BadBody(f"{err}.") from err
            return web.json_response(user)

    def _add_and_welcome(self, name: str) -> str:
        user = self.add_user(name)
        folder = folder_paths.get_public_user_directory(user)
        if folder is not None:
            new_user.welcome(folder)
        return user

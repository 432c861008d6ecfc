"""Files of users: workflows, styles and whatever else the page keeps with the program."""

from __future__ import annotations

import asyncio
import mimetypes
import os
import re
import threading
from collections.abc import Callable
from urllib import parse

from aiohttp import web

from app import userdata_listing
from app.app_settings import HasUserPaths
from app.json_files import write_whole

# A browser asks each time whether a file is another one by now, and guesses no types.
_AS_KEPT = {"Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
# Nothing that a user keeps may run as a page of this server; its style sheets are the page's own.
_ACTIVE = re.compile(r"text/(html|xsl)|.*(xhtml|/xml|\+xml)")
# Whether a file exists must still hold when it is written.
_writing = threading.Lock()


def add_routes(routes: web.RouteTableDef, manager: HasUserPaths) -> None:
    """Answer requests for users' files."""
    files = _UserFiles(manager)
    routes.get("/userdata")(files.list_files)
    routes.get("/v2/userdata")(files.list_all)
    routes.get("/userdata/{file}")(files.read)
    routes.post("/userdata/{file}")(files.write)
    routes.delete("/userdata/{file}")(files.remove)
    routes.post("/userdata/{file}/move/{dest}")(files.move)


def _is_on(request: web.Request, name: str, default: str = "false") -> bool:
    return request.query.get(name, default).lower() in ("true", "1")


class _UserFiles:
    """The handlers."""

    def __init__(self, manager: HasUserPaths) -> None:
        self._manager = manager

    def _path(self, request: web.Request, file: str | None, create_dir: bool = False) -> str:
        try:
            path = self._manager.get_request_user_filepath(request, file, create_dir=create_dir)
        except KeyError as err:
            raise web.HTTPForbidden(text=str(err.args[0])) from err
        except OSError as err:
            raise web.HTTPBadRequest(text=f"The folder of {file} cannot be made: {err}.") from err
        if path is None:
            raise web.HTTPForbidden(text="The file would be outside the folder of the user.")
        return path

    def _named(self, request: web.Request, part: str, create_dir: bool = False) -> str:
        """The path of a file that a part of the address names; never the folder of the user."""
        name = request.match_info[part]
        path = self._path(request, name, create_dir)
        if os.path.normpath(path) == os.path.normpath(self._path(request, None)):
            raise web.HTTPForbidden(text="A file must be named.")
        return path

    def _existing(self, request: web.Request, part: str) -> str:
        path = self._named(request, part)
        if not os.path.lexists(path):
            raise web.HTTPNotFound
        if os.path.isdir(path):
            raise web.HTTPForbidden(text=f"{request.match_info[part]} is a folder.")
        return path

    def _told(self, request: web.Request, path: str) -> web.Response:
        """What a write answers: the file's name, or all about it."""
        name = os.path.relpath(path, self._path(request, None)).replace(os.sep, "/")
        if _is_on(request, "full_info"):
            return web.json_response(userdata_listing.describe(path, name))
        return web.json_response(name)

    async def list_files(self, request: web.Request) -> web.Response:
        """GET /userdata: names of files in a folder."""
        name = request.query.get("dir", "")
        if not name:
            raise web.HTTPBadRequest(text="The query must name a folder as `dir`.")
        folder = self._path(request, name)
        if not os.path.isdir(folder):
            raise web.HTTPNotFound
        files = await asyncio.to_thread(
            userdata_listing.files_in, folder, recurse=_is_on(request, "recurse")
        )
        if _is_on(request, "full_info"):
            told = await asyncio.to_thread(userdata_listing.describe_all, folder, files)
            return web.json_response(told)
        names = [file.replace(os.sep, "/") for file in files]
        if _is_on(request, "split"):
            return web.json_response([[name, *name.split("/")] for name in names])
        return web.json_response(names)

    async def list_all(self, request: web.Request) -> web.Response:
        """GET /v2/userdata: folders and files, all the way down."""
        root = self._path(request, None)
        name = parse.unquote(request.query.get("path", ""))
        folder = root
        if name:
            try:
                folder = self._path(request, name)
            except web.HTTPForbidden as err:
                raise web.HTTPBadRequest(text=err.text) from err
        if not os.path.exists(folder):
            if not name:
                return web.json_response([])
            raise web.HTTPNotFound
        if not os.path.isdir(folder):
            raise web.HTTPBadRequest(text=f"{name} is no folder.")
        return web.json_response(await asyncio.to_thread(userdata_listing.tree, root, folder))

    async def read(self, request: web.Request) -> web.StreamResponse:
        """GET /userdata/{file}: what is in it."""
        path = self._existing(request, "file")
        response = web.FileResponse(path, headers=_AS_KEPT)
        if _ACTIVE.fullmatch(mimetypes.guess_type(path)[0] or ""):
            response.content_type = "application/octet-stream"
        return response

    async def write(self, request: web.Request) -> web.Response:
        """POST /userdata/{file}: keep the body."""
        path = self._named(request, "file", create_dir=True)
        may_replace = _is_on(request, "overwrite", "true")
        data = await request.read()

        def put() -> None:
            with _writing:
                if not may_replace and os.path.lexists(path):
                    raise web.HTTPConflict(text=f"{request.match_info['file']} exists already.")
                write_whole(path, data)

        await _or_bad_request(put)
        return self._told(request, path)

    async def remove(self, request: web.Request) -> web.Response:
        """DELETE /userdata/{file}."""
        path = self._existing(request, "file")
        await _or_bad_request(lambda: os.remove(path))
        return web.Response(status=204)

    async def move(self, request: web.Request) -> web.Response:
        """POST /userdata/{file}/move/{dest}: rename."""
        source = self._existing(request, "file")
        target = self._named(request, "dest", create_dir=True)
        may_replace = _is_on(request, "overwrite", "true")

        def rename() -> None:
            with _writing:
                if not may_replace and os.path.lexists(target):
                    raise web.HTTPConflict(text=f"{request.match_info['dest']} exists already.")
                os.replace(source, target)

        await _or_bad_request(rename)
        return self._told(request, target)


async def _or_bad_request(act: Callable[[], None]) -> None:
    """Act in a thread, since a disk may be slow.

    Raises:
        web.HTTPNotFound: The file went away.
        web.HTTPBadRequest: The system refused.
    """
    try:
        await asyncio.to_thread(act)
    except FileNotFoundError as err:
        raise web.HTTPNotFound from err
    except OSError as err:
        raise web.HTTPBadRequest(text=f"The file cannot be changed: {err.strerror}.") from err

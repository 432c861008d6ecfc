"""Files of the page and of what belongs to it, served as they are."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Callable, Iterator
from urllib.parse import quote

from aiohttp import web

import nodes
from utils.safe_paths import inside

_EXTENSIONS = "extensions"
# What a system's own list calls these differs, and browsers run no module under another name.
_KINDS = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".json": "application/json",
    ".wasm": "application/wasm",
}


def list_extensions(web_root: str | None) -> list[str]:
    """Addresses of all scripts that the page shall load: its own, then those of packs.

    Args:
        web_root: Folder of the page; None if there is none.
    """
    found = []
    if web_root is not None:
        own = os.path.join(web_root, _EXTENSIONS)
        found += [f"/{_EXTENSIONS}/{name}" for name in _scripts(own)]
    for key, folder in list(nodes.EXTENSION_WEB_DIRS.items()):
        found += [f"/{_EXTENSIONS}/{quote(key, safe='')}/{name}" for name in _scripts(folder)]
    return found


def _scripts(folder: str) -> Iterator[str]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if name.endswith(".js"):
                yield os.path.relpath(os.path.join(root, name), folder).replace(os.sep, "/")


def add_web_files(
    app: web.Application,
    web_root: str | None,
    *,
    find_templates: Callable[[], dict[str, str] | None],
    old_templates: str | None,
    docs: str | None,
) -> None:
    """Serve folders and files.

    Args:
        app: Has all other routes already.
        web_root: Folder of the page; None to serve none.
        find_templates: Gives paths of workflow templates by name; called at the first request.
        old_templates: Folder of templates, where there is one instead.
        docs: Folder of the nodes' documentation, or None.
    """

    async def of_pack(request: web.Request) -> web.StreamResponse:
        key, name = request.match_info["key"], request.match_info["path"]
        # Looked up now: packs add folders at any time.
        folder = nodes.EXTENSION_WEB_DIRS.get(key)
        if folder is None and web_root is not None:
            folder, name = os.path.join(web_root, _EXTENSIONS), f"{key}/{name}"
        return _file(folder, name)

    app.router.add_get(f"/{_EXTENSIONS}/{{key}}/{{path:.+}}", of_pack)
    if old_templates is not None:
        _add_folder(app, "/templates/", old_templates)
    elif importlib.util.find_spec("comfyui_workflow_templates") is not None:
        app.router.add_get("/templates/{path:.+}", _Templates(find_templates).answer)
    if docs is not None:
        _add_folder(app, "/docs/", docs)
    if web_root is not None:
        _add_folder(app, "/", web_root)


class _Templates:
    """Files of templates, found out at the first request: there are hundreds."""

    def __init__(self, find: Callable[[], dict[str, str] | None]) -> None:
        self._find = find
        self._paths: dict[str, str] | None = None
        self._finding = asyncio.Lock()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Give one."""
        async with self._finding:
            if self._paths is None:
                self._paths = await asyncio.to_thread(self._find) or {}
        path = self._paths.get(request.match_info["path"], "")
        return _file(os.path.dirname(path), os.path.basename(path))


def _add_folder(app: web.Application, prefix: str, folder: str) -> None:
    async def give(request: web.Request) -> web.StreamResponse:
        return _file(folder, request.match_info["path"])

    app.router.add_get(f"{prefix}{{path:.+}}", give)


def _file(folder: str | None, name: str) -> web.StreamResponse:
    """A file in a folder, whatever the name.

    Raises:
        web.HTTPNotFound: There is none, or it would be outside.
    """
    path = None if folder is None else inside(folder, name)
    if path is None or not os.path.isfile(path):
        raise web.HTTPNotFound
    kind = _KINDS.get(os.path.splitext(path)[1].lower())
    return web.FileResponse(path, headers=None if kind is None else {"Content-Type": kind})

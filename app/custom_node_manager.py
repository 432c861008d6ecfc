"""What packs bring for the page besides nodes: example workflows and translations."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from aiohttp import web

import folder_paths
from app.json_files import strict_loads
from utils.json_util import merge_json_recursive
from utils.safe_paths import inside

logger = logging.getLogger(__name__)

_WORKFLOWS = ("example_workflows", "example", "examples", "workflow", "workflows")
_TRANSLATED = ("nodeDefs", "commands", "settings")


class CustomNodeManager:
    """Finds workflows and translations in the folders of packs."""

    def __init__(self) -> None:
        self._translations: dict[str, Any] | None = None

    def build_translations(self) -> dict[str, Any]:
        """Texts of all packs by language; looked for once.

        Returns:
            For each language the texts of ``main.json``, and those of other files by file name.
        """
        if self._translations is None:
            found: dict[str, Any] = {}
            for pack in _packs():
                for folder in _subfolders(pack / "locales"):
                    found = merge_json_recursive(found, {folder.name: _language(folder)})
            self._translations = found
        return self._translations

    def add_routes(
        self,
        routes: web.RouteTableDef,
        webapp: web.Application,
        loadedModules: Iterable[tuple[str, str]],
    ) -> None:
        """Answer requests for what packs bring.

        Args:
            routes: Gets the lists.
            webapp: Gets the workflows themselves.
            loadedModules: Name and folder of each pack that was loaded.
        """
        folders = dict(loadedModules)

        @routes.get("/workflow_templates")
        async def get_workflow_templates(request: web.Request) -> web.Response:
            return web.json_response(await asyncio.to_thread(_all_workflows))

        @routes.get("/i18n")
        async def get_translations(request: web.Request) -> web.Response:
            return web.json_response(await asyncio.to_thread(self.build_translations))

        async def get_workflow(request: web.Request) -> web.StreamResponse:
            pack = folders.get(request.match_info["module"])
            for name in _WORKFLOWS if pack is not None else ():
                path = inside(os.path.join(pack or "", name), request.match_info["file"])
                if path is not None and os.path.isfile(path):
                    return web.FileResponse(path)
            raise web.HTTPNotFound

        webapp.router.add_get("/api/workflow_templates/{module}/{file:.+}", get_workflow)


def _packs() -> Iterator[Path]:
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        yield from _subfolders(Path(folder))


def _subfolders(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _workflows(pack: Path) -> Iterator[Path]:
    for name in _WORKFLOWS:
        yield from (pack / name).glob("*.json")


def _all_workflows() -> dict[str, list[str]]:
    """Names of workflows by pack, without those that bring none."""
    found: dict[str, list[str]] = {}
    for pack in _packs():
        names = sorted(path.stem for path in _workflows(pack))
        if names:
            found.setdefault(pack.name, []).extend(names)
    return found


def _language(folder: Path) -> dict[str, Any]:
    """The texts in one language of one pack."""
    texts = _texts(folder / "main.json")
    others = {name: _texts(folder / f"{name}.json") for name in _TRANSLATED}
    return {**texts, **{name: other for name, other in others.items() if other}}


def _texts(path: Path) -> dict[str, Any]:
    try:
        texts = strict_loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as err:
        logger.warning("The translations in %s cannot be read: %s", path, err)
        return {}
    if not isinstance(texts, dict):
        logger.warning("The translations in %s are no JSON object.", path)
        return {}
    return texts

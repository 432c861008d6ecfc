"""Subgraphs that packs bring, for the page's list of nodes."""

from __future__ import annotations

import asyncio
import glob
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from aiohttp import web

import folder_paths

_SOURCE = "custom_node"


class SubgraphManager:
    """Finds ``subgraphs/*.json`` in the folders of packs."""

    def find(self) -> dict[str, Path]:
        """Files by id; looked for at each call.

        Returns:
            The id is a hash of where the file is, so that it stays from run to run.
        """
        found: dict[str, Path] = {}
        for folder in folder_paths.get_folder_paths("custom_nodes"):
            for name in sorted(glob.glob(os.path.join(glob.escape(folder), "*/subgraphs/*.json"))):
                path = Path(name)
                identity = hashlib.sha256(f"{_SOURCE}{path.as_posix()}".encode())
                found[identity.hexdigest()] = path
        return found

    def add_routes(
        self,
        routes: web.RouteTableDef,
        loadedModules: Iterable[tuple[str, str]],
    ) -> None:
        """Answer requests for subgraphs.

        Args:
            routes: Gets them.
            loadedModules: Taken as the interface has it; files are found by folder.
        """

        @routes.get("/global_subgraphs")
        async def get_subgraphs(request: web.Request) -> web.Response:
            found = await asyncio.to_thread(self.find)
            return web.json_response({key: _described(path) for key, path in found.items()})

        @routes.get("/global_subgraphs/{id}")
        async def get_subgraph(request: web.Request) -> web.Response:
            path = (await asyncio.to_thread(self.find)).get(request.match_info["id"])
            if path is None:
                return web.json_response(None)
            data = await asyncio.to_thread(path.read_text, encoding="utf-8", errors="replace")
            return web.json_response({**_described(path), "data": data})


def _described(path: Path) -> dict[str, Any]:
    pack = path.parent.parent.name
    return {
        "source": _SOURCE,
        "name": path.stem,
        "info": {"node_pack": f"custom_nodes.{pack}"},
    }

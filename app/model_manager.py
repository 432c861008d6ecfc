"""Models as the page's library shows them: their files, and pictures of what they make."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import mimetypes
import os
from io import BytesIO
from typing import Any

from aiohttp import web
from PIL import Image

import folder_paths
from app.model_metadata import read_metadata
from app.picture_faults import BAD_PICTURE
from comfy import file_listing
from utils.safe_paths import below

logger = logging.getLogger(__name__)

# Pictures in the header need more room than words.
_HEADER_LIMIT_BYTES = 8 << 20
_COVERS = "ssmd_cover_images"
_NO_MODELS = ("configs", "custom_nodes")
_PREVIEW = ".preview"


class ModelFileManager:
    """Lists model files with size and age, and finds their previews."""

    def get_model_file_list(self, folder_name: str) -> list[dict[str, Any]]:
        """Files of one kind of models.

        Args:
            folder_name: A key of `folder_paths.folder_names_and_paths`.

        Returns:
            `name` below its folder, `pathIndex` of the folder, `modified` and `created` in seconds
            since 1970, `size` in bytes; hidden files and folders are left out.
        """
        found: list[dict[str, Any]] = []
        for index, folder in enumerate(folder_paths.folder_names_and_paths[folder_name][0]):
            names, _ = file_listing.walk(folder, [])
            for name in file_listing.with_extensions(names, folder_paths.supported_pt_extensions):
                if any(part.startswith(".") for part in name.split(os.sep)):
                    continue
                try:
                    facts = os.stat(os.path.join(folder, name))
                except OSError as err:
                    logger.warning("%s is left out of the list of models: %s", name, err)
                    continue
                found.append(
                    {
                        "name": name,
                        "pathIndex": index,
                        "modified": facts.st_mtime,
                        "created": facts.st_ctime,
                        "size": facts.st_size,
                    }
                )
        return found

    def get_model_previews(self, filepath: str) -> list[str | BytesIO]:
        """Pictures of a model: files beside it, then those in its header.

        Args:
            filepath: The model.

        Returns:
            Paths, and contents of picture files; empty if the model is not there.
        """
        if not os.path.isfile(filepath):
            return []
        return [*_beside(filepath), *_inside(filepath)]

    def add_routes(self, routes: web.RouteTableDef) -> None:
        """Answer requests of the model library."""

        @routes.get("/experiment/models")
        async def get_folders(request: web.Request) -> web.Response:
            folders = [
                {"name": key, "folders": list(value[0])}
                for key, value in folder_paths.folder_names_and_paths.items()
                if key not in _NO_MODELS
            ]
            return web.json_response(folders)

        @routes.get("/experiment/models/{folder}")
        async def get_files(request: web.Request) -> web.Response:
            folder = request.match_info["folder"]
            if folder not in folder_paths.folder_names_and_paths:
                raise web.HTTPNotFound
            return web.json_response(await asyncio.to_thread(self.get_model_file_list, folder))

        @routes.get("/experiment/models/preview/{folder}/{path_index}/{filename:.*}")
        async def get_preview(request: web.Request) -> web.Response:
            path = _model_path(request)
            if path is None:
                raise web.HTTPNotFound
            shown = await asyncio.to_thread(self._preview, path)
            if shown is None:
                raise web.HTTPNotFound
            return web.Response(body=shown, content_type="image/webp")

    def _preview(self, path: str) -> bytes | None:
        """The first preview as WebP; None if there is none that can be shown."""
        previews = self.get_model_previews(path)
        if not previews:
            return None
        buffer = BytesIO()
        try:
            with Image.open(previews[0]) as picture:
                picture.save(buffer, format="WEBP")
        except BAD_PICTURE as err:
            logger.warning("The preview of %s cannot be shown: %s", path, err)
            return None
        return buffer.getvalue()


def _model_path(request: web.Request) -> str | None:
    """The model that a request names; None if it names none."""
    entry = folder_paths.folder_names_and_paths.get(request.match_info["folder"])
    index = request.match_info["path_index"]
    # Longer numbers are refused by int() itself.
    if entry is None or not (index.isascii() and index.isdigit() and len(index) < 10):
        return None
    folders = list(entry[0])
    if int(index) >= len(folders):
        return None
    return below(folders[int(index)], request.match_info["filename"])


def _beside(filepath: str) -> list[str | BytesIO]:
    folder, name = os.path.split(filepath)
    stem = os.path.splitext(name)[0]
    found: list[str | BytesIO] = []
    for other in sorted(os.listdir(folder)):
        if other.startswith(stem) and _is_picture(other):
            rest = os.path.splitext(other)[0][len(stem) :]
            if rest in ("", _PREVIEW):
                found.append(os.path.join(folder, other))
    return found


def _is_picture(name: str) -> bool:
    kind = mimetypes.guess_type(name, strict=False)[0] or ""
    return kind.startswith("image/") or name.lower().endswith(".webp")


def _inside(filepath: str) -> list[str | BytesIO]:
    if not filepath.endswith(".safetensors"):
        return []
    try:
        covers = json.loads((read_metadata(filepath, _HEADER_LIMIT_BYTES) or {}).get(_COVERS, "[]"))
        texts = [one for one in covers if isinstance(one, str)] if isinstance(covers, list) else []
        # Some write an address with data in it instead of the data.
        return [BytesIO(base64.b64decode(text.split(",", 1)[-1])) for text in texts]
    except (OSError, ValueError, TypeError, RecursionError) as err:
        logger.warning("The pictures in %s cannot be read: %s", filepath, err)
        return []

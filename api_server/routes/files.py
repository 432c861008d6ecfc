"""Files that go in and come out: uploads, masks, and whatever nodes saved."""

from __future__ import annotations

import asyncio
import contextlib
import json
import mimetypes
import os
import re
import tempfile
from typing import Any
from urllib.parse import quote

from aiohttp import web

import folder_paths
from api_server import uploads
from api_server.pictures import Rendered, format_with_alpha, rendering, with_alpha_of
from api_server.utils.json_text import BadBody, answer
from app.picture_faults import BAD_PICTURE
from utils.safe_paths import inside

_UNKNOWN = "application/octet-stream"
# A browser that opens one of these would run what a node, or a stranger's workflow, wrote.
_ACTIVE = re.compile(r"text/(html|css|xml|xsl)|.*(xhtml|javascript|ecmascript|/xml|\+xml)")
# Pages show these in place, where scripts in them do not run.
_PICTURE_WITH_SCRIPTS = "image/svg+xml"


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the routes."""

    @routes.post("/upload/image")
    async def upload_image(request: web.Request) -> web.Response:
        async with uploads.receive(request) as upload:
            place = uploads.place_of(upload)
            return await _put(upload.received, place)

    @routes.post("/upload/mask")
    async def upload_mask(request: web.Request) -> web.Response:
        async with uploads.receive(request) as upload:
            place = uploads.place_of(upload)
            original = _original_of(upload.fields.get("original_ref"))
            if not os.path.isfile(original):
                return web.Response()
            return await _put_mask(original, upload.received, place)

    @routes.get("/view")
    async def view(request: web.Request) -> web.StreamResponse:
        path = _viewed(request)
        render = rendering(request.query.get("preview"), request.query.get("channel"))
        if render is None:
            return web.FileResponse(path, headers=_headers(path))
        tag = _tag(request, path)
        if tag in (request.headers.get("If-None-Match") or ""):
            return web.Response(status=304, headers={"ETag": tag})
        try:
            shown: Rendered = await asyncio.to_thread(render, path)
        except BAD_PICTURE as err:
            raise BadBody(f"{os.path.basename(path)} cannot be shown as a picture: {err}.") from err
        headers = {"Content-Disposition": _disposition(path), "ETag": tag}
        return web.Response(body=shown.data, content_type=shown.content_type, headers=headers)


# -- uploads ---------------------------------------------------------------------------------------


async def _put(received: str, place: uploads.Place) -> web.Response:
    try:
        name = await asyncio.to_thread(uploads.put, received, place)
    except OSError as err:
        raise BadBody(f"{place.name} cannot be written: {err.strerror}.") from err
    return answer(place.answer(name))


async def _put_mask(original: str, mask: str, place: uploads.Place) -> web.Response:
    handle, made = tempfile.mkstemp(".mask", dir=folder_paths.get_temp_directory())
    os.close(handle)
    try:
        kind = format_with_alpha(place.name)
        await asyncio.to_thread(with_alpha_of, original, mask, made, kind)
        return await _put(made, place)
    except BAD_PICTURE as err:
        raise BadBody(f"The mask cannot be laid over the picture: {err}.") from err
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)


def _original_of(text: str | None) -> str:
    """Path of the picture that a mask is for.

    Raises:
        BadBody: The reference is missing or has not the right form.
        web.HTTPForbidden: It leads out of its folder.
    """
    try:
        reference = json.loads(text or "")
        filename = reference["filename"]
        parts = [reference.get("subfolder") or "", reference.get("type") or "output"]
        if not all(isinstance(part, str) for part in (filename, *parts)):
            raise TypeError("its values must be texts")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as err:
        raise BadBody(
            "The field 'original_ref' must be JSON with the name of the picture that the mask is"
            f" for, as 'filename': {err}."
        ) from err
    return _find(filename, parts[0], parts[1])


# -- viewing ---------------------------------------------------------------------------------------


def _viewed(request: web.Request) -> str:
    """Path of the file that a request names.

    Raises:
        web.HTTPNotFound, BadBody, web.HTTPForbidden: See section 6.5 of the interface.
    """
    query = request.query
    if "filename" not in query:
        raise web.HTTPNotFound
    path = _find(query["filename"], query.get("subfolder", ""), query.get("type", "output"))
    if not os.path.isfile(path):
        raise web.HTTPNotFound
    return path


def _find(filename: str, subfolder: str, kind: str) -> str:
    """The path that a file name, perhaps with a folder in brackets, stands for."""
    name, folder = folder_paths.annotated_filepath(filename)
    if not name or name.startswith(("/", "\\")) or ".." in name:
        raise BadBody("The file's name must be a name without folders.")
    root = folder or folder_paths.get_directory_by_type(kind)
    if root is None:
        raise BadBody(f"The type {kind!r} is none of input, temp and output.")
    # Folders come apart from the name; what clients put before it counts for nothing.
    last = re.split(r"[/\\]", name)[-1]
    if not last or "\0" in last or inside("/", last) is None:
        raise BadBody("The file's name must be a name without folders.")
    path = inside(root, subfolder, last)
    if path is None:
        raise web.HTTPForbidden(text="The file would be outside the folder of its type.")
    return path


def _headers(path: str) -> dict[str, str]:
    """What a browser is told of a file that is given as it is."""
    kind = mimetypes.guess_type(path)[0] or _UNKNOWN
    headers = {"X-Content-Type-Options": "nosniff", "Content-Disposition": _disposition(path)}
    if _ACTIVE.fullmatch(kind):
        headers["Content-Disposition"] = f"attachment; {_disposition(path)}"
        headers["Content-Security-Policy"] = "sandbox; default-src 'none'"
        if kind != _PICTURE_WITH_SCRIPTS:
            kind = _UNKNOWN
    return {**headers, "Content-Type": kind}


def _disposition(path: str) -> str:
    name = re.sub(r'[\x00-\x1f\x7f"\\]', "_", os.path.basename(path))
    if name.isascii():
        return f'filename="{name}"'
    return f"filename=\"{name}\"; filename*=UTF-8''{quote(name, safe='')}"


def _tag(request: web.Request, path: str) -> str:
    """Another one for each state of a file and each way to show it."""
    facts = os.stat(path)
    shown = (request.query.get("preview", ""), request.query.get("channel", ""))
    return f'"{facts.st_mtime_ns:x}-{facts.st_size:x}-{quote("-".join(shown), safe="")}"'

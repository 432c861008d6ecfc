"""Uploads: received to a temporary file, then moved in one step to where they belong."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import shutil
import tempfile
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import BadHttpMessage

import folder_paths
import node_helpers
from api_server.utils.json_text import BadBody
from app.json_files import mode_for
from comfy import unfinished
from utils.safe_paths import inside

_PIECE_BYTES = 1 << 20

# Which name is free must still hold when it is taken.
_placing = threading.Lock()


@dataclass
class Upload:
    """What a form brought: one file, and texts."""

    received: str = ""
    """Path of the temporary file; empty until it comes."""

    name: str = ""
    """What the client calls the file."""

    fields: dict[str, str] = field(default_factory=dict)


@asynccontextmanager
async def receive(request: web.Request) -> AsyncIterator[Upload]:
    """Receive a form; its file is gone at the end of the block if nobody moved it.

    Args:
        request: With the file in the field ``image``.

    Raises:
        BadBody: It is no form, or has no file.
        web.HTTPRequestEntityTooLarge: It is larger than ``--max-upload-size``.
    """
    upload = Upload()
    try:
        await _read_form(request, upload)
        if not upload.received or not upload.name:
            raise BadBody("The form must have a file with a name in the field 'image'.")
        yield upload
    finally:
        if upload.received:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(upload.received)


async def _read_form(request: web.Request, upload: Upload) -> None:
    budget = _Budget(request)
    if not request.content_type.startswith("multipart/"):
        raise BadBody("The body must be a form of the type multipart/form-data.")
    try:
        form = await request.multipart()
        while (part := await form.next()) is not None:
            if not isinstance(part, BodyPartReader):
                raise BadBody("A form within a form is not understood.")
            if part.name == "image" and not upload.received:
                upload.name = part.filename or ""
                await _to_file(part, upload, budget)
            else:
                data = b"".join([piece async for piece in _pieces(part, budget)])
                upload.fields[part.name or ""] = data.decode()
    except (ValueError, AssertionError, BadHttpMessage) as err:
        raise BadBody(f"The form cannot be read: {err}.") from err


class _Budget:
    """Counts what a request brings; aiohttp itself limits only bodies that it reads whole."""

    def __init__(self, request: web.Request) -> None:
        self._limit = request.client_max_size
        self._used = 0
        if request.content_length is not None:
            self._check(request.content_length)

    def spend(self, nbytes: int) -> None:
        self._used += nbytes
        self._check(self._used)

    def _check(self, nbytes: int) -> None:
        if self._limit and nbytes > self._limit:
            raise web.HTTPRequestEntityTooLarge(max_size=self._limit, actual_size=nbytes)


async def _pieces(part: BodyPartReader, budget: _Budget) -> AsyncIterator[bytes]:
    while piece := await part.read_chunk(_PIECE_BYTES):
        budget.spend(len(piece))
        yield piece


async def _to_file(part: BodyPartReader, upload: Upload, budget: _Budget) -> None:
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    handle, upload.received = tempfile.mkstemp(".upload", dir=folder)
    with os.fdopen(handle, "wb") as stream:
        async for piece in _pieces(part, budget):
            await asyncio.to_thread(stream.write, piece)
        stream.flush()
        await asyncio.to_thread(os.fsync, stream.fileno())


# -- where it goes ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where an upload shall go."""

    folder: str
    """Absolute; name is relative to it."""

    name: str
    subfolder: str
    type: str
    may_replace: bool

    @property
    def path(self) -> str:
        """The file."""
        return os.path.join(self.folder, self.name)

    def answer(self, name: str) -> dict[str, Any]:
        """What the client is told of the name that was taken."""
        return {"name": name.replace(os.sep, "/"), "subfolder": self.subfolder, "type": self.type}


def place_of(upload: Upload) -> Place:
    """Where a form wants its file.

    Raises:
        BadBody: There is no such type of folder.
        web.HTTPBadRequest: The file would be outside the folder; the answer has no body.
    """
    kind = upload.fields.get("type") or "input"
    subfolder = upload.fields.get("subfolder", "")
    root = folder_paths.get_directory_by_type(kind)
    if root is None:
        raise BadBody(f"The type {kind!r} is none of input, temp and output.")
    folder = inside(root, subfolder)
    path = inside(root, subfolder, upload.name)
    if folder is None or path is None or path == folder or not path.startswith(folder + os.sep):
        raise web.HTTPBadRequest(text="")
    may_replace = upload.fields.get("overwrite", "").lower() in ("true", "1")
    return Place(folder, os.path.relpath(path, folder), subfolder, kind, may_replace)


def put(received: str, place: Place) -> str:
    """Move a received file to its place.

    Args:
        received: Gone afterwards, or of no use.
        place: If its name is taken by other content and may not be replaced, a number is added.

    Returns:
        The name that it got, or under which the same content was found.

    Raises:
        OSError: It cannot be put there.
    """
    os.makedirs(os.path.dirname(place.path), exist_ok=True)
    with _placing:
        if place.may_replace:
            _move(received, place.path)
            return place.name
        stem, extension = os.path.splitext(place.name)
        name, number, digest = place.name, 0, _digest(received)
        while os.path.lexists(path := os.path.join(place.folder, name)):
            if os.path.isfile(path) and _digest(path) == digest:
                return name
            number += 1
            name = f"{stem} ({number}){extension}"
        _move(received, path)
        return name


def _digest(path: str) -> bytes:
    found = node_helpers.hasher()()
    with open(path, "rb") as stream:
        while piece := stream.read(_PIECE_BYTES):
            found.update(piece)
    digest: bytes = found.digest()
    return digest


def _move(received: str, path: str) -> None:
    # Temporary files are the owner's alone.
    os.chmod(received, mode_for(path))
    try:
        os.replace(received, path)
    except OSError as err:
        if err.errno != errno.EXDEV:
            raise
        with unfinished.beside(path) as made:
            shutil.copy(received, made)
            os.replace(made, path)

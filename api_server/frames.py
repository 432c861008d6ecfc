"""Binary messages to pages: a number that says what follows, then the bytes."""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from typing import Any

from PIL import Image

from api_server.utils import json_text

Preview = tuple[str, Image.Image, "int | None"]
"""Kind of file ("JPEG" or "PNG"), picture, and the longest side it may have; None for any."""

JPEG, PNG = 1, 2

_QUALITY = 95
# Previews are gone in a moment: time matters more than size.
_COMPRESS_LEVEL = 1
_MODES_OF_JPEG = ("RGB", "L", "CMYK")


def _number(value: int) -> bytes:
    return struct.pack(">I", value)


def frame(event: int, payload: bytes | bytearray) -> bytes:
    """A message of a kind.

    Args:
        event: One of `protocol.BinaryEventTypes`, or a number of a pack.
        payload: The bytes that follow it.

    Raises:
        TypeError: The event is no number.
    """
    if isinstance(event, bool) or not isinstance(event, int):
        raise TypeError(
            f"A message of bytes needs a number as its event, not {event!r}. Send a dict as text, "
            "or use a number of protocol.BinaryEventTypes."
        )
    return _number(event) + bytes(payload)


def encode(preview: Preview) -> bytes:
    """The file of a picture, made smaller if one of its sides is too long."""
    kind, picture, longest = preview
    if longest is not None and max(picture.size) > longest:
        scale = longest / max(picture.size)
        size = [max(1, round(side * scale)) for side in picture.size]
        picture = picture.resize((size[0], size[1]), Image.Resampling.BILINEAR)
    if kind != "PNG" and picture.mode not in _MODES_OF_JPEG:
        picture = picture.convert("RGB")
    file = io.BytesIO()
    picture.save(
        file,
        format="PNG" if kind == "PNG" else "JPEG",
        quality=_QUALITY,
        compress_level=_COMPRESS_LEVEL,
    )
    return file.getvalue()


def plain_preview(preview: Preview) -> bytes:
    """What follows the number of a picture without a node: kind of file, file."""
    return _number(PNG if preview[0] == "PNG" else JPEG) + encode(preview)


def described_preview(preview: Preview, metadata: Mapping[str, Any]) -> bytes:
    """What follows the number of a picture with its node: length of the JSON, JSON, file."""
    kind = "image/png" if preview[0] == "PNG" else "image/jpeg"
    described = json_text.dumps({**metadata, "image_type": kind}).encode()
    return _number(len(described)) + described + encode(preview)


def node_text(text: str | bytes, node_id: str) -> bytes:
    """What follows the number of a text: length of the node's id, id, text."""
    node = node_id.encode()
    return _number(len(node)) + node + (text.encode() if isinstance(text, str) else bytes(text))

"""What a safetensors file says of itself, read without the library and without its tensors."""

from __future__ import annotations

import json
import struct
from typing import Any

_LENGTH = struct.Struct("<Q")


def read_metadata(path: str, limit_bytes: int) -> dict[str, Any] | None:
    """The ``__metadata__`` of a safetensors file.

    Args:
        path: The file; there need be nothing in it but its header.
        limit_bytes: A longer header is not read.

    Returns:
        It, or None if there is none, or the file is of another kind or damaged.

    Raises:
        OSError: The file cannot be read.

    Source:
        The format's own document: eight bytes of length, little-endian, then JSON.
    """
    with open(path, "rb") as stream:
        start = stream.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            return None
        (length,) = _LENGTH.unpack(start)
        if length > limit_bytes:
            return None
        text = stream.read(length)
    try:
        header = json.loads(text)
    except (ValueError, RecursionError):
        return None
    found = header.get("__metadata__") if isinstance(header, dict) else None
    return found if isinstance(found, dict) else None

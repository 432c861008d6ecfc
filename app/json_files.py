"""Small files of the program's own: written whole or not at all, and read even if damaged."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import tempfile
import time
from typing import Any, NoReturn

logger = logging.getLogger(__name__)

_UNFINISHED = ".unfinished"
_STALE_S = 3600.0


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of a write which did not end."""
    return name.startswith(".") and name.endswith(_UNFINISHED)


def write_whole(path: str, data: bytes) -> None:
    """Put bytes in a file so that at every moment it holds what it held before, or all of them.

    Args:
        path: The file; its folder must exist. A link keeps leading where it leads.
        data: What it shall hold.

    Raises:
        OSError: They could not be written; the file is as it was.
    """
    target = os.path.realpath(path)
    folder, name = os.path.split(target)
    # A long name has no room for more.
    handle, unfinished = tempfile.mkstemp(_UNFINISHED, f".{name[:40]}.", folder)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(unfinished, mode_for(target))
        os.replace(unfinished, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(unfinished)
        raise
    _sync_folder(folder)


def mode_for(path: str) -> int:
    """The rights of a file, or those that a new one would get."""
    try:
        return os.stat(path).st_mode & 0o7777
    except FileNotFoundError:
        # The only way to read the mask is to set it; a thread in between would get 0o077, no more.
        mask = os.umask(0o077)
        os.umask(mask)
        return 0o666 & ~mask


def _sync_folder(folder: str) -> None:
    """Let the new name outlast a loss of power; only POSIX lets folders be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as err:
        logger.debug("%s cannot be synchronised: %s", folder, err)
    finally:
        os.close(handle)


def remove_leftovers(folder: str) -> None:
    """Remove what writes left that a killed process did not end, in a folder and below it."""
    for root, _, names in os.walk(folder):
        for name in filter(is_unfinished, names):
            path = os.path.join(root, name)
            with contextlib.suppress(FileNotFoundError):
                # A younger one may belong to another process.
                if time.time() - os.path.getmtime(path) > _STALE_S:
                    os.unlink(path)


def write_json(path: str, value: Any) -> None:
    """Put a JSON value in a file, as `write_whole` does; the folder is made.

    Raises:
        OSError: It could not be written.
        ValueError: JSON has no form for the value.
    """
    text = json.dumps(value, indent=4, allow_nan=False)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    write_whole(path, text.encode("utf-8"))


def read_json_object(path: str) -> dict[str, Any]:
    """The JSON object in a file; empty if there is no file.

    A damaged file is told of and kept beside as ``.bak``, so that the next write does not end it.

    Raises:
        OSError: The file is there but cannot be read.
    """
    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except FileNotFoundError:
        return {}
    try:
        value = strict_loads(data)
        if not isinstance(value, dict):
            raise ValueError(f"it holds {type(value).__name__}, no object")
    except ValueError as err:
        aside = f"{path}.bak"
        os.replace(path, aside)
        logger.warning("%s is damaged (%s). It is kept as %s; we begin anew.", path, err, aside)
        return {}
    return value


def strict_loads(data: bytes | str) -> Any:
    """Read JSON as browsers do: without NaN and infinities.

    Raises:
        ValueError: It is no JSON, no Unicode, or nested too deeply.
    """
    try:
        return json.loads(data, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is no JSON")

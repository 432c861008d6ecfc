"""Small files of the program's own: written whole or not at all, and read even if damaged."""

from __future__ import annotations

import json
import logging
import os
from typing import Any, NoReturn

from comfy import unfinished

logger = logging.getLogger(__name__)


def write_whole(path: str, data: bytes) -> None:
    """Put bytes in a file so that at every moment it holds what it held before, or all of them.

    Args:
        path: The file; its folder must exist. A link keeps leading where it leads.
        data: What it shall hold.

    Raises:
        OSError: They could not be written; the file is as it was.
    """
    target = os.path.realpath(path)
    with unfinished.beside(target) as made:
        with open(made, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(made, mode_for(target))
        os.replace(made, target)
    _sync_folder(os.path.dirname(target))


def mode_for(path: str) -> int:
    """The rights of a file, or those that a new one would get."""
    try:
        return os.stat(path).st_mode & 0o7777
    except FileNotFoundError:
        return unfinished.new_file_mode()


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

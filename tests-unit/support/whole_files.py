"""Files of a program that was killed: each is whole, or not there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image


def whole_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, each read to its last byte.

    Raises:
        OSError: One is cut off.
        SyntaxError: One is damaged.
    """
    found = sorted(path for path in folder.rglob("*.png") if not path.name.startswith("."))
    for path in found:
        with Image.open(path) as picture:
            picture.load()
    return found


def whole_json(path: Path) -> Any:
    """The JSON in a file.

    Raises:
        ValueError: It is cut off.
    """
    return json.loads(path.read_bytes())


def unfinished(folder: Path) -> list[Path]:
    """What writes left that did not end: hidden files."""
    return sorted(path for path in folder.rglob(".*") if path.is_file())

"""Names that come from outside stay inside the folder they are meant for."""

from __future__ import annotations

import os
import re

_DRIVE = re.compile(r"[A-Za-z]:")


def inside(root: str, *parts: str) -> str | None:
    """Join names from a request to a folder, where they cannot leave it.

    Slashes and backslashes both separate, on every system: what is a name here may be a path on the
    machine that asks. A link below the folder is followed only as far as its target is inside too.

    Args:
        root: The folder; it need not exist.
        parts: Relative names; empty ones count for nothing.

    Returns:
        The absolute path, with no `..` in it, or None if the names are no relative path below the
        folder: absolute ones, drive letters, NUL, climbing out, also through links.
    """
    path = below(root, *parts)
    if path is None:
        return None
    real_root = os.path.realpath(root)
    try:
        shared = os.path.commonpath([real_root, os.path.realpath(path)])
    except ValueError:
        # Two drives share nothing.
        return None
    return path if shared == real_root else None


def below(root: str, *parts: str) -> str | None:
    """Join names as `inside` does, but follow links wherever they lead.

    For folders of models, in which people link to files of other programs.
    """
    names: list[str] = []
    for part in parts:
        if not _is_relative_name(part):
            return None
        for name in part.replace("\\", "/").split("/"):
            if name == "..":
                if not names:
                    return None
                names.pop()
            elif name not in ("", "."):
                names.append(name)
    return os.path.join(os.path.abspath(root), *names)


def _is_relative_name(part: str) -> bool:
    if part.startswith(("/", "\\")) or "\0" in part:
        return False
    # On Windows a colon further on names a hidden stream of a file.
    if ":" in part and os.name == "nt":
        return False
    if any(_DRIVE.match(name) for name in re.split(r"[/\\]", part)):
        return False
    try:
        os.fsencode(part)
    except UnicodeEncodeError:
        return False
    return True

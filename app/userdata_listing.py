"""Listings of users' folders."""

from __future__ import annotations

import contextlib
import os
from typing import Any

from comfy.unfinished import is_unfinished


def describe(path: str, name: str) -> dict[str, Any]:
    """What the page wants to know of a file.

    Args:
        path: Where it is.
        name: What the page calls it.

    Returns:
        The name as `path`, `size` in bytes, `modified` and `created` in seconds since 1970.

    Raises:
        OSError: It is not there, or may not be looked at.
    """
    facts = os.stat(path)
    return {
        "path": name,
        "size": facts.st_size,
        "modified": facts.st_mtime,
        "created": facts.st_ctime,
    }


def describe_all(folder: str, files: list[str]) -> list[dict[str, Any]]:
    """`describe` of files in a folder; those that went away meanwhile are left out."""
    told: list[dict[str, Any]] = []
    for file in files:
        with contextlib.suppress(FileNotFoundError):
            told.append(describe(os.path.join(folder, file), file.replace(os.sep, "/")))
    return told


def files_in(folder: str, *, recurse: bool) -> list[str]:
    """Names of files, sorted, relative to the folder; hidden ones and broken links are left out."""
    found: list[str] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if recurse and not name.startswith(".")]
        paths = (os.path.join(root, name) for name in names if not name.startswith("."))
        found += [os.path.relpath(path, folder) for path in paths if os.path.isfile(path)]
    return sorted(found)


def tree(root: str, folder: str) -> list[dict[str, Any]]:
    """All below a folder.

    Args:
        root: Paths are relative to it, with slashes.
        folder: It or one below it.

    Returns:
        Folders first, then by name without regard to case. Each has `name`, `path` and `type`;
        files also `size` in bytes and `modified` in seconds since 1970.
    """
    found: list[dict[str, Any]] = []
    for top, folders, names in os.walk(folder):
        found += [_entry(root, top, name, "directory") for name in folders]
        for name in names:
            path = os.path.join(top, name)
            if is_unfinished(name) or not os.path.isfile(path):
                continue
            with contextlib.suppress(FileNotFoundError):
                facts = os.stat(path)
                entry = _entry(root, top, name, "file")
                found.append({**entry, "size": facts.st_size, "modified": facts.st_mtime})
    return sorted(found, key=lambda entry: (entry["type"] != "directory", entry["name"].lower()))


def _entry(root: str, top: str, name: str, kind: str) -> dict[str, Any]:
    path = os.path.relpath(os.path.join(top, name), root)
    return {"name": name, "path": path.replace(os.sep, "/"), "type": kind}

"""What is in a folder, for routes that tell it."""

from __future__ import annotations

import os
from typing import Literal, TypedDict, TypeGuard


class FileInfo(TypedDict):
    """A file; its path is relative and has slashes, its size is in bytes."""

    name: str
    path: str
    type: Literal["file"]
    size: int


class DirectoryInfo(TypedDict):
    """A folder; its path is relative and has slashes."""

    name: str
    path: str
    type: Literal["directory"]


FileSystemItem = FileInfo | DirectoryInfo


def is_file_info(item: FileSystemItem) -> TypeGuard[FileInfo]:
    """Whether it is a file's."""
    return item["type"] == "file"


class FileSystemOperations:
    """Listings of folders."""

    @staticmethod
    def walk_directory(directory: str) -> list[FileSystemItem]:
        """List a folder and all below it, without following links to folders.

        Args:
            directory: Where to begin; one that is missing is empty.

        Returns:
            What is there, each folder before what is in it. Links that lead nowhere are left out.
        """
        found: list[FileSystemItem] = []
        for root, folders, files in os.walk(directory):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(root, name)
                if os.path.isfile(path):
                    size = os.path.getsize(path)
                    relative = _relative(path, directory)
                    found.append({"name": name, "path": relative, "type": "file", "size": size})
            for name in folders:
                relative = _relative(os.path.join(root, name), directory)
                found.append({"name": name, "path": relative, "type": "directory"})
        return found


def _relative(path: str, directory: str) -> str:
    return os.path.relpath(path, directory).replace(os.sep, "/")

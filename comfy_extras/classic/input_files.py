"""Files that nodes read by the name a user gives: in the input folder, or annotated otherwise."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import folder_paths


def input_names() -> list[str]:
    """The files at the top of the input folder, sorted."""
    folder = folder_paths.get_input_directory()
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())


def content_hash(name: str) -> str:
    """The hash of a file's content, by which a file that was replaced is read again."""
    return hashlib.sha256(Path(folder_paths.get_annotated_filepath(name)).read_bytes()).hexdigest()


def check_exists(name: str, kind: str) -> bool | str:
    """True, or what a user is told: that there is no such file of this kind."""
    if folder_paths.exists_annotated_filepath(name):
        return True
    return f"Invalid {kind} file: {name}"

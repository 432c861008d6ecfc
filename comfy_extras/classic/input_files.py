"""Files that nodes read by the name a user gives: in the input folder, or annotated otherwise."""

from __future__ import annotations

import hashlib
import math
import os
from pathlib import Path

import folder_paths
from comfy_execution.validation_errors import did_you_mean

_PART_BYTES = 2**20


def input_names() -> list[str]:
    """The files at the top of the input folder, sorted."""
    folder = folder_paths.get_input_directory()
    return sorted(entry.name for entry in os.scandir(folder) if entry.is_file())


def path_of(name: str) -> str:
    """The path of a file by its name, such as "sub/picture.png" or "picture.png [output]".

    A prompt may come from anybody, so that no name leads out of the folders for such files. Links in
    them are the user's own, and lead where they lead.

    Raises:
        ValueError: It does.
    """
    path = os.path.abspath(folder_paths.get_annotated_filepath(name))
    folders = (
        folder_paths.get_input_directory(),
        folder_paths.get_output_directory(),
        folder_paths.get_temp_directory(),
    )
    if not any(_is_below(path, folder) for folder in folders):
        raise ValueError(
            f"{name!r} is in none of the folders for input, output and temporary files. Copy the "
            "file to the input folder, or choose that with --input-directory."
        )
    return path


def _is_below(path: str, folder: str) -> bool:
    root = os.path.abspath(folder)
    try:
        return os.path.commonpath([root, path]) == root
    except ValueError:
        # Two drives share nothing.
        return False


def content_hash(name: str | None) -> str | float:
    """The hash of a file's content, by which a file that was replaced is read again.

    Args:
        name: None while another node is to give it: NaN, so that the file is read in any case.
    """
    if name is None:
        return math.nan
    found = hashlib.sha256()
    with Path(path_of(name)).open("rb") as file:
        # Films may be larger than memory.
        while part := file.read(_PART_BYTES):
            found.update(part)
    return found.hexdigest()


def check_exists(name: str | None, kind: str) -> bool | str:
    """True, or what a user is told: that there is no such file of this kind.

    Args:
        name: None while another node is to give it: nothing can be said yet.
        kind: Such as "image".
    """
    if name is None:
        return True
    try:
        if os.path.isfile(path_of(name)):
            return True
    except ValueError as err:
        return f"the {kind} file cannot be read: {err}"
    hint = did_you_mean(name, input_names()) or ". Upload it, or copy it to the input folder."
    return f"there is no {kind} file {name!r}{hint}"

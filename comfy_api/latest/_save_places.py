"""Where a node's files go, and what is written into them about the graph."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import folder_paths
from comfy import output_names
from comfy.image_saving import graph_metadata
from comfy_api.latest._saved import SavedResult
from comfy_api.latest._widget_options import FolderType


class Place(NamedTuple):
    """Names for files that do not exist yet.

    Attributes:
        folder: Where they are written.
        name: Start of their names.
        number: Of the first.
        subfolder: The folder below that of its kind.
        kind: "input", "output" or "temp".
    """

    folder: str
    name: str
    number: int
    subfolder: str
    kind: str

    def file(self, suffix: str, index: int = 0) -> tuple[Path, SavedResult]:
        """The path of one file, and what the page is told of it."""
        name = output_names.of_batch(self.name, index)
        full = f"{name}_{self.number + index:05}_.{suffix}"
        return Path(self.folder, full), SavedResult(full, self.subfolder, self.kind)


def place(prefix: str, folder_type: FolderType | str, width: int = 0, height: int = 0) -> Place:
    """Choose names that are free.

    Raises:
        ValueError: If there is no such kind of folder, or the prefix leads out of it.
    """
    kind = folder_type.value if isinstance(folder_type, Enum) else folder_type
    root = folder_paths.get_directory_by_type(kind)
    if root is None:
        known = ", ".join(member.value for member in FolderType)
        raise ValueError(f"No folder is of the kind {kind!r}. Take one of {known}.")
    folder, name, number, subfolder, _ = folder_paths.get_save_image_path(
        prefix, root, width, height
    )
    return Place(folder, name, number, subfolder, kind)


def prompt_and_extra(cls: Any) -> tuple[Any, Any]:
    """The prompt a node class runs in, and what goes with it; Nones without a class."""
    hidden = getattr(cls, "hidden", None)
    return getattr(hidden, "prompt", None), getattr(hidden, "extra_pnginfo", None)


def metadata_of(cls: Any) -> dict[str, str]:
    """JSON by key of the graph a node class runs in."""
    return graph_metadata(*prompt_and_extra(cls))

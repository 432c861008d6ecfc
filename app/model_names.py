"""What pages may know of where a model file lies: its kind and its name there, never more."""

from __future__ import annotations

import os
from dataclasses import dataclass

import folder_paths


@dataclass(frozen=True, slots=True)
class ModelName:
    """A file as menus show it.

    Attributes:
        folder: Kind of folder, such as "checkpoints"; empty if it is in none of them.
        name: Relative to that folder, with "/"; without folders if it is in none.
    """

    folder: str
    name: str

    def __str__(self) -> str:
        return f"{self.folder}/{self.name}" if self.folder else self.name


def model_name(path: str) -> ModelName:
    """Find the folder of models that a file is in; the innermost if there are several.

    Args:
        path: Absolute.
    """
    best, name = 0, ModelName("", os.path.basename(path))
    for key, (folders, _) in list(folder_paths.folder_names_and_paths.items()):
        for folder in folders:
            top = os.path.join(os.path.abspath(folder), "")
            if len(top) > best and path.startswith(top):
                best, name = len(top), ModelName(key, path[len(top) :].replace(os.sep, "/"))
    return name

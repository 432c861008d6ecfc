"""Folders of models that users name in a file, ``extra_model_paths.yaml``."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Any

import yaml

import folder_paths

logger = logging.getLogger(__name__)


def load_extra_path_config(yaml_path: str) -> None:
    """Look for models in the folders that a file names.

    Each section is a mapping of kinds of models to folders: one a line, or a list. Relative ones are
    below the section's ``base_path``, and that below the file's folder. With ``is_default`` a
    section's folders are searched before all others.

    Args:
        yaml_path: The file.

    Raises:
        OSError: The file cannot be read.
        yaml.YAMLError: It is no YAML.
        ValueError: It has another shape than described.
    """
    # Third parties' tests replace `open` and look for this very call.
    with open(yaml_path, "r", encoding="utf-8") as stream:  # noqa: UP015
        config = yaml.safe_load(stream)
    yaml_folder = os.path.dirname(os.path.abspath(yaml_path))
    for name, section in _mapping(config, f"{yaml_path}: the file").items():
        entries = _mapping(section, f"{yaml_path}: section '{name}'")
        is_default = bool(entries.pop("is_default", False))
        place = f"{yaml_path}: 'base_path' in section '{name}'"
        base = _base(entries.pop("base_path", None), yaml_folder, place)
        for kind, value in entries.items():
            for folder in _folders(value, f"{yaml_path}: '{kind}' in section '{name}'"):
                path = os.path.normpath(os.path.join(base, folder))
                logger.info("Models: %s are also looked for in %s", kind, path)
                folder_paths.add_model_folder_path(kind, path, is_default)


def _mapping(value: Any, what: str) -> dict[str, Any]:
    """A copy of a mapping; nothing at all is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"{what} must be a mapping of names to values, not {value!r}.")
    return dict(value)


def _base(base_path: Any, yaml_folder: str, what: str) -> str:
    if not base_path:
        return yaml_folder
    if not isinstance(base_path, str):
        raise ValueError(f"{what} must be the path of a folder, not {base_path!r}.")
    expanded = os.path.expandvars(os.path.expanduser(base_path))
    return os.path.abspath(os.path.join(yaml_folder, expanded))


def _folders(value: Any, what: str) -> Iterator[str]:
    lines = value.split("\n") if isinstance(value, str) else value
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise ValueError(f"{what} must be a text with a folder in each line, not {value!r}.")
    yield from (line.strip() for line in lines if line.strip())

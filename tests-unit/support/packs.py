"""Packs of custom nodes written to a folder."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import folder_paths
import nodes

ONE_NODE = """
    class {name}:
        RETURN_TYPES = ()
        FUNCTION = "run"

        @classmethod
        def INPUT_TYPES(cls):
            return {{"required": {{}}}}

    NODE_CLASS_MAPPINGS = {{"{name}": {name}}}
    NODE_DISPLAY_NAME_MAPPINGS = {{"{name}": "The {name}"}}
"""


def write_pack(folder: Path, name: str, files: dict[str, str]) -> Path:
    """Write a pack's files, with their indentation taken off.

    Args:
        folder: The folder of packs.
        name: The pack's own; with ".py" at its end the one file, "", is the pack.
        files: Texts by relative path.

    Returns:
        The pack.
    """
    pack = folder / name
    for file, text in files.items():
        path = pack / file if file else pack
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text), encoding="utf-8")
    return pack


def one_node(name: str) -> str:
    """The text of a module with one classic node."""
    return textwrap.dedent(ONE_NODE.format(name=name))


@contextmanager
def folder_of_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty folder, the only one with packs; what is loaded from it is forgotten at the end."""
    folder = tmp_path / "custom_nodes"
    folder.mkdir()
    kinds = {**folder_paths.folder_names_and_paths, "custom_nodes": ([str(folder)], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    for name in ("NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"):
        monkeypatch.setattr(nodes, name, dict(getattr(nodes, name)))
    monkeypatch.setattr(nodes, "LOADED_MODULE_DIRS", {})
    monkeypatch.setattr(nodes, "EXTENSION_WEB_DIRS", {})
    yield folder
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None) or name).startswith(str(tmp_path)):
            del sys.modules[name]

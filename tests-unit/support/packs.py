"""Packs of custom nodes written to a folder."""

from __future__ import annotations

import textwrap
from pathlib import Path

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

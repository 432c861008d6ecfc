"""A base directory for the program with what the examples need."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "workflows" / "text_to_image.json"
CHECKPOINT = "shapes_tiny_sd15.safetensors"


def furnish(folder: Path) -> Path:
    """Put the checkpoint and the packs that ship with the program where it looks for them.

    Args:
        folder: An existing folder, without models and packs.

    Returns:
        The folder.
    """
    (folder / "models").mkdir()
    os.symlink(ROOT / "models" / "checkpoints", folder / "models" / "checkpoints")
    (folder / "custom_nodes").mkdir()
    name = "websocket_image_save.py"
    os.symlink(ROOT / "custom_nodes" / name, folder / "custom_nodes" / name)
    return folder

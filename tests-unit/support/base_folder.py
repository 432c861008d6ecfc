"""A base directory for the program with what the examples need."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "workflows" / "text_to_image.json"
CHECKPOINT = "shapes_tiny_sd15.safetensors"


def link_checkpoint(folder: Path) -> None:
    """Put the checkpoint that ships with the program where it looks for them."""
    place = folder / "models" / "checkpoints"
    place.mkdir(parents=True, exist_ok=True)
    (place / CHECKPOINT).symlink_to(ROOT / "models" / "checkpoints" / CHECKPOINT)


def furnish(folder: Path) -> Path:
    """Put the checkpoint and the packs that ship with the program where it looks for them.

    Args:
        folder: An existing folder, without models and packs.

    Returns:
        The folder.
    """
    link_checkpoint(folder)
    (folder / "custom_nodes").mkdir()
    name = "websocket_image_save.py"
    (folder / "custom_nodes" / name).symlink_to(ROOT / "custom_nodes" / name)
    return folder

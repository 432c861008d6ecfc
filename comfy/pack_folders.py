"""Where packs of custom nodes are: the folders and files that are loaded, and those left out.

Imports no torch: packs may have a script that runs before it.
"""

from __future__ import annotations

import logging
import os

import comfy.cli_args
import folder_paths

logger = logging.getLogger(__name__)


def pack_paths() -> list[str]:
    """Folders and ``.py`` files of packs, in the order in which they are loaded.

    Left out are names that end in ``.disabled``, and with ``--disable-all-custom-nodes`` all that
    ``--whitelist-custom-nodes`` does not name.
    """
    return [
        os.path.join(folder, name)
        for folder in folder_paths.get_folder_paths("custom_nodes")
        for name in _names_in(folder)
        if _is_pack(folder, name) and _is_wanted(name)
    ]


def _names_in(folder: str) -> list[str]:
    """Names in a folder; none if it is not there, or cannot be read."""
    if not os.path.isdir(folder):
        return []
    try:
        return os.listdir(folder)
    except OSError as err:
        logger.error("Custom nodes in %s are not loaded, as it cannot be listed: %s", folder, err)
        return []


def _is_pack(folder: str, name: str) -> bool:
    if name == "__pycache__" or name.endswith(".disabled"):
        return False
    path = os.path.join(folder, name)
    return os.path.isdir(path) or (os.path.isfile(path) and name.endswith(".py"))


def _is_wanted(name: str) -> bool:
    args = comfy.cli_args.args
    return not args.disable_all_custom_nodes or name in args.whitelist_custom_nodes


def module_name(path: str) -> str:
    """What a pack is called: the name of its folder, or of its file without extension."""
    name = os.path.basename(os.path.normpath(path))
    return os.path.splitext(name)[0] if os.path.isfile(path) else name


def timing_report(timings: list[tuple[float, str, bool]]) -> str:
    """One line per pack: seconds, path, and whether it failed; the slowest last.

    Args:
        timings: Seconds, path and success of each pack.
    """
    return "\n".join(
        f"{seconds:8.1f} s{'' if worked else ' (IMPORT FAILED)'}: {path}"
        for seconds, path, worked in sorted(timings)
    )

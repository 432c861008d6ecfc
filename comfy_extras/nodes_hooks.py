"""Nodes of hooks; they are in `comfy_extras.hook_nodes`."""

from __future__ import annotations

from typing import Any

from comfy_extras.hook_nodes import conds, create, keyframes

_ROOMS = (create, keyframes, conds)

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {}
for _room in _ROOMS:
    NODE_CLASS_MAPPINGS.update(_room.NODE_CLASS_MAPPINGS)
    NODE_DISPLAY_NAME_MAPPINGS.update(_room.NODE_DISPLAY_NAME_MAPPINGS)

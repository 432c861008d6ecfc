"""The newest version of what custom nodes are written against."""

from __future__ import annotations

from comfy_api.latest import _io as io
from comfy_api.latest import _ui as ui
from comfy_api.latest._api import ComfyAPI, ComfyAPISync
from comfy_api.latest._extension import ComfyExtension
from comfy_api.latest._media import Input, InputImpl, Types

IO = io
UI = ui

__all__ = [
    "IO",
    "UI",
    "ComfyAPI",
    "ComfyAPISync",
    "ComfyExtension",
    "Input",
    "InputImpl",
    "Types",
    "io",
    "ui",
]

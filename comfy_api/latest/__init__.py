"""The newest version of what custom nodes are written against."""

from __future__ import annotations

from comfy_api.latest import _io as io
from comfy_api.latest import _ui as ui
from comfy_api.latest._extension import ComfyExtension

IO = io
UI = ui

__all__ = ["IO", "UI", "ComfyExtension", "io", "ui"]

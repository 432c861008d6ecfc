"""Version 0.0.2 of what custom nodes are written against."""

from __future__ import annotations

from comfy_api.latest import IO, UI, ComfyExtension, Input, InputImpl, Types, io, ui
from comfy_api.latest import ComfyAPI as _Latest
from comfy_api.latest import ComfyAPISync as _LatestSync


class ComfyAPI(_Latest):
    """For async nodes."""

    VERSION = "0.0.2"
    STABLE = False


class ComfyAPISync(_LatestSync):
    """The same for other nodes."""

    API = ComfyAPI


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

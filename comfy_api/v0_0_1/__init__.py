"""Version 0.0.1 of what custom nodes are written against."""

from __future__ import annotations

from comfy_api.latest import ComfyAPI as _Latest
from comfy_api.latest import ComfyAPISync as _LatestSync
from comfy_api.latest import Input, InputImpl, Types


class ComfyAPI(_Latest):
    """For async nodes."""

    VERSION = "0.0.1"
    STABLE = True


class ComfyAPISync(_LatestSync):
    """The same for other nodes."""

    API = ComfyAPI


__all__ = ["ComfyAPI", "ComfyAPISync", "Input", "InputImpl", "Types"]

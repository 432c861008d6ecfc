"""Types for classic nodes and for wrappers of models."""

from __future__ import annotations

from comfy.comfy_types.node_typing import (
    IO,
    CheckLazyMixin,
    ComfyNodeABC,
    FileLocator,
    InputTypeDict,
)
from comfy.comfy_types.unet_typing import (
    UnetApplyConds,
    UnetApplyFunction,
    UnetParams,
    UnetWrapperFunction,
)

__all__ = [
    "IO",
    "CheckLazyMixin",
    "ComfyNodeABC",
    "FileLocator",
    "InputTypeDict",
    "UnetApplyConds",
    "UnetApplyFunction",
    "UnetParams",
    "UnetWrapperFunction",
]

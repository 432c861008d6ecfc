"""Loading weights so that each exists once: in its file, on the host, or on a device.

A library: it imports nothing else of ``comfy``. The names below are found on first use, so that
flags can be read before torch is imported::

    from comfy.loading import load

    loaded = load("model.safetensors", device="cuda:0")
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from comfy.loading.default import configure as configure
    from comfy.loading.default import default_loader as default_loader
    from comfy.loading.default import load as load
    from comfy.loading.default import load_strategies as load_strategies
    from comfy.loading.default import register_load_strategy as register_load_strategy
    from comfy.loading.deferred import DeferredTensor as DeferredTensor
    from comfy.loading.errors import LoadError as LoadError
    from comfy.loading.file_tensor import FileTensor as FileTensor
    from comfy.loading.loader import LoadedFile as LoadedFile
    from comfy.loading.loader import Loader as Loader
    from comfy.loading.options import LoadOptions as LoadOptions
    from comfy.loading.plan import LoadRequest as LoadRequest
    from comfy.loading.reader import CancelToken as CancelToken
    from comfy.loading.saving import save_state_dict as save_state_dict
    from comfy.loading.sources import source_of as source_of

_HOMES = {
    "CancelToken": "reader",
    "DeferredTensor": "deferred",
    "FileTensor": "file_tensor",
    "LoadError": "errors",
    "LoadOptions": "options",
    "LoadRequest": "plan",
    "LoadedFile": "loader",
    "Loader": "loader",
    "configure": "default",
    "default_loader": "default",
    "load": "default",
    "load_strategies": "default",
    "register_load_strategy": "default",
    "save_state_dict": "saving",
    "source_of": "sources",
}

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'comfy.loading' has no attribute {name!r}")
    return getattr(importlib.import_module(f"comfy.loading.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)

"""The other side of ``load_torch_file``."""

from __future__ import annotations

import os
from typing import Any

import torch

from comfy.loading.grafted.activity import is_active, loader
from comfy.loading.plan import LoadRequest
from comfy.loading.rings import with_index


def load(
    path: str | os.PathLike[str], device: torch.device | str | int | None = None
) -> tuple[dict[str, Any], dict[str, str] | None] | None:
    """Load a checkpoint so that each weight exists once.

    Args:
        path: A safetensors file, the index of a sharded one, or a pickled checkpoint.
        device: Where the weights shall live, index included; None leaves each where the load
            strategy holds it.

    Returns:
        State dict and metadata (None if the format has none); None if loading is not ours to do.

    Raises:
        LoadError: Of the kind that fits; the errors for damaged files are ValueErrors, too.
    """
    if not is_active():
        return None
    target = None if device is None else with_index(torch.device(device))
    loaded = loader().open(LoadRequest(path=os.fspath(path), device=target))
    return loaded.state_dict, loaded.metadata

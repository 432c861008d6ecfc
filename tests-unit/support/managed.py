"""How models are loaded and managed for the time of one test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

import comfy.loading.default
import comfy.model_management
from comfy.loading import Loader, LoadOptions

MIB = 1 << 20


@contextmanager
def file_slices() -> Iterator[None]:
    """Weights stay in their files until they are needed; no model outlives the block."""
    loader = comfy.loading.default_loader()
    before = loader.options
    loader.configure(LoadOptions(strategy="file-slice"))
    try:
        yield
    finally:
        comfy.model_management.unload_all_models()
        loader.configure(before)


@contextmanager
def own_manager(device: torch.device, **options: Any) -> Iterator[Loader]:
    """Run networks on a device, with a loader of its own and a manager that knows no models yet.

    Args:
        device: A simulated one.
        options: Of the loader, which keeps nothing free for other programs.
    """
    with pytest.MonkeyPatch.context() as patch:
        loader = Loader(LoadOptions(**{"reserve_bytes": 0, **options}), run_device=device)
        patch.setattr(comfy.loading.default, "_default", loader)
        patch.setattr(comfy.model_management, "_set_device", device)
        patch.setattr(comfy.model_management, "current_loaded_models", [])
        try:
            yield loader
        finally:
            comfy.model_management.unload_all_models()


@contextmanager
def small_manager(device: torch.device, **options: Any) -> Iterator[Loader]:
    """The same on a device of a few MiB: it holds a narrow network and a test's activations."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comfy.model_management, "minimum_inference_memory", lambda: 0)
        with own_manager(device, **{"staging_bytes": 1 * MIB, **options}) as loader:
            yield loader

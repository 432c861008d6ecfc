"""The process's own Loader, and the functions that most callers need."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

import torch

from comfy.loading.loader import LoadedFile, Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.reader import CancelToken, Progress
from comfy.loading.registry import StrategyFactory

_default: Loader | None = None
_default_lock = threading.Lock()


def default_loader() -> Loader:
    """The process's Loader, made on first use from flags or environment."""
    global _default  # noqa: PLW0603 - the one default instance of this package
    with _default_lock:
        if _default is None:
            _default = Loader()
        return _default


def configure(options: LoadOptions, run_device: torch.device | str | None = None) -> Loader:
    """Set what the default Loader does from now on.

    Args:
        options: Of the parsed flags.
        run_device: Where weights will be executed; unchanged if None.
    """
    loader = default_loader()
    loader.configure(options)
    if run_device is not None:
        loader.run_device = torch.device(run_device)
    return loader


def load(
    path: str,
    *,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    keys: Iterable[str] | None = None,
    options: LoadOptions | None = None,
    strategy: str | None = None,
    cancel: CancelToken | None = None,
    progress: Progress | None = None,
) -> LoadedFile:
    """Load a checkpoint with the default Loader.

    Args:
        path: A safetensors file, the index of a sharded one, or a pickled checkpoint.
        device: Where the weights shall live; None leaves them as the strategy holds them.
        dtype: For floating weights; None keeps each as it is in the file.
        keys: Which tensors; all if None.
        options: Instead of the flags.
        strategy: Instead of the options' strategy.
        cancel: Stops the load within one request of reading.
        progress: Told (bytes done, bytes in all).

    Raises:
        LoadError: Of the kind that fits; see `comfy.loading.errors`.
    """
    loader = default_loader()
    chosen = loader.options if options is None else options
    if strategy is not None:
        chosen = replace(chosen, strategy=strategy)
    request = LoadRequest(
        path=str(path),
        device=None if device is None else torch.device(device),
        dtype=dtype,
        keys=None if keys is None else frozenset(keys),
    )
    return loader.open(request, options=chosen, cancel=cancel, progress=progress)


def register_load_strategy(name: str, factory: StrategyFactory | str) -> None:
    """Add a strategy to the default Loader; see `StrategyRegistry.register`."""
    default_loader().registry.register(name, factory)


def load_strategies() -> Mapping[str, StrategyFactory | str]:
    """The default Loader's strategies by name, read-only."""
    return default_loader().registry.names()

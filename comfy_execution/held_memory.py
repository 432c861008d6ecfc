"""How much host memory goes when a result goes, and which results hold models at home."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any

import torch

import comfy.model_management
from comfy import device_memory
from comfy.loading.file_tensor import FileTensor
from comfy.loading.sources import is_mapped

logger = logging.getLogger(__name__)

_TENSOR_SHARE = 0.5
"""Tensors weigh half: most are small beside what it takes to compute them again."""


def models_at_home() -> set[int]:
    """Ids of the modules whose weights, some at least, the model manager has on a device."""
    return {
        id(entry.model.model)
        for entry in comfy.model_management.current_loaded_models
        if entry.model is not None and entry.model_loaded_memory() > 0
    }


def host_bytes(value: Any) -> float:
    """Estimate what dropping a result frees.

    Args:
        value: A cache entry, or anything of lists, dicts, tensors and objects.

    Returns:
        Bytes; each tensor counted half and once, objects as their ``get_ram_usage`` tells.
    """
    total = 0.0
    storages: set[int] = set()
    for one in _parts(value):
        if isinstance(one, torch.Tensor):
            total += _tensor_bytes(one, storages)
            continue
        total += _answer(one, "get_ram_usage") or 0
    return total


def modules_in(value: Any) -> set[int]:
    """Ids of the modules of all models in a result."""
    leaves = (one for one in _parts(value) if not isinstance(one, torch.Tensor))
    modules = (module for one in leaves for module in _modules(one))
    return {id(module) for module in modules if isinstance(module, torch.nn.Module)}


def _answer(one: Any, question: str) -> Any:
    """What an object says of itself; None if it has no such function, or that fails."""
    function = getattr(one, question, None)
    if isinstance(one, type) or not callable(function):
        return None
    try:
        return function()
    except Exception as err:  # noqa: BLE001 - a pack's object; the prompt that runs has no part in it
        # One line: it is asked again after each node for as long as memory is short.
        logger.warning("%s of a kept %s failed: %s", question, type(one).__qualname__, err)
        return None


def _parts(value: Any) -> Iterator[Any]:
    """The leaves of nested containers, each container entered once."""
    waiting = [value]
    seen: set[int] = set()
    while waiting:
        one = waiting.pop()
        inner: list[Any] | None = None
        if isinstance(one, Mapping):
            inner = list(one.values())
        elif isinstance(one, (list, tuple, set, frozenset)):
            inner = list(one)
        if inner is None:
            yield one
        elif id(one) not in seen:
            seen.add(id(one))
            waiting += inner


def _tensor_bytes(tensor: torch.Tensor, storages: set[int]) -> float:
    """Bytes of a tensor's storage that are host memory and not counted yet."""
    if tensor.device.type != "cpu" and not device_memory.is_unified(tensor.device):
        return 0.0
    if tensor.layout is not torch.strided:
        # Such have no storage to ask; the size of the dense one stands for theirs.
        return _TENSOR_SHARE * tensor.numel() * tensor.element_size()
    if (isinstance(tensor, FileTensor) and tensor.is_in_file) or is_mapped(tensor):
        return 0.0
    storage = tensor.untyped_storage()
    if storage.data_ptr() in storages:
        return 0.0
    storages.add(storage.data_ptr())
    return _TENSOR_SHARE * storage.nbytes()


def _modules(one: Any) -> Iterator[Any]:
    """The modules of a patcher, and of what wraps one: text encoders, autoencoders, controls."""
    for name in ("model", "patcher", "control_model_wrapped"):
        inner = getattr(one, name, None)
        if name == "model":
            yield inner
        elif inner is not None:
            yield getattr(inner, "model", None)
    for patcher in _answer(one, "get_models") or ():
        yield getattr(patcher, "model", None)

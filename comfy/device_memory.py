"""Memory of devices and modules, in bytes: what there is, what is free, what must stay free."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from collections.abc import Callable
from typing import Any

import torch

import comfy.loading
from comfy.loading.hardware import HardwareProfile
from comfy.loading.memory import Pool, device_pool, host_pool, reusable_bytes
from comfy.loading.rings import with_index

logger = logging.getLogger(__name__)

MIB = 1 << 20
GIB = 1 << 30

_INFERENCE_BYTES = int(0.8 * GIB)
_RESERVE_BYTES = 400 * MIB
_WINDOWS_RESERVE_BYTES = 600 * MIB
# Windows gives a large card's memory to the desktop, too.
_WINDOWS_LARGE_CARD_BYTES = 100 * MIB
_LARGE_CARD_BYTES = 15 * GIB


def profile(device: torch.device) -> HardwareProfile:
    """Facts about a device, asked once per process."""
    return comfy.loading.default_loader().profile(with_index(device))


def is_unified(device: torch.device) -> bool:
    """Whether a device's memory is the host's."""
    return device.type not in ("cpu", "meta") and profile(device).unified


def pool(device: torch.device) -> Pool:
    """What a device's memory can give now; the host's is seen through its control groups."""
    host = host_pool()
    return host if device.type == "cpu" else device_pool(profile(device), host)


def share_memory(one: torch.device, other: torch.device) -> bool:
    """Whether two devices take from the same memory."""
    if one == other:
        return True
    return all(device.type == "cpu" or is_unified(device) for device in (one, other))


def unused_by_allocator(device: torch.device) -> int:
    """Bytes that torch's allocator holds on a device without using them."""
    return 0 if device.type == "cpu" else reusable_bytes(profile(device))


def held_by_allocator(device: torch.device) -> int:
    """Bytes that torch's allocator holds on a device, used or not; all of it where it tells none."""
    if device.type in ("cuda", "xpu"):
        return int(torch.get_device_module(device).memory_reserved(device))
    return pool(device).total


def extra_reserved(
    flag_gib: float | None, total_bytes: Callable[[], int], platform: str = sys.platform
) -> int:
    """Tell how much device memory is left to others.

    Args:
        flag_gib: ``--reserve-vram`` in GiB, or None.
        total_bytes: Tells the memory of the device; asked on Windows only.
        platform: As ``sys.platform``.
    """
    if flag_gib is not None:
        return int(flag_gib * GIB)
    if platform != "win32":
        return _RESERVE_BYTES
    is_large = total_bytes() > _LARGE_CARD_BYTES
    return _WINDOWS_RESERVE_BYTES + (_WINDOWS_LARGE_CARD_BYTES if is_large else 0)


def minimum_inference(reserved_bytes: int) -> int:
    """Tell what a forward pass is taken to need if nobody estimates it."""
    return _INFERENCE_BYTES + reserved_bytes


def empty_cache(device: torch.device) -> None:
    """Give back what allocators hold without using it, torch's and the host's; collects garbage."""
    gc.collect()
    _trim_heap()
    if device.type == "mps":
        torch.mps.empty_cache()
        return
    if device.type == "cpu":
        return
    module: Any = torch.get_device_module(device)
    for name in ("synchronize", "empty_cache"):
        function = getattr(module, name, None)
        if function is not None:
            function()


def _trim_heap() -> None:
    """Let glibc give back freed memory between blocks in use, and its reserve of 64 MiB at the end."""
    if sys.platform.startswith("linux"):
        # Other C libraries have no such function.
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(ctypes.c_size_t(0))


def summary(device: torch.device) -> str:
    """Describe a device's memory for a log."""
    if device.type == "cuda":
        return str(torch.cuda.memory.memory_summary(device))
    now = pool(device)
    return f"{now.name}: {now.free / MIB:,.0f} of {now.total / MIB:,.0f} MiB free"


def module_size(module: torch.nn.Module) -> int:
    """Add up a module's weights, in bytes; a weight that is still in its file counts in full."""
    return sum(int(tensor.nbytes) for tensor in module.state_dict().values())


def dtype_size(dtype: torch.dtype) -> int:
    """Size of one element in bytes."""
    return int(dtype.itemsize)

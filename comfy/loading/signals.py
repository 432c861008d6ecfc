"""Raw signals about the machine: what drivers and the kernel report, without a judgement.

`HardwareSources` bundles them as callables, so that a test can be any machine. Asking never
raises: a driver that cannot be asked leaves its facts unknown.
"""

from __future__ import annotations

import contextlib
import ctypes
import logging
import mmap
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

logger = logging.getLogger(__name__)

# Numbers of CUdevice_attribute (cuda.h).
CUDA_INTEGRATED = 18
CUDA_HOST_REGISTER_SUPPORTED = 99
CUDA_USES_HOST_PAGE_TABLES = 100


@dataclass(frozen=True, slots=True)
class DriverFacts:
    """What a driver tells through torch; None where it does not.

    Attributes:
        index: Number of the device.
        total_bytes: Memory it calls its own.
        is_integrated: Whether it says that this memory is the host's.
        error: Why it told nothing, or "".
    """

    index: int | None = None
    total_bytes: int | None = None
    is_integrated: bool | None = None
    error: str = ""


@dataclass(frozen=True, slots=True)
class AmdgpuMemory:
    """Memory of one AMD GPU as the kernel counts it, in bytes.

    Attributes:
        vram_total: Memory set aside for the GPU.
        gtt_total: Host memory that it may map.
        gtt_used: Host memory that it has mapped.
    """

    vram_total: int
    gtt_total: int
    gtt_used: int


def amdgpu_memory(root: Path = Path("/")) -> tuple[AmdgpuMemory, ...]:
    """Read the kernel's counters of all AMD GPUs; empty where there are none.

    Args:
        root: Where the system's tree begins.
    """
    found = []
    for card in sorted(root.glob("sys/class/drm/card*/device")):
        names = ("mem_info_vram_total", "mem_info_gtt_total", "mem_info_gtt_used")
        with contextlib.suppress(OSError, ValueError):
            found.append(AmdgpuMemory(*(int((card / name).read_text()) for name in names)))
    return tuple(found)


def _platform() -> str:
    if sys.platform == "linux" and "microsoft" in platform.release().lower():
        return "wsl"
    return sys.platform


def _cpu_count() -> int:
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def _host_total_bytes() -> int:
    return int(psutil.virtual_memory().total)


def _ask_driver(device: torch.device) -> DriverFacts:
    """Ask torch; a driver that refuses leaves the facts unknown."""
    try:
        if device.type == "mps":
            return DriverFacts(device.index, int(torch.mps.recommended_max_memory()), True)
        module = torch.get_device_module(device)
        index = device.index if device.index is not None else int(module.current_device())
        properties = module.get_device_properties(index)
    except (RuntimeError, AssertionError, AttributeError) as err:
        # Every Mac that has MPS has one memory, whether or not its driver answers.
        integrated = True if device.type == "mps" else None
        error = str(err) or type(err).__name__
        return DriverFacts(device.index, is_integrated=integrated, error=error)
    name = "is_integrated_gpu" if device.type == "xpu" else "is_integrated"
    flag: Any = getattr(properties, name, None)
    integrated = None if flag is None else bool(flag)
    return DriverFacts(index, int(properties.total_memory), integrated)


def _ask_libcuda(attribute: int, index: int) -> int | None:
    """Read a device attribute without a context; None where there is no driver or no such thing."""
    value, handle = ctypes.c_int(), ctypes.c_int()
    try:
        library = ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")
        codes = (
            library.cuInit(0)
            or library.cuDeviceGet(ctypes.byref(handle), index)
            or library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
        )
    except (OSError, AttributeError) as err:
        logger.debug("device attribute %d not read: %s", attribute, err)
        return None
    return None if codes else value.value


@dataclass(frozen=True, slots=True)
class HardwareSources:
    """Where facts come from; tests give their own.

    Attributes:
        platform: ``sys.platform``, or "wsl".
        cpu_count: CPUs that this process may use.
        page_bytes: Size of a page of the system.
        host_total_bytes: Physical memory of the host.
        is_hip: Whether torch's "cuda" is HIP.
        is_directml: Whether the private backend is DirectML's.
        driver: Facts of an accelerator, through torch.
        cuda_attribute: ``(attribute, index)`` to its value; None if unknown.
        amdgpu: The kernel's counters of AMD GPUs.
    """

    platform: Callable[[], str] = _platform
    cpu_count: Callable[[], int] = _cpu_count
    page_bytes: Callable[[], int] = lambda: mmap.PAGESIZE
    host_total_bytes: Callable[[], int] = _host_total_bytes
    is_hip: Callable[[], bool] = lambda: torch.version.hip is not None
    is_directml: Callable[[], bool] = lambda: "torch_directml" in sys.modules
    driver: Callable[[torch.device], DriverFacts] = _ask_driver
    cuda_attribute: Callable[[int, int], int | None] = _ask_libcuda
    amdgpu: Callable[[], tuple[AmdgpuMemory, ...]] = amdgpu_memory

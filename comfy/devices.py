"""Which device for what: pure choices from flags and facts.

`comfy.model_management` is the public face; it supplies the flags, the run device and the memory
policy, each of which custom nodes may replace there.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import os
from collections.abc import Callable
from typing import Any, Literal

import torch

from comfy.loading.errors import FlagConflict

CPU = torch.device("cpu")
_INDEXED = ("cuda", "xpu", "npu", "mlu")
_RENUMBERED = ("cuda", "npu")

Kind = Literal["cpu", "cuda", "hip", "xpu", "mps", "npu", "mlu", "directml", "other"]


class VRAMState(enum.Enum):
    """How freely device memory is used."""

    DISABLED = 0
    NO_VRAM = 1
    LOW_VRAM = 2
    NORMAL_VRAM = 3
    HIGH_VRAM = 4
    SHARED = 5


class CPUState(enum.Enum):
    """Where networks run."""

    GPU = 0
    CPU = 1
    MPS = 2


def kind(device: torch.device) -> Kind:
    """Tell who serves a device: torch's "cuda" is HIP on AMD, "privateuseone" may be DirectML's."""
    if device.type == "cuda":
        return "cuda" if torch.version.hip is None else "hip"
    if device.type == "privateuseone":
        return "directml"
    known: tuple[Kind, ...] = ("cpu", "xpu", "mps", "npu", "mlu")
    return next((name for name in known if name == device.type), "other")


def choose(
    flags: Any,
    found: Callable[[], torch.device],
    visible: str | None = None,
) -> torch.device:
    """Choose the device on which networks run.

    Args:
        flags: The parsed command line.
        found: Tells the device to take if no flag says otherwise.
        visible: ``CUDA_VISIBLE_DEVICES``; the process's if None.

    Returns:
        The CPU under ``--cpu`` or where there is nothing else.

    Raises:
        FlagConflict: If ``--directml`` is given and its package is missing.
    """
    if flags.cpu:
        return CPU
    if flags.directml is not None:
        return _directml(flags.directml)
    device = found()
    if flags.default_device is None or device.type not in _INDEXED:
        return device
    order = os.environ.get("CUDA_VISIBLE_DEVICES", "") if visible is None else visible
    is_first = order.split(",")[0].strip() == str(flags.default_device)
    # What stands first there, put by the start of the program or a launcher, has become number 0.
    is_renumbered = is_first and device.type in _RENUMBERED
    return torch.device(device.type, 0 if is_renumbered else flags.default_device)


def _directml(index: int) -> torch.device:
    if importlib.util.find_spec("torch_directml") is None:
        raise FlagConflict(
            "--directml needs the package torch-directml, which is not installed.",
            hint="Install it, or leave the flag out.",
        )
    package = importlib.import_module("torch_directml")
    device: torch.device = package.device(package.default_device() if index < 0 else index)
    return device


def vram_state(flags: Any, device: torch.device, is_unified: Callable[[], bool]) -> VRAMState:
    """Tell how freely device memory is used.

    Args:
        flags: The parsed command line; its word counts most.
        device: Where networks run.
        is_unified: Whether its memory is the host's; asked only if no flag decides.
    """
    if device.type == "cpu":
        return VRAMState.DISABLED
    if flags.lowvram:
        return VRAMState.LOW_VRAM
    if flags.novram:
        return VRAMState.NO_VRAM
    if flags.highvram or flags.gpu_only:
        return VRAMState.HIGH_VRAM
    if flags.normalvram or not is_unified():
        return VRAMState.NORMAL_VRAM
    return VRAMState.SHARED


def cpu_state(device: torch.device) -> CPUState:
    """Tell where networks run from the run device."""
    return {"cpu": CPUState.CPU, "mps": CPUState.MPS}.get(device.type, CPUState.GPU)


def device_name(device: torch.device) -> str:
    """Describe a device for people: its torch name and what its driver calls it."""
    if device.type in ("cpu", "mps", "meta"):
        return device.type
    try:
        name = torch.get_device_module(device).get_device_name(device)
    except (RuntimeError, AttributeError):
        return str(device)
    if device.type != "cuda":
        return f"{device} {name}"
    return f"{device} {name} : {torch.cuda.get_allocator_backend()}"


# -- questions about one device ------------------------------------------------------------------


def is_device_type(device: Any, type: str) -> bool:
    """Whether a device is of a type; False for what is no device."""
    return bool(getattr(device, "type", None) == type)


def is_device_cpu(device: Any) -> bool:
    """Whether it is the CPU."""
    return is_device_type(device, "cpu")


def is_device_mps(device: Any) -> bool:
    """Whether it is Apple's GPU."""
    return is_device_type(device, "mps")


def is_device_xpu(device: Any) -> bool:
    """Whether it is Intel's GPU."""
    return is_device_type(device, "xpu")


def is_device_cuda(device: Any) -> bool:
    """Whether torch calls it "cuda": NVIDIA's or AMD's."""
    return is_device_type(device, "cuda")


def get_autocast_device(device: Any) -> str:
    """Name a device's type for ``torch.autocast``."""
    return str(getattr(device, "type", "cuda"))

"""Which device for what, from flags and facts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfy import devices
from comfy.devices import CPUState, VRAMState
from comfy.loading.errors import FlagConflict

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
_OFF = dict.fromkeys(("cpu", "lowvram", "novram", "highvram", "normalvram", "gpu_only"), False)


def flags(**given: Any) -> Any:
    return SimpleNamespace(**{**_OFF, "directml": None, "default_device": None, **given})


@pytest.mark.parametrize(
    ("given", "found", "visible", "chosen"),
    [
        ({}, CUDA, "", CUDA),
        ({}, CPU, "", CPU),
        ({"cpu": True}, CUDA, "", CPU),
        ({"default_device": 1}, CUDA, "", torch.device("cuda", 1)),
        ({"default_device": 1}, CUDA, "1,0", CUDA),
        ({"default_device": 1}, torch.device("xpu", 0), "1,0", torch.device("xpu", 1)),
        ({"default_device": 1}, CPU, "", CPU),
    ],
)
def test_flags_choose_among_what_is_found(
    given: dict[str, Any], found: torch.device, visible: str, chosen: torch.device
) -> None:
    assert devices.choose(flags(**given), lambda: found, visible) == chosen


def test_directml_without_its_package_is_an_error() -> None:
    with pytest.raises(FlagConflict, match="torch-directml"):
        devices.choose(flags(directml=-1), lambda: CPU)


@pytest.mark.parametrize(
    ("given", "device", "is_unified", "state"),
    [
        ({}, CPU, False, VRAMState.DISABLED),
        ({}, CUDA, False, VRAMState.NORMAL_VRAM),
        ({}, CUDA, True, VRAMState.SHARED),
        ({"normalvram": True}, CUDA, True, VRAMState.NORMAL_VRAM),
        ({"lowvram": True}, CUDA, True, VRAMState.LOW_VRAM),
        ({"novram": True}, CUDA, False, VRAMState.NO_VRAM),
        ({"gpu_only": True}, CUDA, False, VRAMState.HIGH_VRAM),
        ({"highvram": True}, CPU, False, VRAMState.DISABLED),
    ],
)
def test_vram_state(
    given: dict[str, Any], device: torch.device, is_unified: bool, state: VRAMState
) -> None:
    assert devices.vram_state(flags(**given), device, lambda: is_unified) is state


@pytest.mark.parametrize(
    ("device", "state"),
    [("cpu", CPUState.CPU), ("mps", CPUState.MPS), ("cuda", CPUState.GPU), ("xpu", CPUState.GPU)],
)
def test_cpu_state(device: str, state: CPUState) -> None:
    assert devices.cpu_state(torch.device(device)) is state


def test_what_is_no_device_is_of_no_type() -> None:
    assert not devices.is_device_cpu(None)
    assert devices.is_device_cuda(CUDA)
    assert devices.get_autocast_device(torch.device("mps")) == "mps"

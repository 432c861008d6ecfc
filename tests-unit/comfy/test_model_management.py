"""The public face: variables that are answered late, assignments that are honoured, single tensors."""

from __future__ import annotations

import gc
import pickle
from typing import Any

import pytest
import torch

import comfy.interrupts
import comfy.loading.default
import comfy.model_management as management
from comfy.loading import Loader, LoadOptions
from comfy.loading.devices import DeviceFull
from support.simulated_device import SimulatedDevice

CPU = torch.device("cpu")


@pytest.fixture
def own_loader(monkeypatch: pytest.MonkeyPatch) -> Loader:
    """A default loader that other tests do not see."""
    loader = Loader(LoadOptions(), run_device="cpu")
    monkeypatch.setattr(comfy.loading.default, "_default", loader)
    monkeypatch.setattr(management, "_set_device", None)
    return loader


def test_unknown_names_are_no_attributes() -> None:
    assert not hasattr(management, "no_such_name")


@pytest.mark.parametrize("name", sorted(management._ANSWERS))
def test_every_answered_variable_has_an_answer(name: str) -> None:
    assert name not in vars(management)
    assert getattr(management, name) is not None


def test_set_run_device_is_what_loading_plans_for(
    own_loader: Loader, simgpu: SimulatedDevice
) -> None:
    management.set_run_device("simgpu")
    assert management.get_torch_device() == own_loader.run_device == simgpu.device
    assert management.vram_state == management.VRAMState.SHARED
    assert management.vae_device() == management.text_encoder_device() == simgpu.device
    assert management.unet_offload_device() == management.intermediate_device() == CPU
    management.set_run_device(None)
    assert management.get_torch_device() == own_loader.run_device


def test_the_cpu_flag_is_what_loading_plans_for(
    own_loader: Loader, simgpu: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_loader.run_device = simgpu.device
    assert management.get_torch_device() == simgpu.device
    monkeypatch.setattr(management.args, "cpu", True)
    assert management.get_torch_device() == own_loader.run_device == CPU


def test_assigned_variables_are_honoured(
    own_loader: Loader, simgpu: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_loader.run_device = simgpu.device
    monkeypatch.setitem(vars(management), "vram_state", management.VRAMState.HIGH_VRAM)
    assert management.unet_offload_device() == simgpu.device
    monkeypatch.setitem(vars(management), "cpu_state", management.CPUState.CPU)
    assert management.get_torch_device() == CPU
    assert management.cpu_mode()
    monkeypatch.setitem(vars(management), "EXTRA_RESERVED_VRAM", 7)
    assert management.extra_reserved_memory() == 7


def test_a_replaced_device_is_used_by_our_own_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    other = torch.device("cuda", 3)
    monkeypatch.setattr(management, "get_torch_device", lambda: other)
    assert management.vae_device() == other
    assert management.is_nvidia() is (torch.version.hip is None)


@pytest.mark.parametrize("is_unified", [True, False])
def test_free_memory_of_a_limited_device(
    own_loader: Loader, simgpu: SimulatedDevice, is_unified: bool
) -> None:
    simgpu.is_unified = is_unified
    simgpu.capacity_bytes = simgpu.allocated_bytes + (64 << 20)
    free, by_torch = management.get_free_memory(simgpu.device, torch_free_too=True)
    assert (free, by_torch) == (64 << 20, 0)
    assert management.get_total_memory(simgpu.device) == simgpu.capacity_bytes


def test_a_full_device_raises_what_nodes_catch() -> None:
    error = DeviceFull(5, 1, "memory of x")
    assert isinstance(error, management.OOM_EXCEPTION)
    assert isinstance(error, MemoryError)
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), copy.need, str(copy)) == (DeviceFull, 5, str(error))


def test_an_interrupt_stops_once() -> None:
    management.throw_exception_if_processing_interrupted()
    management.interrupt_current_processing()
    assert management.processing_interrupted()
    assert management.interrupt_processing
    with pytest.raises(management.InterruptProcessingException):
        management.throw_exception_if_processing_interrupted()
    assert not management.processing_interrupted()
    management.interrupt_current_processing()
    management.interrupt_current_processing(False)
    management.throw_exception_if_processing_interrupted()


def test_there_is_one_class_of_interrupts() -> None:
    known = comfy.interrupts.InterruptProcessingException
    assert management.InterruptProcessingException is known


@pytest.mark.parametrize(
    ("changes", "is_same"),
    [({}, True), ({"dtype": torch.float32}, True), ({"copy": True}, False)],
)
def test_cast_to_copies_only_if_it_must(changes: dict[str, Any], is_same: bool) -> None:
    weight = torch.ones(3)
    result = management.cast_to(weight, **changes)
    assert (result is weight) is is_same
    assert torch.equal(result, weight)


def test_cast_to_changes_dtype_and_device(simgpu: SimulatedDevice) -> None:
    result = management.cast_to(torch.ones(3), torch.float16, simgpu.device)
    assert (result.dtype, result.device) == (torch.float16, simgpu.device)
    assert management.cast_to(None) is None
    back = management.cast_to_device(result, CPU, None)
    assert (back.dtype, back.device) == (torch.float16, CPU)


def test_devices_without_streams_have_none() -> None:
    assert management.get_offload_stream(CPU) is None
    assert management.current_stream(CPU) is None
    management.sync_stream(CPU, None)
    assert not management.device_supports_non_blocking(CPU)


def test_pinned_memory_is_released_by_request_or_with_its_tensor(
    own_loader: Loader, simgpu: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    own_loader.run_device = simgpu.device
    first, second = torch.zeros(100), torch.zeros(10, 10)
    assert management.pin_memory(first)
    assert management.pin_memory(second)
    assert sorted(simgpu.registered.values()) == [400, 400]
    assert not management.pin_memory(first)
    assert management.unpin_memory(first)
    assert not management.unpin_memory(first)
    del second
    gc.collect()
    assert simgpu.registered == {}


def test_what_cannot_be_pinned_is_not(own_loader: Loader, simgpu: SimulatedDevice) -> None:
    assert not management.pin_memory(torch.zeros(4))
    own_loader.run_device = simgpu.device
    simgpu.can_register = False
    assert not management.pin_memory(torch.zeros(4))
    assert not management.pin_memory(torch.zeros(4, 4).t()[:2])
    assert not management.pin_memory(torch.zeros(4, device=simgpu.device))


@pytest.mark.parametrize(
    ("flag", "ask", "told"),
    [
        ("use_split_cross_attention", management.pytorch_attention_enabled, False),
        ("use_pytorch_cross_attention", management.pytorch_attention_enabled, True),
        ("use_sage_attention", management.sage_attention_enabled, True),
        ("use_flash_attention", management.flash_attention_enabled, True),
    ],
)
def test_attention_flags(monkeypatch: pytest.MonkeyPatch, flag: str, ask: Any, told: bool) -> None:
    monkeypatch.setattr(management.args, flag, True)
    assert ask() is told


def test_sizes_are_in_bytes() -> None:
    assert management.module_size(torch.nn.Linear(4, 3).half()) == (4 * 3 + 3) * 2
    assert management.dtype_size(torch.bfloat16) == 2
    assert management.total_ram == management.get_total_memory(CPU) / (1 << 20)


@pytest.mark.parametrize(
    ("flag", "total", "platform", "mib"),
    [(2.5, 0, "linux", 2560), (None, 0, "linux", 400), (None, 8 << 30, "win32", 600)],
)
def test_memory_left_to_others(flag: float | None, total: int, platform: str, mib: int) -> None:
    reserved = management.device_memory.extra_reserved(flag, lambda: total, platform)
    assert reserved == mib << 20

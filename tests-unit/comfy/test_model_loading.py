"""Models come to a device and give way to others: least recently used first, nothing half-loaded."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.model_management as management
from comfy import device_memory
from comfy.loaded_models import LoadedModel
from comfy.loading import FileTensor
from comfy.loading.errors import NotEnoughMemory
from support import managed
from support.simulated_device import SimulatedDevice
from support.small_network import DEVICE, Checkpoint, Network, run

MIB = 1 << 20


@pytest.fixture(autouse=True)
def manager(simgpu: SimulatedDevice) -> Iterator[SimulatedDevice]:
    """A manager without models, whose run device is the simulated one with little staging."""
    with managed.small_manager(DEVICE):
        yield simgpu


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "model.safetensors")


def on_device(patcher: Any) -> int:
    """Bytes of a model's weights on the device."""
    return sum(one.nbytes for one in patcher.model.parameters() if one.device == DEVICE)


def is_in_file(patcher: Any) -> bool:
    return all(isinstance(one, FileTensor) and one.is_in_file for one in patcher.model.parameters())


def test_a_model_is_loaded_once_and_computes(checkpoint: Checkpoint) -> None:
    patcher = checkpoint.patcher()
    management.load_models_gpu([patcher, patcher])
    management.load_model_gpu(patcher)
    assert on_device(patcher) == checkpoint.nbytes
    assert management.loaded_models() == [patcher]
    assert torch.equal(run(patcher.model), checkpoint.expected())


def test_unloading_gives_all_memory_back(checkpoint: Checkpoint, simgpu: SimulatedDevice) -> None:
    before = simgpu.allocated_bytes
    patcher = checkpoint.patcher()
    management.load_model_gpu(patcher)
    management.unload_all_models()
    assert management.current_loaded_models == []
    assert is_in_file(patcher)
    assert simgpu.allocated_bytes == before


def test_a_model_that_is_gone_has_no_bytes_at_home(checkpoint: Checkpoint) -> None:
    patcher = checkpoint.patcher()
    management.load_model_gpu(patcher)
    (loaded,) = management.current_loaded_models
    assert loaded.model_loaded_memory() == checkpoint.nbytes
    del patcher
    gc.collect()
    assert loaded.model_memory() == loaded.model_loaded_memory() == 0
    assert loaded.model_offloaded_memory() == 0


def test_the_least_recently_used_gives_way(checkpoint: Checkpoint, simgpu: SimulatedDevice) -> None:
    first, second, third = (checkpoint.patcher() for _ in range(3))
    simgpu.capacity_bytes = simgpu.allocated_bytes + int(3.5 * checkpoint.nbytes)
    management.load_models_gpu([first, second])
    management.load_model_gpu(first)
    management.load_models_gpu([third], memory_required=checkpoint.nbytes // 2)
    assert management.loaded_models()[:2] == [third, first]
    assert on_device(third) == on_device(first) == checkpoint.nbytes
    assert on_device(second) < checkpoint.nbytes


def test_a_model_larger_than_the_device_is_loaded_in_part(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    expected = checkpoint.expected()
    patcher = checkpoint.patcher()
    gc.collect()
    simgpu.capacity_bytes = simgpu.allocated_bytes + int(0.9 * checkpoint.nbytes)
    management.load_model_gpu(patcher)
    assert 0 < on_device(patcher) < checkpoint.nbytes
    simgpu.reset_peak()
    assert torch.equal(run(patcher.model), expected)
    assert simgpu.peak_bytes <= simgpu.capacity_bytes


def test_what_one_model_read_ahead_goes_when_another_is_loaded(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    first, second = checkpoint.patcher(), checkpoint.patcher()
    gc.collect()
    management.get_total_memory(DEVICE)  # is asked once, and shall be more than for `first`
    before = simgpu.allocated_bytes
    simgpu.capacity_bytes = before + int(0.9 * checkpoint.nbytes)
    management.load_model_gpu(first)
    # The second pass knows that after the last layer the first one may come again.
    run(first.model)
    run(first.model)
    simgpu.capacity_bytes = None
    management.load_model_gpu(second)
    assert on_device(second) == checkpoint.nbytes
    assert simgpu.allocated_bytes - before == on_device(first) + on_device(second)


def test_what_cannot_run_is_refused_before_a_byte_is_read(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    patcher = checkpoint.patcher()
    simgpu.capacity_bytes = simgpu.allocated_bytes + 1000
    with pytest.raises(NotEnoughMemory, match=r"needs .* Network") as caught:
        management.load_model_gpu(patcher)
    assert caught.value.need > caught.value.available
    assert (is_in_file(patcher), simgpu.counters.uploads) == (True, 0)
    assert management.current_loaded_models == []


def test_a_whole_load_that_does_not_fit_is_refused(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    patcher = checkpoint.patcher()
    simgpu.capacity_bytes = simgpu.allocated_bytes + int(0.9 * checkpoint.nbytes)
    with pytest.raises(management.OOM_EXCEPTION):
        management.load_models_gpu([patcher], force_full_load=True)
    assert is_in_file(patcher)


def test_full_half_way_others_give_way_and_the_second_try_succeeds(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    first, second = checkpoint.patcher(), checkpoint.patcher()
    management.load_model_gpu(first)
    simgpu.fail_allocation(4)
    management.load_model_gpu(second)
    assert on_device(second) == checkpoint.nbytes
    assert is_in_file(first)
    assert management.loaded_models() == [second]
    assert torch.equal(run(second.model), checkpoint.expected())


def test_full_half_way_no_model_of_the_same_call_gives_way(
    checkpoint: Checkpoint, simgpu: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    other, first, second = (checkpoint.patcher() for _ in range(3))
    management.load_model_gpu(other)
    load = type(second).partially_load

    def with_an_allocation_that_fails(patcher: Any, *args: Any, **kwargs: Any) -> int:
        if patcher is second and is_in_file(second) and not is_in_file(other):
            simgpu.fail_allocation(3)
        return load(patcher, *args, **kwargs)

    monkeypatch.setattr(type(second), "partially_load", with_an_allocation_that_fails)
    management.load_models_gpu([first, second])
    assert on_device(first) == on_device(second) == checkpoint.nbytes
    assert is_in_file(other)
    assert management.loaded_models() == [second, first]
    assert torch.equal(run(first.model), checkpoint.expected())


def test_full_twice_is_one_error_with_numbers_and_nothing_half_loaded(
    checkpoint: Checkpoint, simgpu: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    patcher = checkpoint.patcher()
    before = simgpu.allocated_bytes
    # The figures say that there is room, and the device has none.
    monkeypatch.setattr(management, "get_free_memory", lambda *args: 1 << 40)
    monkeypatch.setattr(management.admission, "demand_room", lambda *args: None)
    simgpu.capacity_bytes = before + 1000
    with pytest.raises(management.OOM_EXCEPTION, match="did not fit") as caught:
        management.load_model_gpu(patcher)
    assert caught.value.need > 0  # type: ignore[attr-defined]  # of comfy.loading's DeviceFull
    assert is_in_file(patcher)
    assert management.current_loaded_models == []
    assert simgpu.allocated_bytes == before
    monkeypatch.undo()
    simgpu.capacity_bytes = None


def test_an_error_of_another_kind_leaves_nothing_half_loaded(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    patcher = checkpoint.patcher()
    simgpu.fail_upload(3)
    with pytest.raises(RuntimeError, match="copy engine failed"):
        management.load_model_gpu(patcher)
    assert is_in_file(patcher)
    assert management.current_loaded_models == []
    management.load_model_gpu(patcher)
    assert torch.equal(run(patcher.model), checkpoint.expected())


def test_a_clone_takes_over_what_is_on_the_device(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    patcher = checkpoint.patcher()
    management.load_model_gpu(patcher)
    uploads = simgpu.counters.uploads
    clone = patcher.clone()
    management.load_model_gpu(clone)
    assert management.loaded_models() == [clone]
    assert simgpu.counters.uploads == uploads
    assert on_device(clone) == checkpoint.nbytes


def test_a_patched_clone_and_its_parent_take_turns(checkpoint: Checkpoint) -> None:
    patcher = checkpoint.patcher()
    clone = patcher.clone()
    delta = torch.ones_like(checkpoint.values["embed.weight"])
    assert clone.add_patches({"embed.weight": ("diff", (delta,))}, 0.5)
    for one, change in ((patcher, 0.0), (clone, 0.5), (patcher, 0.0)):
        management.load_model_gpu(one)
        expected = checkpoint.values["embed.weight"] + change
        assert torch.equal(one.model.embed.weight.cpu(), expected)


def test_a_clone_that_is_gone_leaves_its_parent_in_charge(checkpoint: Checkpoint) -> None:
    patcher = checkpoint.patcher()
    clone = patcher.clone()
    management.load_model_gpu(clone)
    del clone
    gc.collect()
    assert management.loaded_models() == [patcher]
    management.unload_all_models()
    assert is_in_file(patcher)


def test_a_model_that_nobody_holds_is_forgotten(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    gc.collect()
    before = simgpu.allocated_bytes
    management.load_model_gpu(checkpoint.patcher())
    gc.collect()
    management.cleanup_models()
    assert management.current_loaded_models == []
    assert simgpu.allocated_bytes == before


def test_a_model_may_go_by_itself_while_it_is_being_unloaded(
    checkpoint: Checkpoint, simgpu: SimulatedDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    gc.collect()
    before = simgpu.allocated_bytes
    holders = [checkpoint.patcher()]
    management.load_model_gpu(holders[0])
    original = management.get_free_memory

    def as_the_garbage_collector_comes(*args: Any, **kwargs: Any) -> Any:
        holders.clear()
        gc.collect()
        return original(*args, **kwargs)

    monkeypatch.setattr(management, "get_free_memory", as_the_garbage_collector_comes)
    management.unload_all_models()
    assert management.current_loaded_models == []
    assert simgpu.allocated_bytes == before


def test_activations_push_the_model_itself_back_to_its_file(
    checkpoint: Checkpoint, simgpu: SimulatedDevice
) -> None:
    patcher = checkpoint.patcher()
    gc.collect()
    simgpu.capacity_bytes = simgpu.allocated_bytes + int(2.5 * checkpoint.nbytes)
    management.load_model_gpu(patcher)
    assert on_device(patcher) == checkpoint.nbytes
    management.load_models_gpu([patcher], memory_required=int(1.8 * checkpoint.nbytes))
    assert on_device(patcher) < checkpoint.nbytes
    assert management.get_free_memory(DEVICE) >= 1.8 * checkpoint.nbytes


def test_novram_streams_everything_that_can_be_streamed(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management.args, "novram", True)
    patcher = checkpoint.patcher()
    management.load_model_gpu(patcher)
    assert on_device(patcher) < checkpoint.nbytes // 4
    assert torch.equal(run(patcher.model), checkpoint.expected())


def test_without_smart_memory_others_always_give_way(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(management.args, "disable_smart_memory", True)
    first, second = checkpoint.patcher(), checkpoint.patcher()
    management.load_model_gpu(first)
    management.load_model_gpu(second)
    assert management.loaded_models() == [second]
    assert is_in_file(first)


def test_a_replaced_function_is_what_loading_calls(
    checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = management.free_memory

    def spy(*args: Any, **kwargs: Any) -> Any:
        calls.append(args[1])
        return original(*args, **kwargs)

    monkeypatch.setattr(management, "free_memory", spy)
    management.load_model_gpu(checkpoint.patcher())
    assert calls == [DEVICE]


def test_loaded_models_tells_what_is_in_use(checkpoint: Checkpoint) -> None:
    first, second = checkpoint.patcher(), checkpoint.patcher()
    management.load_model_gpu(first)
    management.load_model_gpu(second)
    assert management.loaded_models() == [second, first]
    assert management.loaded_models(only_currently_used=True) == [second]


@pytest.mark.parametrize("is_unified", [True, False])
def test_host_tensors_need_no_second_place_where_host_and_device_share_memory(
    checkpoint: Checkpoint,
    simgpu: SimulatedDevice,
    monkeypatch: pytest.MonkeyPatch,
    is_unified: bool,
) -> None:
    network = Network()
    network.load_state_dict(
        {key: one.clone() for key, one in checkpoint.values.items()}, assign=True
    )
    patcher = checkpoint.patcher(network)
    monkeypatch.setattr(device_memory, "is_unified", lambda device: is_unified)
    # Enough for the staging, one cast weight, and half of the weights.
    free = MIB + MIB // 8 + checkpoint.nbytes // 2
    monkeypatch.setattr(management, "get_free_memory", lambda *args, **kwargs: free)
    management.load_model_gpu(patcher)
    assert (on_device(patcher) == checkpoint.nbytes) is is_unified


def test_a_patcher_of_a_pack_need_not_tell_where_its_weights_are(checkpoint: Checkpoint) -> None:
    class Plain:
        load_device = DEVICE

        def __init__(self, model: torch.nn.Module) -> None:
            self.model = model

    network = checkpoint.network("readinto")
    silent, telling = Plain(network), checkpoint.patcher(network)
    LoadedModel(silent).drop_ahead()
    assert LoadedModel(silent).given_back() == 0
    assert LoadedModel(telling).given_back() == checkpoint.nbytes

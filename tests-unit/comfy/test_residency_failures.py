"""Where a model's weights are when a load fails: all in their file, and nothing is lost."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading import FileTensor
from comfy.loading.errors import DeviceCopyFailed, LoadError, NotEnoughMemory, WeightFileChanged
from support.raw_files import write_safetensors
from support.simulated_device import SimulatedDevice
from support.small_network import BLOCKS, CPU, DEVICE, WIDTH, Checkpoint, run

LAYER_BYTES = WIDTH * WIDTH * 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "model.safetensors")


def _all_in_file(network: torch.nn.Module) -> bool:
    return all(isinstance(one, FileTensor) and one.is_in_file for one in network.parameters())


def _assert_unloaded(patcher: Any, simgpu: SimulatedDevice) -> None:
    # Errors that other tests caught form cycles with what those tests held.
    gc.collect()
    assert _all_in_file(patcher.model)
    assert simgpu.allocated_bytes == 0
    assert patcher.loaded_size() == 0
    assert patcher.model.device == CPU
    assert patcher.model.current_weight_patches_uuid is None


def test_a_full_device_leaves_all_weights_in_the_file_and_the_next_load_works(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    simgpu.capacity_bytes = checkpoint.nbytes - LAYER_BYTES
    with pytest.raises(NotEnoughMemory, match=r"blocks|norm|embed") as caught:
        patcher.patch_model(DEVICE)
    assert caught.value.path == str(checkpoint.path)
    # The error is still held here.
    _assert_unloaded(patcher, simgpu)
    simgpu.capacity_bytes = None
    patcher.patch_model(DEVICE)
    assert torch.equal(run(patcher.model), checkpoint.expected())


@pytest.mark.parametrize("nth", [1, 3, 2 * BLOCKS])
def test_an_allocation_that_fails_half_way_loses_nothing(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, nth: int
) -> None:
    patcher = checkpoint.patcher()
    simgpu.fail_allocation(nth)
    with pytest.raises(NotEnoughMemory):
        patcher.patch_model(DEVICE)
    _assert_unloaded(patcher, simgpu)
    patcher.patch_model(DEVICE)
    assert simgpu.allocated_bytes == checkpoint.nbytes


def test_a_full_device_while_patching_is_told_with_the_weight(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.add_patches({"blocks.2.weight": ("diff", (torch.ones(WIDTH, WIDTH),))})
    simgpu.capacity_bytes = checkpoint.nbytes
    with pytest.raises(NotEnoughMemory) as caught:
        patcher.patch_model(DEVICE)
    assert caught.value.tensor == "blocks.2.weight"
    _assert_unloaded(patcher, simgpu)


def test_a_copy_that_fails_is_told_and_leaves_all_weights_in_the_file(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    simgpu.fail_upload(4)
    with pytest.raises(DeviceCopyFailed):
        patcher.patch_model(DEVICE)
    _assert_unloaded(patcher, simgpu)


def test_a_file_that_was_replaced_between_two_loads_is_never_taken_for_the_old_one(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.patch_model(DEVICE)
    patcher.detach()
    other = checkpoint.path.with_suffix(".new")
    write_safetensors(other, {key: value + 1 for key, value in checkpoint.values.items()})
    os.replace(other, checkpoint.path)
    with pytest.raises(WeightFileChanged) as caught:
        patcher.patch_model(DEVICE)
    assert isinstance(caught.value, LoadError)
    _assert_unloaded(patcher, simgpu)


def test_a_file_that_is_replaced_while_its_weights_are_streamed_stops_the_pass(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.load(DEVICE, 0)
    run(patcher.model)
    patcher.cleanup()
    other = checkpoint.path.with_suffix(".new")
    write_safetensors(other, {key: value + 1 for key, value in checkpoint.values.items()})
    os.replace(other, checkpoint.path)
    with pytest.raises(WeightFileChanged):
        run(patcher.model)
    patcher.detach()
    _assert_unloaded(patcher, simgpu)

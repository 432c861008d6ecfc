"""Weights that no file has: on the host or on the device, and on both only as long as they must."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch

from comfy.residency import residency_of
from comfy.residency_weights import SMALL_BYTES
from support.simulated_device import SimulatedDevice
from support.small_network import DEVICE, WIDTH, Checkpoint, Network, assert_values, run

LAYER_BYTES = WIDTH * WIDTH * 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "model.safetensors")


def _without_files(checkpoint: Checkpoint) -> Network:
    network = Network()
    network.load_state_dict(
        {key: value.clone() for key, value in checkpoint.values.items()}, assign=True
    )
    return network


def _on_host(network: Network) -> int:
    return sum(one.nbytes for one in network.parameters() if one.is_cpu)


def test_a_weight_that_no_file_has_is_on_the_host_or_on_the_device(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = _without_files(checkpoint)
    held = {key: weakref.ref(one) for key, one in network.named_parameters()}
    patcher = checkpoint.patcher(network)
    assert patcher.get_ram_usage() == checkpoint.nbytes
    for _ in range(2):
        patcher.patch_model(DEVICE)
        assert torch.equal(run(network), checkpoint.expected())
        small = sum(one.nbytes for one in network.parameters() if one.nbytes <= SMALL_BYTES)
        assert patcher.get_ram_usage() == small
        large = [key for key, one in network.named_parameters() if one.nbytes > SMALL_BYTES]
        assert [held[key]() for key in large] == [None] * len(large)
        assert simgpu.allocated_bytes == checkpoint.nbytes
        patcher.detach()
        assert simgpu.allocated_bytes == 0
        assert _on_host(network) == patcher.get_ram_usage() == checkpoint.nbytes
        assert_values(network, checkpoint.values)


def test_a_patched_weight_that_no_file_has_stays_on_the_host_until_it_is_unpatched(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = _without_files(checkpoint)
    patcher, key = checkpoint.patcher(network), "blocks.0.weight"
    patcher.patch_model(DEVICE)
    patched = patcher.clone()
    patched.add_patches({key: (torch.ones(WIDTH, WIDTH),)})
    before = patcher.get_ram_usage()
    for _ in range(2):
        patched.patch_model(DEVICE)
        assert torch.equal(network.blocks[0].weight.cpu(), checkpoint.values[key] + 1)
        assert patched.get_ram_usage() == before + LAYER_BYTES
        assert simgpu.allocated_bytes == checkpoint.nbytes
        patcher.patch_model(DEVICE)
        assert torch.equal(network.blocks[0].weight.cpu(), checkpoint.values[key])
        assert patcher.get_ram_usage() == before
    patcher.detach()
    assert_values(network, checkpoint.values)


def test_a_weight_that_no_file_has_loses_nothing_by_a_cast(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = _without_files(checkpoint)
    residency_of(network).weight_dtype = torch.float16
    patcher = checkpoint.patcher(network)
    patcher.patch_model(DEVICE)
    assert {one.dtype for one in network.parameters()} == {torch.float16}
    patcher.detach()
    assert_values(network, checkpoint.values)


@pytest.mark.parametrize("strategy", ["file-slice", "readinto", None])
def test_what_arriving_weights_give_back_is_what_the_host_holds_of_them(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, strategy: str | None
) -> None:
    has_files = strategy is not None
    network = checkpoint.network(strategy) if has_files else _without_files(checkpoint)
    patcher = checkpoint.patcher(network)
    residency = residency_of(network)
    small = sum(one.nbytes for one in network.parameters() if one.nbytes <= SMALL_BYTES)
    held = {"file-slice": 0, "readinto": checkpoint.nbytes, None: checkpoint.nbytes - small}
    assert residency.given_back(network, patcher) == held[strategy]
    patcher.add_patches({"blocks.0.weight": (torch.ones(WIDTH, WIDTH),)})
    kept = 0 if has_files else LAYER_BYTES
    assert residency.given_back(network, patcher) == held[strategy] - kept


def test_a_small_table_that_no_file_has_keeps_its_place_on_the_host(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    network.register_buffer("table", torch.arange(5.0))
    table = network.table
    patcher = checkpoint.patcher(network)
    patcher.patch_model(DEVICE)
    assert network.table.device == DEVICE
    patcher.detach()
    assert network.table is table

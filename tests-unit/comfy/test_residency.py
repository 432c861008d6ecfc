"""Where a model's weights are while it is loaded, partly loaded and unloaded."""

from __future__ import annotations

import copy
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.ops
import comfy.progress
import comfy.utils
from comfy.attributes import get_attr, set_attr_param
from comfy.loading import FileTensor, source_of
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.sources import is_mapped
from comfy.model_patcher import ModelPatcher
from comfy.residency import residency_of
from support.raw_files import write_safetensors
from support.simulated_device import SimulatedDevice
from support.small_network import (
    CPU,
    DEVICE,
    WIDTH,
    Checkpoint,
    Network,
    an_input,
    assert_values,
    run,
)

STRATEGIES = ["file-slice", "readinto", "mmap"]
LAYER_BYTES = WIDTH * WIDTH * 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "model.safetensors")


def _file_of(network: torch.nn.Module) -> Any:
    source = source_of(next(network.parameters()))
    assert source is not None
    return source.file


def _all_in_file(network: torch.nn.Module) -> bool:
    return all(isinstance(one, FileTensor) and one.is_in_file for one in network.parameters())


# -- load and unload -------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_loaded_model_is_on_the_device_once_and_computes_the_same(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, strategy: str
) -> None:
    network = checkpoint.network(strategy)
    patcher = checkpoint.patcher(network)
    patcher.patch_model(DEVICE)
    assert {one.device for one in network.parameters()} == {DEVICE}
    assert simgpu.allocated_bytes == checkpoint.nbytes == patcher.loaded_size()
    assert (simgpu.counters.h2d_bytes, simgpu.counters.d2h_bytes) == (0, 0)
    assert torch.equal(run(network), checkpoint.expected())


def test_every_byte_of_the_file_is_read_once_per_load_and_none_otherwise(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    patcher, file = checkpoint.patcher(network), _file_of(network)
    start = file.bytes_read
    patcher.model_size()
    patcher.clone()
    assert file.bytes_read == start
    for loads in (1, 2, 3):
        patcher.patch_model(DEVICE)
        patcher.patch_model(DEVICE)
        run(network)
        patcher.detach()
        assert file.bytes_read == start + loads * checkpoint.nbytes


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_an_unloaded_model_is_in_its_file_and_has_the_very_bytes(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, strategy: str
) -> None:
    network = checkpoint.network(strategy)
    patcher = checkpoint.patcher(network)
    patcher.patch_model(DEVICE)
    patcher.detach()
    assert _all_in_file(network)
    assert simgpu.allocated_bytes == 0
    assert simgpu.counters.d2h_bytes == 0
    assert (patcher.loaded_size(), network.device) == (0, CPU)
    assert_values(network, checkpoint.values)


def test_a_load_tells_each_weight_s_bytes_to_the_hook_and_a_second_one_nothing(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int, str | None]] = []

    def hook(value: int, total: int, *args: object, **kwargs: object) -> None:
        told.append((value, total, comfy.progress.file_in_progress.get()))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    monkeypatch.setattr(comfy.progress, "HOOK_INTERVAL_S", -1.0)
    patcher = checkpoint.patcher(checkpoint.network())
    patcher.patch_model(DEVICE)
    assert [value for value, _, _ in told] == sorted({value for value, _, _ in told})
    assert told[-1] == (checkpoint.nbytes, checkpoint.nbytes, "Network")
    told.clear()
    patcher.patch_model(DEVICE)
    assert told == []


@pytest.mark.parametrize("strategy", ["readinto", "mmap"])
def test_no_host_tensor_outlives_its_way_to_the_device(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, strategy: str
) -> None:
    network = checkpoint.network(strategy)
    storages = [weakref.ref(one.untyped_storage()) for one in network.parameters()]
    held = [weakref.ref(one) for one in network.parameters()]
    checkpoint.patcher(network).patch_model(DEVICE)
    assert [one() for one in held] == [None] * len(held)
    assert storages


def test_the_parameters_of_an_unloaded_model_are_the_very_objects_of_before(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    before = dict(network.named_parameters())
    seen = {key: weakref.ref(one) for key, one in before.items()}
    patcher = checkpoint.patcher(network)
    patcher.patch_model(DEVICE)
    assert all(one is not before[key] for key, one in network.named_parameters())
    del before
    patcher.detach()
    assert all(seen[key]() is one for key, one in network.named_parameters())


def test_tied_weights_stay_tied_and_are_moved_once(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    network.blocks[1].weight = network.embed.weight
    patcher = checkpoint.patcher(network)
    assert patcher.model_size() == checkpoint.nbytes - LAYER_BYTES
    for _ in range(2):
        patcher.patch_model(DEVICE)
        assert network.blocks[1].weight is network.embed.weight
        assert network.embed.weight.device == DEVICE
        assert simgpu.allocated_bytes == checkpoint.nbytes - LAYER_BYTES
        patcher.detach()
        assert network.blocks[1].weight is network.embed.weight
        assert _all_in_file(network)


def test_two_names_of_one_range_of_the_file_share_one_tensor(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network, state = Network(), checkpoint.state()
    state["blocks.1.weight"] = state["embed.weight"]
    network.load_state_dict(state, assign=True)
    checkpoint.patcher(network).patch_model(DEVICE)
    assert network.blocks[1].weight is network.embed.weight
    assert simgpu.allocated_bytes == checkpoint.nbytes - LAYER_BYTES


def test_a_view_of_a_weight_is_brought_as_the_view_that_it_is(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    turned = torch.nn.Parameter(network.embed.weight.detach().t())
    network.embed.weight = turned
    patcher = checkpoint.patcher(network)
    patcher.patch_model(DEVICE)
    assert torch.equal(network.embed.weight.cpu(), checkpoint.values["embed.weight"].t())
    patcher.detach()
    assert network.embed.weight is turned


def test_weights_get_the_dtype_that_was_asked_for_on_their_way(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network(operations=comfy.ops.manual_cast)
    residency_of(network).weight_dtype = torch.float16
    patcher = checkpoint.patcher(network)
    assert patcher.model_size() == checkpoint.nbytes // 2
    patcher.patch_model(DEVICE)
    assert {one.dtype for one in network.parameters()} == {torch.float16}
    assert simgpu.allocated_bytes == checkpoint.nbytes // 2
    halves = {key: value.half().float() for key, value in checkpoint.values.items()}
    changed = {key.replace(".", "__"): value for key, value in halves.items()}
    assert torch.equal(run(network), checkpoint.expected(**changed))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_that_are_on_their_device_already_get_the_dtype_too(
    checkpoint: Checkpoint, strategy: str
) -> None:
    network = checkpoint.network(strategy, operations=comfy.ops.manual_cast)
    residency_of(network).weight_dtype = torch.bfloat16
    patcher = checkpoint.patcher(network)
    patcher.patch_model(CPU)
    assert_values(network, {key: value.bfloat16() for key, value in checkpoint.values.items()})
    patcher.detach()
    assert_values(network, checkpoint.values)


def test_a_weight_that_its_patcher_gave_another_dtype_is_not_read_again(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    key = "blocks.1.weight"

    class Halving(ModelPatcher):
        def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
            super().patch_weight_to_device(key, *args, **kwargs)
            set_attr_param(self.model, key, get_attr(self.model, key).half())

    patcher = Halving(checkpoint.network(), DEVICE, CPU)
    patcher.add_patches({key: (torch.ones(WIDTH, WIDTH),)})
    patcher.patch_model(DEVICE)
    halved = get_attr(patcher.model, key)
    assert halved.dtype == torch.float16
    assert patcher.loaded_size() == checkpoint.nbytes
    patcher.patch_model(DEVICE)
    assert get_attr(patcher.model, key) is halved


def test_a_copied_model_has_weights_of_its_own(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    checkpoint.patcher(network)
    residency_of(network)
    twin = copy.deepcopy(network)
    assert residency_of(twin) is not residency_of(network)
    checkpoint.patcher(twin).patch_model(DEVICE)
    assert _all_in_file(network)
    assert torch.equal(run(twin), checkpoint.expected())


def test_a_dropped_model_frees_the_device_at_once(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.load(DEVICE, checkpoint.nbytes // 2)
    run(patcher.model)
    patcher.cleanup()
    assert simgpu.allocated_bytes > 0
    del patcher
    assert simgpu.allocated_bytes == 0


# -- the CPU as the device ---------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_on_the_cpu_weights_are_read_to_the_host_and_return_to_the_file(
    checkpoint: Checkpoint, strategy: str
) -> None:
    network = checkpoint.network(strategy)
    patcher = checkpoint.patcher(network, device=CPU)
    patcher.patch_model(CPU)
    for parameter in network.parameters():
        assert not isinstance(parameter, FileTensor)
        assert source_of(parameter) is not None
    assert patcher.loaded_size() == checkpoint.nbytes
    assert torch.equal(run(network, CPU), checkpoint.expected(CPU))
    patcher.detach()
    assert _all_in_file(network)
    assert_values(network, checkpoint.values)


def test_on_the_cpu_a_mapped_weight_is_at_home_and_stays_so(tmp_path: Path) -> None:
    values = {"weight": torch.randn(512, 512), "bias": torch.randn(512)}
    path = write_safetensors(tmp_path / "large.safetensors", values)
    layer = comfy.ops.disable_weight_init.Linear(512, 512, device="meta")
    loader = Loader(LoadOptions(strategy="mmap"), run_device="cpu")
    layer.load_state_dict(
        loader.open(LoadRequest(path=str(path), device=None)).state_dict, assign=True
    )
    mapped = layer.weight
    assert is_mapped(mapped)
    patcher = ModelPatcher(layer, CPU, CPU)
    patcher.patch_model(CPU)
    assert layer.weight is mapped
    assert patcher.loaded_size() == mapped.nbytes + layer.bias.nbytes
    patcher.detach()
    assert layer.weight is mapped
    patcher.load_device = DEVICE
    patcher.patch_model(DEVICE)
    del mapped
    patcher.detach()
    assert isinstance(layer.weight, FileTensor)
    assert torch.equal(layer.weight.clone(), values["weight"])


# -- partial loads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("share", [0.0, 0.4, 0.8])
def test_a_model_that_does_not_fit_computes_the_same_within_its_budget(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, strategy: str, share: float
) -> None:
    expected = checkpoint.expected()
    network = checkpoint.network(strategy)
    patcher = checkpoint.patcher(network)
    least = 2 * LAYER_BYTES + 16 * WIDTH * 4
    budget = max(least, int(share * checkpoint.nbytes))
    patcher.load(DEVICE, budget)
    assert network.model_lowvram
    assert patcher.loaded_size() + network.model_offload_buffer_memory <= budget
    simgpu.reset_peak()
    for _ in range(3):
        assert torch.equal(run(network), expected)
    activations = 8 * an_input().nbytes
    assert simgpu.peak_bytes <= budget + activations
    patcher.detach()
    assert simgpu.allocated_bytes == 0
    assert _all_in_file(network)


def test_what_stays_away_is_read_in_every_pass_and_the_rest_never_again(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    patcher, file = checkpoint.patcher(network), _file_of(network)
    patcher.load(DEVICE, 5 * LAYER_BYTES)
    away = checkpoint.nbytes - patcher.loaded_size()
    assert away > 0
    start = file.bytes_read
    run(network)
    patcher.cleanup()
    assert file.bytes_read - start == away


def test_a_layer_of_another_kind_is_at_home_whatever_the_budget(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    plain = torch.nn.Linear(WIDTH, WIDTH, bias=False, device="meta")
    plain.weight = torch.nn.Parameter(network.blocks[1].weight.detach())
    network.blocks[1] = plain
    patcher = checkpoint.patcher(network)
    patcher.load(DEVICE, 0)
    assert plain.weight.device == DEVICE
    assert isinstance(network.blocks[2].weight, FileTensor)
    assert torch.equal(run(network), checkpoint.expected())


def test_more_can_be_loaded_and_let_go_without_reading_the_rest(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    patcher = checkpoint.patcher(network)
    expected = checkpoint.expected()
    patcher.load(DEVICE, 4 * LAYER_BYTES)
    before = patcher.loaded_size()
    came = patcher.partially_load(DEVICE, 1 << 40)
    assert came == checkpoint.nbytes - before
    assert not network.model_lowvram
    assert torch.equal(run(network), expected)
    freed = patcher.partially_unload(CPU, LAYER_BYTES)
    assert freed >= LAYER_BYTES
    assert network.model_lowvram
    assert patcher.loaded_size() + network.model_offload_buffer_memory == checkpoint.nbytes - freed
    assert torch.equal(run(network), expected)
    assert patcher.partially_load(DEVICE, -LAYER_BYTES) == 0
    assert patcher.loaded_size() <= checkpoint.nbytes - freed - LAYER_BYTES
    patcher.detach()
    assert simgpu.allocated_bytes == 0
    assert {vars(one).get("comfy_cast_weights") for one in network.modules()} == {None}


def test_letting_go_more_than_there_is_lets_all_layers_go(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.patch_model(DEVICE)
    patcher.partially_unload(CPU, 1 << 40)
    assert patcher.loaded_size() < LAYER_BYTES
    assert torch.equal(run(patcher.model), checkpoint.expected())

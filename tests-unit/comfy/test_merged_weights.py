"""Weights with their patches, computed when they are written: the same as if they had been loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import comfy.lora
import comfy.ops
from comfy import merged_weights
from comfy.loading import DeferredTensor, FileTensor, save_state_dict
from comfy.loading.sources import is_mapped
from comfy.loading.strategies import mmap
from comfy.model_patcher import ModelPatcher
from comfy.weight_adapter import LoRAAdapter
from support.lora_files import random
from support.simulated_device import SimulatedDevice
from support.small_network import CPU, DEVICE, WIDTH, Checkpoint

KEY = "blocks.1.weight"
SHAPE = (WIDTH, WIDTH)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "model.safetensors", torch.float16)


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven rows of a weight at a time."""
    monkeypatch.setattr(merged_weights, "PART_BYTES", 7 * 4 * WIDTH)


def saved(patcher: ModelPatcher, tmp_path: Path) -> dict[str, torch.Tensor]:
    path = tmp_path / "saved.safetensors"
    save_state_dict(merged_weights.merged_weights(patcher), path)
    return load_file(path)


def when_loaded(patcher: ModelPatcher) -> dict[str, torch.Tensor]:
    patcher.patch_model(patcher.load_device)
    state = {key: value.cpu().clone() for key, value in patcher.model.state_dict().items()}
    patcher.detach()
    return state


def another(tmp_path: Path) -> list[Any]:
    """A patch that is the weight of another model, which has a patch of its own."""
    other = Checkpoint(tmp_path / "other.safetensors", torch.float32)
    patcher = other.patcher(device=CPU)
    patcher.add_patches({KEY: (random(*SHAPE, seed=5),)}, 0.5, 2.0)
    group: list[Any] = patcher.get_key_patches()[KEY]
    return group


def lora(**parts: Any) -> LoRAAdapter:
    up, down = random(WIDTH, 3, seed=1), random(3, WIDTH, seed=2)
    return LoRAAdapter(set(), (up, down, 3.0, None, parts.get("dora"), None))


PATCHES: dict[str, Callable[[Path], Any]] = {
    "difference": lambda tmp: (random(*SHAPE),),
    "named difference": lambda tmp: ("diff", (random(*SHAPE),)),
    "no difference": lambda tmp: (None,),
    "no named difference": lambda tmp: ("diff", (None,)),
    "other values": lambda tmp: ("set", (random(*SHAPE),)),
    "another model": another,
    "another model as LoRA": lambda tmp: ("model_as_lora", (random(*SHAPE),)),
    "LoRA": lambda tmp: lora(),
    "DoRA": lambda tmp: lora(dora=random(1, WIDTH, seed=4).abs()),
    "wrong shape": lambda tmp: (random(3, 3),),
}


@pytest.mark.parametrize("device", [CPU, DEVICE], ids=["cpu", "simgpu"])
@pytest.mark.parametrize("kind", PATCHES)
@pytest.mark.usefixtures("small_parts")
def test_written_weights_are_those_of_the_loaded_model(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, tmp_path: Path, kind: str, device: torch.device
) -> None:
    patcher = checkpoint.patcher(device=device)
    patcher.add_patches({KEY: PATCHES[kind](tmp_path)}, 0.75, 0.5)
    patcher.add_patches({KEY: (random(*SHAPE, seed=9),), "blocks.0.bias": (random(WIDTH),)})
    got = saved(patcher, tmp_path)
    wanted = when_loaded(patcher)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], wanted[key]) for key in got)
    assert not torch.equal(got[KEY], checkpoint.values[KEY])
    assert torch.equal(got["embed.weight"], checkpoint.values["embed.weight"])


@pytest.mark.usefixtures("small_parts")
def test_patch_of_a_part_of_a_weight_is_applied_there(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    patcher = checkpoint.patcher(device=CPU)
    change = random(10, WIDTH)
    patcher.add_patches({(KEY, (0, 20, 10)): (change,)})
    got, before = saved(patcher, tmp_path)[KEY], checkpoint.values[KEY]
    wanted = (before[20:30].float() + change).half()
    assert torch.equal(got[20:30], wanted)
    assert torch.equal(got[:20], before[:20])


def test_weight_that_was_patched_by_itself_is_not_patched_twice(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    patcher = checkpoint.patcher(device=CPU)
    patcher.add_patches({KEY: (random(*SHAPE),)})
    patcher.patch_weight_to_device(KEY)
    got = saved(patcher, tmp_path)[KEY]
    assert torch.equal(got, (checkpoint.values[KEY].float() + random(*SHAPE)).half())
    assert torch.equal(got, patcher.model.blocks[1].weight)


def test_patch_may_give_a_weight_another_shape(checkpoint: Checkpoint, tmp_path: Path) -> None:
    patcher = checkpoint.patcher(device=CPU)
    change = random(WIDTH, WIDTH + 8)
    patcher.add_patches({KEY: ("diff", (change, {"pad_weight": True}))})
    got = saved(patcher, tmp_path)[KEY]
    assert got.shape == (WIDTH, WIDTH + 8)
    assert torch.equal(got[:, WIDTH:], change[:, WIDTH:].half())


@pytest.mark.usefixtures("small_parts")
def test_elementwise_patches_are_applied_to_some_rows_at_a_time(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heights: list[int] = []
    plain = comfy.lora.calculate_weight

    def spy(patches: Any, weight: torch.Tensor, key: str, *args: Any, **kwargs: Any) -> Any:
        heights.append(weight.shape[0])
        return plain(patches, weight, key, *args, **kwargs)

    patcher = checkpoint.patcher(device=CPU)
    patcher.add_patches({KEY: another(tmp_path)})
    monkeypatch.setattr(comfy.lora, "calculate_weight", spy)
    saved(patcher, tmp_path)
    # Once for this model, once for what is added, each time.
    outer = heights[::2]
    assert max(heights) == 7
    assert sum(outer) == WIDTH


def test_nothing_is_read_before_it_is_written(checkpoint: Checkpoint, tmp_path: Path) -> None:
    patcher = checkpoint.patcher(device=CPU)
    patcher.add_patches({KEY: another(tmp_path)})
    tensor = patcher.model.embed.weight
    assert isinstance(tensor, FileTensor)
    assert tensor.file_slice is not None
    file = tensor.file_slice.file
    before = file.bytes_read
    promised = merged_weights.merged_weights(patcher)
    assert all(isinstance(one, DeferredTensor) for one in promised.values())
    assert file.bytes_read == before
    save_state_dict(promised, tmp_path / "saved.safetensors")
    assert file.bytes_read - before == checkpoint.nbytes


def test_mapped_weights_are_read_and_not_touched(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mmap, "IN_PLACE_BYTES", 1)
    patcher = checkpoint.patcher(checkpoint.network("mmap"), CPU)
    patcher.add_patches({KEY: (random(*SHAPE),)})
    mapped = patcher.model.embed.weight
    assert is_mapped(mapped)
    (part,) = merged_weights.merged_weights(patcher)["embed.weight"].parts()  # type: ignore[attr-defined]
    assert isinstance(part, FileTensor)
    assert torch.equal(part, mapped)
    got = saved(patcher, tmp_path)
    assert torch.equal(got[KEY], when_loaded(patcher)[KEY])


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_model_held_in_eight_bits_is_saved_so(
    checkpoint: Checkpoint, tmp_path: Path, dtype: torch.dtype
) -> None:
    patcher = checkpoint.patcher(device=CPU)
    patcher.residency.weight_dtype = dtype
    patcher.add_patches({KEY: (random(*SHAPE),)})
    got, wanted = saved(patcher, tmp_path), when_loaded(patcher)
    assert {one.dtype for one in got.values()} == {dtype}
    assert all(torch.equal(got[key].float(), wanted[key].float()) for key in got)


def test_program_s_own_choice_of_a_narrower_dtype_is_not_saved(tmp_path: Path) -> None:
    wide = Checkpoint(tmp_path / "model.safetensors", torch.float32)
    patcher = wide.patcher(device=CPU)
    patcher.residency.weight_dtype = torch.float16
    got = saved(patcher, tmp_path)
    assert all(torch.equal(got[key], value) for key, value in wide.values.items())


def test_quantised_weights_are_saved_as_they_are_stored(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    scale = torch.tensor(0.002)
    state = checkpoint.state()
    state[KEY] = (checkpoint.values[KEY].float() / scale).to(torch.float8_e4m3fn)
    state["blocks.1.weight_scale"] = scale
    marker = torch.tensor(list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8)
    state["blocks.1.comfy_quant"] = marker
    network = checkpoint.network(operations=comfy.ops.mixed_precision_ops())
    network.load_state_dict(state, assign=True)
    patcher = checkpoint.patcher(network, CPU)
    patcher.add_patches({KEY: (random(*SHAPE) / 8,)})
    got, wanted = saved(patcher, tmp_path), when_loaded(patcher)
    assert got.keys() == wanted.keys()
    assert got[KEY].dtype == torch.float8_e4m3fn
    assert all(torch.equal(got[key].float(), wanted[key].float()) for key in got)

"""ModelPatcher: patched weights, clones, and what subclasses and packs may replace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.ops
from comfy.loading import FileTensor, source_of
from comfy.model_patcher import LowVramPatch, ModelPatcher, string_to_seed
from support.simulated_device import SimulatedDevice
from support.small_network import BLOCKS, CPU, DEVICE, WIDTH, Checkpoint, run

KEY = "blocks.1.weight"
LAYER_BYTES = WIDTH * WIDTH * 4


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path / "model.safetensors")


def _diff(seed: int = 1) -> torch.Tensor:
    return torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed)) / 30


def _weights(patcher: ModelPatcher) -> dict[str, torch.Tensor]:
    return {key: value.cpu().clone() for key, value in patcher.model.state_dict().items()}


def _assert_unchanged(patcher: ModelPatcher, checkpoint: Checkpoint) -> None:
    for key, value in _weights(patcher).items():
        assert torch.equal(value, checkpoint.values[key]), key


# -- patches ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_patched_weight_is_the_formula_in_float32_rounded_once(
    simgpu: SimulatedDevice, tmp_path: Path, dtype: torch.dtype
) -> None:
    checkpoint = Checkpoint(tmp_path / "model.safetensors", dtype)
    patcher = checkpoint.patcher()
    assert patcher.add_patches({KEY: ("diff", (_diff(),)), "no.such": (_diff(),)}, 0.5, 0.9) == [
        KEY
    ]
    patcher.add_patches({KEY: (_diff(2),)}, 0.25)
    patcher.patch_model(DEVICE)
    wide = checkpoint.values[KEY].float() * 0.9 + 0.5 * _diff() + 0.25 * _diff(2)
    stored = patcher.model.blocks[1].weight
    assert stored.dtype == dtype
    # Half a unit in the last place, and what the order of float32 sums may change.
    assert torch.allclose(stored.float().cpu(), wide, rtol=torch.finfo(dtype).eps, atol=1e-7)
    others = {key: value for key, value in _weights(patcher).items() if key != KEY}
    assert all(torch.equal(value, checkpoint.values[key]) for key, value in others.items())
    assert simgpu.allocated_bytes == checkpoint.nbytes


@pytest.mark.parametrize("budget", [0, 1])
def test_another_models_weight_is_taken_as_its_difference_from_the_unpatched_one(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, budget: int
) -> None:
    patcher, other, x = checkpoint.patcher(), _diff(3) * 30, torch.ones(2, WIDTH)
    base = checkpoint.values[KEY]
    patcher.add_patches({KEY: (_diff(),)})
    patcher.add_patches({KEY: ("model_as_lora", (other,))}, 0.5)
    patcher.patch_model(DEVICE, lowvram_model_memory=budget)
    wanted = base + _diff() + 0.5 * (other - base)
    with torch.no_grad():
        got = patcher.model.blocks[1](x.to(DEVICE)).cpu()
    assert patcher.lowvram_patch_counter() == budget
    assert torch.allclose(got, x @ wanted.T, rtol=1e-4, atol=1e-4)
    patcher.detach()
    _assert_unchanged(patcher, checkpoint)


def test_unpatching_is_bit_exact_and_no_backup_is_ever_kept(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.add_patches({key: (_diff(),) for key in checkpoint.values if key.endswith("t")})
    for _ in range(2):
        patcher.patch_model(DEVICE)
        assert not torch.equal(_weights(patcher)[KEY], checkpoint.values[KEY])
        assert patcher.backup == {}
        patcher.detach()
        assert isinstance(patcher.model.blocks[1].weight, FileTensor)
        _assert_unchanged(patcher, checkpoint)
    assert simgpu.counters.d2h_bytes == 2 * (checkpoint.nbytes)


def test_a_weight_without_a_file_is_kept_while_it_is_patched(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    made = torch.nn.Parameter(torch.full((WIDTH, WIDTH), 0.5))
    patcher.model.blocks[1].weight = made
    patcher.add_patches({KEY: (_diff(),)})
    patcher.patch_model(DEVICE)
    assert list(patcher.backup) == [KEY]
    assert patcher.backup[KEY].weight is made
    assert simgpu.allocated_bytes == patcher.loaded_size()
    assert torch.equal(_weights(patcher)[KEY], 0.5 + _diff())
    patcher.detach()
    assert patcher.backup == {}
    assert patcher.model.blocks[1].weight is made
    assert torch.equal(made, torch.full((WIDTH, WIDTH), 0.5))


def test_comparing_with_another_model_does_not_list_all_weights_for_each(
    simgpu: SimulatedDevice, checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    patcher = checkpoint.patcher()
    keys = [f"blocks.{index}.weight" for index in range(BLOCKS)]
    patcher.add_patches(dict.fromkeys(keys, ("model_as_lora", (checkpoint.values[KEY],))), 0.5)
    listed: list[None] = []
    state_dict = patcher.model.state_dict

    def counted(*args: Any, **kwargs: Any) -> Any:
        listed.append(None)
        return state_dict(*args, **kwargs)

    monkeypatch.setattr(patcher.model, "state_dict", counted)
    patcher.patch_model(DEVICE)
    assert len(listed) < BLOCKS
    for key, weight in _weights(patcher).items():
        own = checkpoint.values[key]
        wanted = own + 0.5 * (checkpoint.values[KEY] - own) if key in keys else own
        assert torch.allclose(weight, wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_patches_on_the_fly_give_what_patches_at_loading_give(
    simgpu: SimulatedDevice, tmp_path: Path, dtype: torch.dtype
) -> None:
    checkpoint = Checkpoint(tmp_path / "model.safetensors", dtype)
    patcher = checkpoint.patcher(checkpoint.network(operations=comfy.ops.manual_cast))
    keys = [f"blocks.{index}.weight" for index in range(BLOCKS)]
    patcher.add_patches({key: (_diff(index),) for index, key in enumerate(keys)}, 0.7)
    patcher.patch_model(DEVICE)
    whole = run(patcher.model)
    saved = {key: value.cpu() for key, value in patcher.model_state_dict().items()}
    patcher.detach()
    patcher.load(DEVICE, 0)
    assert patcher.lowvram_patch_counter() == BLOCKS
    assert torch.equal(run(patcher.model), whole)
    for key, value in patcher.model_state_dict().items():
        assert torch.equal(value.cpu(), saved[key]), key
    patcher.detach()
    assert patcher.lowvram_patch_counter() == 0


def test_weights_without_a_file_are_patched_on_the_fly_as_well(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    made = torch.nn.Parameter(torch.full((WIDTH, WIDTH), 0.01))
    patcher.model.blocks[1].weight = made
    patcher.add_patches({KEY: (_diff(),)})
    patcher.load(DEVICE, 0)
    assert patcher.model.model_lowvram
    assert patcher.model.blocks[1].weight is made
    assert torch.equal(run(patcher.model), checkpoint.expected(blocks__1__weight=0.01 + _diff()))
    assert torch.equal(patcher.model_state_dict()[KEY], 0.01 + _diff())
    patcher.detach()
    assert torch.equal(made, torch.full((WIDTH, WIDTH), 0.01))


def test_a_layer_can_be_freed_of_everything_that_was_set_on_it(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.add_patches({KEY: (_diff(),)})
    patcher.load(DEVICE, 0)
    layer = patcher.model.blocks[1]
    assert layer.comfy_cast_weights
    assert isinstance(layer.weight_function[0], LowVramPatch)
    comfy.model_patcher.wipe_lowvram_weight(layer)
    assert not layer.comfy_cast_weights
    assert layer.weight_stream is None
    assert layer.weight_function == []


def test_a_patch_of_one_name_of_a_tied_weight_keeps_it_tied(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    network = checkpoint.network()
    network.blocks[1].weight = network.embed.weight
    patcher = checkpoint.patcher(network)
    patcher.add_patches({KEY: (_diff(),)})
    patcher.patch_model(DEVICE)
    assert network.blocks[1].weight is network.embed.weight
    assert torch.equal(network.embed.weight.cpu(), checkpoint.values["embed.weight"] + _diff())
    patcher.detach()
    assert torch.equal(network.embed.weight.clone(), checkpoint.values["embed.weight"])


def test_key_patches_are_of_the_unpatched_weights_and_read_nothing(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.add_patches({KEY: (_diff(),)}, 0.5)
    source = source_of(patcher.model.embed.weight)
    assert source is not None
    patcher.patch_model(DEVICE)
    read = source.file.bytes_read
    found = patcher.get_key_patches("blocks.")
    assert source.file.bytes_read == read
    assert set(found) == {key for key in checkpoint.values if key.startswith("blocks.")}
    (weight, widen), *patches = found[KEY]
    assert isinstance(weight, FileTensor)
    assert torch.equal(widen(weight.clone(), inplace=True), checkpoint.values[KEY])
    assert patches == patcher.patches[KEY]


def test_a_wrapped_weight_passes_through_the_function_on_every_call(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.add_weight_wrapper(KEY, lambda weight: weight * 2)
    expected = checkpoint.expected(blocks__1__weight=checkpoint.values[KEY] * 2)
    for budget in (0, 1 << 40):
        patcher.load(DEVICE, budget)
        assert torch.equal(run(patcher.model), expected)
        patcher.detach()
    assert patcher.model.blocks[1].weight_function == []


def test_quantised_weights_are_patched_between_widening_and_storing(
    simgpu: SimulatedDevice, tmp_path: Path
) -> None:
    checkpoint = Checkpoint(tmp_path / "model.safetensors", torch.float16)
    wide, scale = checkpoint.values[KEY].float(), torch.tensor(0.002)
    stored = (wide / scale).to(torch.float8_e4m3fn)
    state = checkpoint.state()
    state[KEY] = stored
    state["blocks.1.weight_scale"] = scale
    state["blocks.1.comfy_quant"] = torch.tensor(
        list(b'{"format": "float8_e4m3fn"}'), dtype=torch.uint8
    )
    network = checkpoint.network(operations=comfy.ops.mixed_precision_ops())
    network.load_state_dict(state, assign=True)
    patcher = checkpoint.patcher(network)
    plain = stored.float() * scale
    patcher.add_patches({KEY: (_diff(),)})
    patcher.patch_model(DEVICE)
    layer = network.blocks[1]
    assert layer.weight.dtype == torch.float8_e4m3fn
    got = layer.convert_weight(layer.weight).cpu()
    # Three bits of mantissa: rounding by chance is off by less than one unit in the last place.
    assert torch.allclose(got, plain + _diff(), rtol=1 / 8, atol=2**-8 * scale.item())
    whole = run(network)
    patcher.detach()
    assert torch.equal(network.blocks[1].weight.view(torch.uint8), stored.view(torch.uint8))
    patcher.load(DEVICE, 0)
    assert torch.equal(run(network), whole)


# -- clones ----------------------------------------------------------------------------------------


def test_a_clone_shares_the_model_and_nothing_that_it_may_change(checkpoint: Checkpoint) -> None:
    patcher = checkpoint.patcher()
    patcher.add_patches({KEY: (_diff(),)})
    patcher.set_model_attn1_patch(len)
    clone = patcher.clone()
    assert clone.model is patcher.model
    assert clone.backup is patcher.backup
    assert clone.parent is patcher
    assert clone.is_clone(patcher)
    assert clone.clone_has_same_weights(patcher)
    clone.add_patches({KEY: (_diff(2),)})
    clone.set_model_attn1_patch(max)
    clone.add_object_patch("norm.eps", 0.1)
    clone.model_options["transformer_options"]["x"] = 1
    assert len(patcher.patches[KEY]) == 1
    assert patcher.model_options["transformer_options"] == {"patches": {"attn1_patch": [len]}}
    assert patcher.object_patches == {}
    assert not clone.clone_has_same_weights(patcher)


def test_a_clone_with_other_patches_reads_only_the_weights_that_differ(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    patcher.add_patches({KEY: (_diff(),), "blocks.2.weight": (_diff(),)})
    clone = patcher.clone()
    clone.add_patches({KEY: (_diff(2),), "blocks.3.weight": (_diff(3),)})
    patcher.patch_model(DEVICE)
    source = source_of(clone.residency.source(KEY))
    assert source is not None
    read = source.file.bytes_read
    untouched = patcher.model.embed.weight
    patcher.detach(unpatch_all=False)
    clone.partially_load(DEVICE, 1 << 40)
    # Weight 1 has to be unpatched first; weight 3 was not patched, and weight 2 is as it should be.
    assert source.file.bytes_read - read == LAYER_BYTES
    assert patcher.model.embed.weight is untouched
    assert patcher.model.current_weight_patches_uuid == clone.patches_uuid
    values, found = checkpoint.values, _weights(clone)
    assert torch.equal(found[KEY], values[KEY] + _diff() + _diff(2))
    assert torch.equal(found["blocks.2.weight"], values["blocks.2.weight"] + _diff())
    assert torch.equal(found["blocks.3.weight"], values["blocks.3.weight"] + _diff(3))
    plain = checkpoint.patcher(patcher.model)
    plain.partially_load(DEVICE, 1 << 40)
    _assert_unchanged(plain, checkpoint)


# -- what packs replace ------------------------------------------------------------------------------


def test_a_subclass_that_patches_by_itself_is_asked_for_every_patched_weight(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    class Own(ModelPatcher):
        asked: list[str] = []  # noqa: RUF012 - of the class on purpose: clones share it

        def patch_weight_to_device(self, key: str, *args: Any, **kwargs: Any) -> Any:
            self.asked.append(key)
            return super().patch_weight_to_device(key, *args, **kwargs)

    patcher = Own(checkpoint.network(), DEVICE, CPU)
    patcher.add_patches({KEY: (_diff(),)})
    clone = patcher.clone()
    assert type(clone) is Own
    clone.patch_model(DEVICE)
    assert Own.asked == [KEY]
    assert torch.equal(_weights(clone)[KEY], checkpoint.values[KEY] + _diff())


# A patch on the fly belongs to a layer, which knows no patcher: there only the module's counts.
@pytest.mark.parametrize(
    ("owner", "budget"), [("module", 0), ("module", 1 << 40), ("class", 1 << 40)]
)
def test_a_replaced_calculate_weight_is_the_one_that_is_called(
    simgpu: SimulatedDevice,
    checkpoint: Checkpoint,
    monkeypatch: pytest.MonkeyPatch,
    owner: str,
    budget: int,
) -> None:
    called: list[str] = []

    def spy(*args: Any, **kwargs: Any) -> torch.Tensor:
        weight, key = args[-2:]
        called.append(key)
        return torch.as_tensor(weight * 0)

    target = comfy.lora if owner == "module" else ModelPatcher
    monkeypatch.setattr(target, "calculate_weight", spy)
    patcher = checkpoint.patcher()
    patcher.add_patches({KEY: (_diff(),)})
    patcher.load(DEVICE, budget)
    zero = checkpoint.expected(blocks__1__weight=torch.zeros(WIDTH, WIDTH))
    assert torch.equal(run(patcher.model), zero)
    assert set(called) == {KEY}


def test_the_stop_button_ends_a_load_and_the_next_one_works(
    simgpu: SimulatedDevice, checkpoint: Checkpoint
) -> None:
    patcher = checkpoint.patcher()
    comfy.model_management.interrupt_current_processing()
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        patcher.patch_model(DEVICE)
    assert not comfy.model_management.processing_interrupted()
    assert isinstance(patcher.model.embed.weight, FileTensor)
    patcher.patch_model(DEVICE)
    assert simgpu.allocated_bytes == checkpoint.nbytes


def test_the_seed_of_a_text_is_its_crc() -> None:
    assert string_to_seed("123456789") == 0xCBF43926


def test_a_patch_on_the_fly_rounds_eight_bits_the_same_each_time() -> None:
    stored = (torch.randn(64, 64) / 4).to(torch.float8_e4m3fn)
    patch = LowVramPatch("w", {"w": [(1.0, (torch.ones(64, 64) / 100,), 1.0, None, None)]})
    once, again = patch(stored), patch(stored)
    assert once.dtype == torch.float8_e4m3fn
    assert torch.equal(once.view(torch.uint8), again.view(torch.uint8))
    assert not torch.equal(once.view(torch.uint8), stored.view(torch.uint8))

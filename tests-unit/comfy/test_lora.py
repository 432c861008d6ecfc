"""From a LoRA file to patches: forms of names, what is read, what is said."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.lora
from comfy.loading import FileTensor, Loader, LoadOptions, LoadRequest
from comfy.weight_adapter import LoRAAdapter
from support.files import write_safetensors
from support.lora_files import METHODS, Parts, lora, module, random

SHAPE = (16, 12)
CONV = (16, 12, 3, 3)
KEY = "diffusion_model.block.weight"


def applied(file: Parts, weight: torch.Tensor, name: str = "x", strength: float = 1.0) -> Any:
    patches = comfy.lora.load_lora(file, {name: KEY})
    return comfy.lora.calculate_weight(
        [(strength, patches[KEY], 1.0, None, None)], weight.clone(), KEY
    )


# -- forms ---------------------------------------------------------------------------------------

FORMS = {
    "kohya": ("x.lora_up.weight", "x.lora_down.weight"),
    "peft": ("x.lora_B.weight", "x.lora_A.weight"),
    "peft with adapter name": ("x.lora_B.default.weight", "x.lora_A.default.weight"),
    "diffusers": ("x.lora.up.weight", "x.lora.down.weight"),
    "old attention processor": ("x_lora.up.weight", "x_lora.down.weight"),
    "diffusers linear layer": (
        "x.lora_linear_layer.up.weight",
        "x.lora_linear_layer.down.weight",
    ),
    "bare": ("x.lora_B", "x.lora_A"),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_weight_of_kohya_s_with_alpha_equal_to_rank(
    form: str, caplog: pytest.LogCaptureFixture
) -> None:
    parts, weight = lora(SHAPE, rank=4), random(*SHAPE)
    up, down = FORMS[form]
    file = {up: parts["lora_up.weight"], down: parts["lora_down.weight"]}
    wanted = applied(module("x", parts, alpha=4.0), weight)
    assert torch.equal(applied(file, weight), wanted)
    assert caplog.messages == []


def test_without_alpha_the_scale_is_one() -> None:
    parts, weight = lora(SHAPE, rank=4), torch.zeros(SHAPE)
    file = {
        "x.lora_B.weight": parts["lora_up.weight"],
        "x.lora_A.weight": parts["lora_down.weight"],
    }
    product = parts["lora_up.weight"] @ parts["lora_down.weight"]
    torch.testing.assert_close(applied(file, weight), product)


WHOLE = {
    ".diff": (KEY, "diff"),
    ".w_norm": (KEY, "diff"),
    ".set_weight": (KEY, "set"),
    ".diff_b": ("diffusion_model.block.bias", "diff"),
    ".b_norm": ("diffusion_model.block.bias", "diff"),
}


@pytest.mark.parametrize("suffix", WHOLE)
def test_whole_tensors_become_differences_or_replacements(suffix: str) -> None:
    tensor = random(4)
    (patch,) = comfy.lora.load_lora({f"x{suffix}": tensor}, {"x": KEY}).items()
    target, kind = WHOLE[suffix]
    assert (patch[0], patch[1][0]) == (target, kind)
    assert patch[1][1][0] is tensor


def test_bias_of_fused_rows_is_the_same_rows_of_the_bias() -> None:
    rows = (0, 4, 8)
    patches = comfy.lora.load_lora({"x.diff_b": random(8)}, {"x": (KEY, rows)})
    assert list(patches) == [("diffusion_model.block.bias", rows)]


def test_weight_and_bias_of_one_module_are_both_patched() -> None:
    file = {**module("x", lora(SHAPE)), "x.diff_b": random(16)}
    assert set(comfy.lora.load_lora(file, {"x": KEY})) == {KEY, "diffusion_model.block.bias"}


@pytest.mark.parametrize("method", METHODS)
def test_all_keys_of_a_module_are_used(method: str, caplog: pytest.LogCaptureFixture) -> None:
    file = module("x", {**METHODS[method](CONV), "dora_scale": random(1, 12, 1, 1)}, alpha=1.0)
    (adapter,) = comfy.lora.load_lora(file, {"x": KEY}).values()
    assert caplog.messages == []
    assert adapter.loaded_keys == file.keys() - {"x.alpha", "x.dora_scale"}


# -- what is said --------------------------------------------------------------------------------


def test_unused_keys_are_told_once_by_module(caplog: pytest.LogCaptureFixture) -> None:
    file = {**module("x", lora(SHAPE), alpha=1.0), **module("gone", lora(SHAPE), alpha=1.0)}
    comfy.lora.load_lora(file, {"x": KEY})
    assert caplog.messages == [
        "LoRA: 3 of 6 keys mean no weight of this model and are not used: gone"
    ]


def test_half_a_module_is_told(caplog: pytest.LogCaptureFixture) -> None:
    file = module("x", lora(SHAPE))
    del file["x.lora_down.weight"]
    assert comfy.lora.load_lora(file, {"x": KEY}) == {}
    assert "It names x" in caplog.text


def test_nothing_is_told_if_nobody_asked(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    comfy.lora.load_lora(module("gone", lora(SHAPE)), {"x": KEY}, log_missing=False)
    assert caplog.messages == []


def test_adapter_of_a_custom_node_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(LoRAAdapter):
        @classmethod
        def load(cls, x: str, lora: Any, alpha: Any, dora_scale: Any, loaded_keys: Any = None):
            key = f"{x}.own"
            return cls({key}, (alpha,)) if key in lora else None

    monkeypatch.setattr(comfy.weight_adapter, "adapters", [*comfy.weight_adapter.adapters, Own])
    (adapter,) = comfy.lora.load_lora({"x.own": random(1)}, {"x": KEY}).values()
    assert type(adapter) is Own


# -- files ---------------------------------------------------------------------------------------


def opened(path: Path, file: Parts) -> tuple[dict[str, torch.Tensor], Any]:
    """The file's state dict of FileTensors, and the open file."""
    write_safetensors(path, file)
    loader = Loader(LoadOptions(strategy="file-slice"), run_device="cpu")
    loaded = loader.open(LoadRequest(path=str(path), device=None))
    first = next(iter(loaded.state_dict.values()))
    assert isinstance(first, FileTensor)
    return loaded.state_dict, first.file_slice.file


def test_building_patches_reads_alphas_and_nothing_else(tmp_path: Path) -> None:
    contents = {}
    for name in ("x", "y"):
        contents.update(module(name, lora(SHAPE), alpha=2.0))
        contents[f"{name}.dora_scale"] = random(1, 12)
    state_dict, file = opened(tmp_path / "a.safetensors", contents)
    before = file.bytes_read
    patches = comfy.lora.load_lora(state_dict, {"x": "x.weight", "y": "y.weight"})
    assert file.bytes_read - before == 2 * 4
    assert patches.keys() == {"x.weight", "y.weight"}


@pytest.mark.parametrize("has_dora", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_each_part_is_read_once_when_applied_and_stays_in_its_file(
    tmp_path: Path, method: str, has_dora: bool
) -> None:
    parts = METHODS[method](CONV)
    if has_dora:
        parts["dora_scale"] = random(1, 12, 1, 1)
    state_dict, file = opened(tmp_path / "a.safetensors", module("x", parts))
    patch = (1.0, comfy.lora.load_lora(state_dict, {"x": KEY})[KEY], 1.0, None, None)
    weight = random(*CONV)
    for _ in range(2):
        before = file.bytes_read
        got = comfy.lora.calculate_weight([patch], weight.clone(), KEY)
        assert file.bytes_read - before == sum(part.nbytes for part in parts.values())
    assert all(tensor.is_in_file for tensor in state_dict.values())
    assert torch.equal(got, applied(module("x", parts), weight))


def test_strength_of_zero_reads_nothing(tmp_path: Path) -> None:
    contents = {**module("x", lora(SHAPE)), "y.diff": random(*SHAPE)}
    state_dict, file = opened(tmp_path / "a.safetensors", contents)
    patches = comfy.lora.load_lora(state_dict, {"x": "x", "y": "y"})
    weight, before = random(*SHAPE), file.bytes_read
    stack = [(0.0, patch, 1.0, None, None) for patch in patches.values()]
    assert torch.equal(comfy.lora.calculate_weight(stack, weight.clone(), KEY), weight)
    assert file.bytes_read == before


def test_misfit_reads_nothing_and_names_key_shapes_and_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "other.safetensors"
    state_dict, file = opened(path, module("x", lora((8, 12))))
    patches, before = comfy.lora.load_lora(state_dict, {"x": KEY}), file.bytes_read
    weight = random(*SHAPE)
    got = comfy.lora.calculate_weight([(1.0, patches[KEY], 1.0, None, None)], weight.clone(), KEY)
    assert torch.equal(got, weight)
    assert file.bytes_read == before
    (message,) = caplog.messages
    assert all(part in message for part in (KEY, str(path), "(8, 12)", "(16, 12)"))


def test_unused_keys_are_told_with_their_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "foreign.safetensors"
    state_dict, _ = opened(path, module("gone", lora(SHAPE)))
    comfy.lora.load_lora(state_dict, {"x": KEY})
    assert str(path) in caplog.text


def test_weight_in_a_file_is_not_written_to(tmp_path: Path) -> None:
    state_dict, _ = opened(tmp_path / "base.safetensors", {KEY: random(*SHAPE)})
    patch = (1.0, ("diff", (torch.ones(SHAPE),)), 1.0, None, None)
    got = comfy.lora.calculate_weight([patch], state_dict[KEY], KEY)
    assert torch.equal(got, random(*SHAPE) + 1)
    assert state_dict[KEY].is_in_file


def test_alpha_that_is_no_number_is_told_by_name() -> None:
    file = {**module("x", lora((8, 4))), "x.alpha": torch.ones(2)}
    with pytest.raises(ValueError, match=r"'x\.alpha' has shape \(2,\)"):
        comfy.lora.load_lora(file, {"x": "w.weight"})

"""Setters of model options: where each puts its function, and that nothing is shared by accident."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from comfy import model_options
from comfy.model_patcher import ModelPatcher
from support.small_network import Checkpoint


@pytest.fixture
def patcher(tmp_path: Path) -> ModelPatcher:
    return Checkpoint(tmp_path / "model.safetensors").patcher()


@pytest.mark.parametrize(
    ("setter", "name"),
    [
        ("attn1_patch", "attn1_patch"),
        ("attn2_patch", "attn2_patch"),
        ("attn1_output_patch", "attn1_output_patch"),
        ("attn2_output_patch", "attn2_output_patch"),
        ("input_block_patch", "input_block_patch"),
        ("input_block_patch_after_skip", "input_block_patch_after_skip"),
        ("output_block_patch", "output_block_patch"),
        ("emb_patch", "emb_patch"),
        ("forward_timestep_embed_patch", "forward_timestep_embed_patch"),
        ("double_block_patch", "double_block"),
        ("post_input_patch", "post_input"),
        ("noise_refiner_patch", "noise_refiner"),
    ],
)
def test_a_patch_is_added_to_those_of_its_point(
    patcher: ModelPatcher, setter: str, name: str
) -> None:
    getattr(patcher, f"set_model_{setter}")(min)
    getattr(patcher, f"set_model_{setter}")(max)
    assert patcher.model_options["transformer_options"] == {"patches": {name: [min, max]}}


@pytest.mark.parametrize("part", ["attn1", "attn2"])
def test_a_replacement_is_keyed_by_its_block(patcher: ModelPatcher, part: str) -> None:
    replace = getattr(patcher, f"set_model_{part}_replace")
    replace(min, "input", 4)
    replace(max, "input", 4, 1)
    found = patcher.model_options["transformer_options"]["patches_replace"]
    assert found == {part: {("input", 4): min, ("input", 4, 1): max}}


@pytest.mark.parametrize(
    ("setter", "name"),
    [
        ("sampler_calc_cond_batch_function", "sampler_calc_cond_batch_function"),
        ("unet_function_wrapper", "model_function_wrapper"),
        ("denoise_mask_function", "denoise_mask_function"),
    ],
)
def test_a_function_takes_its_place(patcher: ModelPatcher, setter: str, name: str) -> None:
    getattr(patcher, f"set_model_{setter}")(min)
    assert patcher.model_options[name] is min


@pytest.mark.parametrize("when", ["pre", "post"])
def test_functions_around_guidance_run_in_order_and_can_ask_for_the_negative_prompt(
    patcher: ModelPatcher, when: str
) -> None:
    add = getattr(patcher, f"set_model_sampler_{when}_cfg_function")
    add(min)
    assert "disable_cfg1_optimization" not in patcher.model_options
    add(max, disable_cfg1_optimization=True)
    assert patcher.model_options[f"sampler_{when}_cfg_function"] == [min, max]
    assert patcher.model_options["disable_cfg1_optimization"]


def test_guidance_in_its_older_form_gets_three_arguments(patcher: ModelPatcher) -> None:
    patcher.set_model_sampler_cfg_function(lambda cond, uncond, scale: (cond, uncond, scale))
    function = patcher.model_options["sampler_cfg_function"]
    assert function({"cond": 1, "uncond": 2, "cond_scale": 3, "sigma": 4}) == (1, 2, 3)
    patcher.set_model_sampler_cfg_function(len, disable_cfg1_optimization=True)
    assert patcher.model_options["sampler_cfg_function"] is len
    assert patcher.model_options["disable_cfg1_optimization"]


def test_a_change_of_one_copy_of_the_options_is_not_seen_in_another() -> None:
    options: dict[str, Any] = {"transformer_options": {}}
    model_options.set_model_options_patch_replace(options, min, "attn1", "input", 1)
    model_options.set_model_options_post_cfg_function(options, min)
    shallow = dict(options)
    model_options.set_model_options_patch_replace(shallow, max, "attn1", "input", 2)
    model_options.set_model_options_post_cfg_function(shallow, max)
    deep = model_options.create_model_options_clone(options)
    deep["transformer_options"]["patches_replace"]["attn1"].clear()
    assert options["transformer_options"]["patches_replace"] == {"attn1": {("input", 1): min}}
    assert options["sampler_post_cfg_function"] == [min]


def test_patches_that_can_be_moved_are_moved_and_name_their_models(patcher: ModelPatcher) -> None:
    class Patch:
        def __init__(self) -> None:
            self.where: object = None

        def to(self, where: object) -> Patch:
            self.where = where
            return self

        def models(self) -> list[object]:
            return [self]

    patch, replaced, wrapper = Patch(), Patch(), Patch()
    patcher.set_model_attn1_patch(patch)
    patcher.set_model_attn1_patch(len)
    patcher.set_model_attn2_replace(replaced, "middle", 0)
    patcher.set_model_unet_function_wrapper(wrapper)  # type: ignore[arg-type]  # not called here
    patcher.model_patches_to(torch.device("meta"))
    assert {one.where for one in (patch, replaced, wrapper)} == {torch.device("meta")}
    assert patcher.model_patches_models() == [patch, replaced, wrapper]


def test_options_of_rotary_positions_are_told_to_the_network(patcher: ModelPatcher) -> None:
    patcher.set_model_rope_options(2.0, 0.1, 3.0, 0.2, 4.0, 0.3)
    assert patcher.model_options["transformer_options"]["rope_options"] == {
        "scale_x": 2.0,
        "shift_x": 0.1,
        "scale_y": 3.0,
        "shift_y": 0.2,
        "scale_t": 4.0,
        "shift_t": 0.3,
    }

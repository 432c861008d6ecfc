"""Guidance between two prompts, and the dicts that packs' functions get."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.samplers
from support.closed_form import paint_model, prepared

X = torch.full((2, 4, 8, 8), 10.0)
SIGMA = torch.full((2,), 5.0)
POSITIVE, NEGATIVE = [prepared(3.0)], [prepared(1.0)]


def guided(scale: float, **options: Any) -> tuple[float, list[dict[str, Any]]]:
    """The value of the guided latent, and the network's calls."""
    patcher = paint_model()
    patcher.pre_run()
    options = {"transformer_options": {}, **options}
    out = comfy.samplers.sampling_function(
        patcher.model, X, SIGMA, NEGATIVE, POSITIVE, scale, model_options=options
    )
    (value,) = out.unique().tolist()
    return value, patcher.model.diffusion_model.calls


@pytest.mark.parametrize(("scale", "value"), [(0.0, 1.0), (1.0, 3.0), (7.5, 16.0), (-1.0, -1.0)])
def test_denoised_is_negative_plus_scaled_difference(scale: float, value: float) -> None:
    assert guided(scale)[0] == value


@pytest.mark.parametrize(
    ("scale", "disabled", "pictures"), [(1.0, False, 2), (1.0, True, 4), (1.5, False, 4)]
)
def test_negative_prompt_rests_at_scale_one(scale: float, disabled: bool, pictures: int) -> None:
    _, calls = guided(scale, disable_cfg1_optimization=disabled)
    assert sum(len(call["x"]) for call in calls) == pictures


def test_cfg_function_gets_and_gives_noise() -> None:
    seen = {}

    def function(args: dict[str, Any]) -> torch.Tensor:
        seen.update(args)
        return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"] / 2

    value, _ = guided(4.0, sampler_cfg_function=function)
    assert value == 1.0 + 2.0 * (3.0 - 1.0)
    assert set(seen) == {
        *("cond", "uncond", "cond_scale", "timestep", "input", "sigma", "cond_denoised"),
        *("uncond_denoised", "model", "model_options", "input_cond", "input_uncond"),
    }
    assert (seen["cond"] == 7.0).all()
    assert (seen["uncond"] == 9.0).all()
    assert (seen["cond_denoised"] == 3.0).all()
    assert (seen["uncond_denoised"] == 1.0).all()
    assert seen["input"] is X
    assert seen["sigma"] is seen["timestep"] is SIGMA
    assert seen["input_cond"] is POSITIVE
    assert seen["input_uncond"] is NEGATIVE


def test_post_cfg_functions_change_the_result_in_order() -> None:
    seen = []

    def add(args: dict[str, Any]) -> torch.Tensor:
        seen.append(args)
        return args["denoised"] + 1.0

    def double(args: dict[str, Any]) -> torch.Tensor:
        return args["denoised"] * 2.0

    value, _ = guided(2.0, sampler_post_cfg_function=[add, double])
    assert value == (5.0 + 1.0) * 2.0
    assert set(seen[0]) == {
        *("denoised", "cond", "uncond", "cond_scale", "model", "uncond_denoised"),
        *("cond_denoised", "sigma", "model_options", "input"),
    }
    assert seen[0]["cond"] is POSITIVE
    assert seen[0]["uncond"] is NEGATIVE
    assert (seen[0]["denoised"] == 5.0).all()


def test_pre_cfg_functions_change_what_is_guided() -> None:
    seen = []

    def swap(args: dict[str, Any]) -> list[torch.Tensor]:
        seen.append(args)
        return args["conds_out"][::-1]

    value, _ = guided(2.0, sampler_pre_cfg_function=[swap])
    assert value == 3.0 + 2.0 * (1.0 - 3.0)
    assert set(seen[0]) == {
        *("conds", "conds_out", "cond_scale", "timestep", "input", "sigma", "model"),
        "model_options",
    }
    assert seen[0]["conds"] == [POSITIVE, NEGATIVE]


def test_pre_cfg_functions_see_what_the_one_before_gave() -> None:
    def add(args: dict[str, Any]) -> list[torch.Tensor]:
        return [out + 1.0 for out in args["conds_out"]]

    assert guided(2.0, sampler_pre_cfg_function=[add, add])[0] == 5.0 + 2.0


def test_calc_cond_batch_function_stands_for_the_network() -> None:
    seen = {}

    def function(args: dict[str, Any]) -> list[torch.Tensor]:
        seen.update(args)
        return [args["input"] * 0.5, args["input"] * 0.2]

    value, calls = guided(2.0, sampler_calc_cond_batch_function=function)
    assert (value, calls) == (8.0, [])
    assert set(seen) == {"conds", "input", "sigma", "model", "model_options"}
    assert seen["conds"] == [POSITIVE, NEGATIVE]


def test_deprecated_pair_is_the_batch_of_two() -> None:
    patcher = paint_model()
    patcher.pre_run()
    out = comfy.samplers.calc_cond_uncond_batch(
        patcher.model, POSITIVE, NEGATIVE, X, SIGMA, {"transformer_options": {}}
    )
    assert [image.unique().tolist() for image in out] == [[3.0], [1.0]]

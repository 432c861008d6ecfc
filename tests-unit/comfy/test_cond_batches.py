"""What several prompts make of one latent, and which of them share a forward pass."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.cond_batches
import comfy.model_management
from comfy.cond_batches import denoise_conds, forget_free_memory
from comfy.conds import CONDRegular
from support.closed_form import paint_model, prepared

X = torch.randn(2, 4, 32, 32, generator=torch.Generator().manual_seed(0))


def run(
    *lists: Any, x: torch.Tensor = X, sigma: float = 5.0, options: dict[str, Any] | None = None
) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
    """Denoise under lists of conditions; the results, and the network's calls."""
    patcher = paint_model()
    patcher.pre_run()
    sigmas = torch.full((len(x),), sigma)
    out = denoise_conds(patcher.model, lists, x, sigmas, options or {"transformer_options": {}})
    patcher.cleanup()
    return out, patcher.model.diffusion_model.calls


def rows(image: torch.Tensor) -> list[float]:
    """The first column of a picture that is the same in all rows of the batch and channels."""
    assert torch.equal(image, image[:1, :1].expand_as(image))
    return image[0, 0, :, 0].tolist()


def test_prompts_of_one_size_share_a_pass() -> None:
    out, calls = run([prepared(1.0)], [prepared(-1.0)])
    assert [image.unique().tolist() for image in out] == [[1.0], [-1.0]]
    assert len(calls) == 1
    assert calls[0]["x"].shape == (4, 4, 32, 32)
    assert calls[0]["transformer_options"]["cond_or_uncond"] == [0, 1]


def test_prompts_of_different_lengths_share_a_pass_at_a_common_length() -> None:
    out, calls = run([prepared(1.0, tokens=2)], [prepared(-1.0, tokens=3)])
    assert [image.unique().tolist() for image in out] == [[1.0], [-1.0]]
    assert [call["context"].shape for call in calls] == [(4, 6, 2)]


def test_lists_without_a_prompt_give_zeros() -> None:
    out, calls = run([prepared(1.0)], None, [])
    assert [image.unique().tolist() for image in out] == [[1.0], [0.0], [0.0]]
    assert len(calls) == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_where_no_prompt_has_a_weight_the_result_is_zero(dtype: torch.dtype) -> None:
    mask = torch.ones(1, 32, 32)
    mask[:, 16:] = 0.0
    out, _ = run([prepared(1.0, mask=mask)], x=X.to(dtype))
    assert out[0].dtype is dtype
    assert rows(out[0]) == [1.0] * 16 + [0.0] * 16


def test_overlapping_prompts_are_averaged_by_strength() -> None:
    out, _ = run([prepared(1.0, strength=3.0), prepared(5.0, strength=1.0)])
    torch.testing.assert_close(out[0], torch.full_like(X, 2.0))


def test_strength_of_a_single_prompt_does_not_matter_and_zero_is_none() -> None:
    assert run([prepared(2.0, strength=7.0)])[0][0].unique().tolist() == [2.0]
    assert run([prepared(2.0, strength=0.0)])[0][0].unique().tolist() == [0.0]


def test_area_blends_with_the_whole_by_its_feather() -> None:
    # Sixteen rows from row 8 on, full width: ramps of four at both edges.
    out, calls = run([prepared(0.0), prepared(1.0, area=(16, 32, 8, 0))])
    ramp = torch.tensor([0.25, 0.5, 0.75, 1.0])
    weight = torch.cat([torch.zeros(8), ramp, torch.ones(8), ramp.flip(0), torch.zeros(8)])
    torch.testing.assert_close(torch.tensor(rows(out[0])), weight / (1.0 + weight))
    assert [call["x"].shape[-2:] for call in calls] == [(32, 32), (16, 32)]
    assert torch.equal(calls[1]["x"], X[:, :, 8:24])


def test_two_areas_that_meet_cover_the_picture() -> None:
    top, bottom = prepared(1.0, area=(20, 32, 0, 0)), prepared(3.0, area=(20, 32, 12, 0))
    out, calls = run([top, bottom])
    got = rows(out[0])
    assert got[:12] == pytest.approx([1.0] * 12)
    assert got[20:] == pytest.approx([3.0] * 12)
    # Ramps of 5 rows lie at each area's inner edge: rows 15 to 19 and 12 to 16.
    upper = [1.0, 1.0, 1.0, 1.0, 0.8, 0.6, 0.4, 0.2]
    lower = [0.2, 0.4, 0.6, 0.8, 1.0, 1.0, 1.0, 1.0]
    mixed = [(u * 1 + w * 3) / (u + w) for u, w in zip(upper, lower, strict=True)]
    assert got[12:20] == pytest.approx(mixed)
    assert len(calls) == 1


def test_masks_share_out_the_picture() -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, :16] = 1.0
    upper = prepared(1.0, mask=mask, mask_strength=1.0)
    lower = prepared(3.0, mask=1.0 - mask, mask_strength=0.5)
    out, _ = run([upper, lower])
    torch.testing.assert_close(rows(out[0]), [1.0] * 16 + [3.0] * 16)


def test_mask_strength_weighs_against_other_prompts() -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, 16:] = 1.0
    out, _ = run([prepared(0.0), prepared(4.0, mask=mask, mask_strength=3.0)])
    torch.testing.assert_close(rows(out[0]), [0.0] * 16 + [3.0] * 16)


@pytest.mark.parametrize(("sigma", "value"), [(12.0, 1.0), (5.0, 1.5), (1.0, 2.0)])
def test_prompts_come_and_go_with_the_noise(sigma: float, value: float) -> None:
    out, _ = run([prepared(1.0, timestep_end=2.0), prepared(2.0, timestep_start=10.0)], sigma=sigma)
    assert out[0].unique().tolist() == [value]


def test_default_prompt_fills_what_the_others_leave() -> None:
    mask = torch.zeros(1, 32, 32)
    mask[:, :8], mask[:, 8:16] = 1.0, 0.25
    masked = prepared(1.0, mask=mask)
    out, _ = run([masked, prepared(5.0, default=True)])
    torch.testing.assert_close(rows(out[0]), [1.0] * 8 + [4.0] * 8 + [5.0] * 16)


def test_default_prompt_rests_where_nothing_is_left() -> None:
    out, calls = run([prepared(1.0), prepared(5.0, default=True)])
    assert out[0].unique().tolist() == [1.0]
    assert len(calls) == 1
    assert calls[0]["x"].shape[0] == len(X)


@pytest.mark.parametrize(("free_pictures", "sizes"), [(100, [8]), (5, [4, 4]), (3, [2] * 4)])
def test_batches_are_as_large_as_memory_allows(
    monkeypatch: pytest.MonkeyPatch, free_pictures: int, sizes: list[int]
) -> None:
    one_bytes = paint_model().model.memory_required([1, *X.shape[1:]]) * 1.5
    forget_free_memory()
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda device: free_pictures * one_bytes
    )
    out, calls = run([prepared(1.0), prepared(2.0)], [prepared(3.0), prepared(4.0)])
    assert [len(call["x"]) for call in calls] == sizes
    assert [image.unique().tolist() for image in out] == [[1.5], [3.5]]
    forget_free_memory()


def test_memory_is_asked_for_once_in_a_run_of_fast_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(comfy.cond_batches, "FRESH_S", 3600.0)
    monkeypatch.setattr(
        comfy.model_management, "get_free_memory", lambda device: asked.append(device) or 1e12
    )
    forget_free_memory()
    for _ in range(3):
        run([prepared(1.0)], [prepared(2.0)])
    assert len(asked) == 1
    forget_free_memory()
    run([prepared(1.0)], [prepared(2.0)])
    assert len(asked) == 2


def test_conditions_of_other_names_or_values_do_not_share_a_pass() -> None:
    extra = {"y": CONDRegular(torch.zeros(1, 2))}
    _, calls = run([prepared(1.0, model_conds=extra)], [prepared(2.0)])
    assert [len(call["x"]) for call in calls] == [2, 2]
    assert calls[0]["y"].shape == (2, 2)
    assert "y" not in calls[1]


def test_network_is_told_about_the_batch() -> None:
    positive, negative = prepared(1.0), prepared(2.0)
    given = {"transformer_options": {"patches": {"attn1_patch": ["a patch"]}, "mine": 1}}
    _, calls = run([positive], [negative], options=given)
    told = calls[0]["transformer_options"]
    assert told["uuids"] == [positive["uuid"], negative["uuid"]]
    assert torch.equal(told["sigmas"], torch.full((2,), 5.0))
    assert (told["patches"], told["mine"]) == ({"attn1_patch": ["a patch"]}, 1)
    assert given == {"transformer_options": {"patches": {"attn1_patch": ["a patch"]}, "mine": 1}}


def test_wrapper_of_the_network_gets_its_arguments() -> None:
    seen = {}

    def wrapper(apply_model: Any, args: dict[str, Any]) -> torch.Tensor:
        seen.update(args)
        return apply_model(args["input"], args["timestep"], **args["c"]) + 1.0

    options = {"transformer_options": {}, "model_function_wrapper": wrapper}
    out, _ = run([prepared(1.0)], [prepared(-1.0)], options=options)
    assert [image.unique().tolist() for image in out] == [[2.0], [0.0]]
    assert set(seen) == {"input", "timestep", "c", "cond_or_uncond"}
    assert set(seen["c"]) == {"c_crossattn", "transformer_options"}
    assert seen["cond_or_uncond"] == [0, 1]
    assert seen["input"].shape[0] == seen["timestep"].shape[0] == 4


class Control:
    """A ControlNet's place: hands on what it is asked with."""

    def __init__(self) -> None:
        self.asked: tuple[Any, ...] = ()

    def get_control(self, *args: Any) -> dict[str, Any]:
        self.asked = args
        return {"input": [], "middle": [], "output": []}


def test_control_is_computed_once_for_those_that_share_it() -> None:
    net = Control()
    _, calls = run([prepared(1.0, control=net)], [prepared(2.0, control=net)])
    x, timestep, c, count, options = net.asked
    assert (len(x), len(timestep), count) == (4, 4, 2)
    assert c["c_crossattn"].shape[0] == 4
    assert options["cond_or_uncond"] == [0, 1]
    assert [call["control"] for call in calls] == [{"input": [], "middle": [], "output": []}]


def test_prompts_with_different_control_do_not_share_a_pass() -> None:
    _, calls = run([prepared(1.0, control=Control())], [prepared(2.0)])
    assert [len(call["x"]) for call in calls] == [2, 2]
    assert [call["control"] is None for call in calls] == [False, True]


def test_each_picture_is_the_same_in_a_batch_as_alone() -> None:
    area = {"area": (16, 32, 8, 0)}
    together, _ = run([prepared(0.5), prepared(1.0, **area)])
    alone, _ = run([prepared(0.5), prepared(1.0, **area)], x=X[:1])
    assert torch.equal(together[0][:1], alone[0])


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_it_runs_in_every_grad_mode(mode: Any) -> None:
    with mode():
        out, _ = run([prepared(0.0), prepared(1.0, area=(16, 32, 8, 0))])
    assert out[0].max() == 0.5

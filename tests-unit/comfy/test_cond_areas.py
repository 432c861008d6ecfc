"""Where a prompt counts, and how much."""

from __future__ import annotations

import logging
import math
import uuid
from typing import Any

import pytest
import torch

from comfy.cond_areas import (
    clamp_area,
    create_cond_with_same_area_if_none,
    fit_area_dims,
    get_area_and_mult,
    resolve_areas_and_cond_masks,
    resolve_areas_and_cond_masks_multidim,
)
from comfy.conds import CONDNoiseShape, CONDRegular


def cond(**keys: Any) -> dict[str, Any]:
    return {"model_conds": {}, "uuid": uuid.uuid4(), **keys}


def resolve(height: int, width: int, **keys: Any) -> list[dict[str, Any]]:
    conds = [cond(**keys)]
    resolve_areas_and_cond_masks(conds, height, width, "cpu")
    return conds


def part(x: torch.Tensor, sigma: float = 1.0, **keys: Any) -> Any:
    return get_area_and_mult(cond(**keys), x, torch.full((len(x),), sigma))


@pytest.mark.parametrize(
    ("area", "resolved"),
    [
        (("percentage", 0.5, 0.25, 0.5, 0.0), (8, 5, 8, 0)),
        (("percentage", 0.0, 1.0, 0.0, 0.0), (1, 20, 0, 0)),
        (("percentage", 1.0, 1.0, 0.5, 0.5), (8, 10, 8, 10)),
        ((4, 5, 6, 7), (4, 5, 6, 7)),
        ((100, 100, 6, 7), (10, 13, 6, 7)),
    ],
)
def test_area_is_latent_pixels_inside_the_latent(
    area: tuple[Any, ...], resolved: tuple[int, ...]
) -> None:
    assert resolve(16, 20, area=area)[0]["area"] == resolved


def test_area_of_a_picture_covers_all_frames_of_a_film() -> None:
    conds = [cond(area=(4, 5, 1, 2))]
    resolve_areas_and_cond_masks_multidim(conds, [7, 16, 20], "cpu")
    assert conds[0]["area"] == (7, 4, 5, 0, 1, 2)
    assert fit_area_dims((4, 5, 1, 2), 2) == (4, 5, 1, 2)
    assert clamp_area((4, 5, 1, 2), (3, 3)) == (2, 1, 1, 2)


@pytest.mark.parametrize(
    "area", [(3, 4, 5, 2, 8, 10), ("percentage", 0.1, 0.25, 0.25, 0.9, 0.5, 0.5)]
)
def test_area_of_a_film_is_its_place_in_a_picture(area: tuple[Any, ...]) -> None:
    assert resolve(16, 20, area=area)[0]["area"] == (4, 5, 8, 10)


def test_prompt_outside_of_the_picture_is_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING):
        assert resolve(16, 20, area=(4, 4, 16, 0)) == []
    assert "outside of the latent" in caplog.text


def test_conditions_of_the_caller_stay_as_they_are() -> None:
    given = cond(area=("percentage", 0.5, 0.5, 0.0, 0.0), mask=torch.ones(1, 4, 4))
    before = dict(given)
    resolve_areas_and_cond_masks([given], 16, 16, "cpu")
    assert given == before


@pytest.mark.parametrize("shape", [(4, 6), (1, 4, 6), (1, 1, 4, 6)])
def test_mask_gets_the_latents_size(shape: tuple[int, ...]) -> None:
    mask = torch.zeros(4, 6)
    mask[:, 3:] = 1.0
    resolved = resolve(8, 12, mask=mask.reshape(shape))[0]["mask"]
    assert resolved.shape == (1, 8, 12)
    assert torch.equal(resolved[0, 0], torch.tensor([0.0] * 5 + [0.25, 0.75] + [1.0] * 5))


def test_mask_of_a_film_is_resized_in_each_frame() -> None:
    conds = [cond(mask=torch.ones(1, 3, 4, 6))]
    resolve_areas_and_cond_masks_multidim(conds, [5, 8, 12], "cpu")
    assert conds[0]["mask"].shape == (1, 5, 8, 12)


@pytest.mark.parametrize(
    ("rows", "columns", "area"),
    [
        ((4, 14), (2, 12), (10, 10, 4, 2)),
        ((4, 6), (2, 12), (8, 10, 4, 2)),
        ((15, 16), (19, 20), (8, 8, 8, 12)),
        ((0, 0), (0, 0), (8, 8, 0, 0)),
    ],
    ids=["box", "low", "corner", "empty"],
)
def test_area_can_be_the_bounds_of_the_mask(
    rows: tuple[int, int], columns: tuple[int, int], area: tuple[int, ...]
) -> None:
    mask = torch.zeros(1, 16, 20)
    mask[:, slice(*rows), slice(*columns)] = 0.5
    assert resolve(16, 20, mask=mask, set_area_to_bounds=True)[0]["area"] == area
    assert "area" not in resolve(16, 20, mask=mask, set_area_to_bounds=False)[0]


def test_strengths_of_prompt_and_mask_multiply() -> None:
    mask = torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(0))
    weighed = part(torch.zeros(2, 4, 8, 8), mask=mask, mask_strength=0.5, strength=3.0)
    torch.testing.assert_close(weighed.mult.expand(2, 4, 8, 8), (mask * 1.5).expand(2, 4, 8, 8))
    assert part(torch.zeros(2, 4, 8, 8), strength=3.0).mult.unique().tolist() == [3.0]


def test_mask_is_cut_to_the_area_and_not_feathered() -> None:
    mask = torch.arange(64.0).reshape(1, 8, 8)
    found = part(torch.zeros(1, 4, 8, 8), mask=mask, area=(4, 4, 2, 3))
    assert torch.equal(found.mult[0, 0], mask[0, 2:6, 3:7])
    assert found.input_x.shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("area", "rows"),
    [
        ((8, 32, 0, 0), [1, 1, 1, 1, 1, 1, 1, 0.5]),
        ((8, 32, 24, 0), [0.5, 1, 1, 1, 1, 1, 1, 1]),
        ((8, 32, 4, 0), [0.5, 1, 1, 1, 1, 1, 1, 0.5]),
        ((3, 32, 4, 0), [1, 1, 1]),
    ],
    ids=["top", "bottom", "middle", "too low to feather"],
)
def test_area_fades_out_towards_the_rest_of_the_picture(
    area: tuple[int, ...], rows: list[float]
) -> None:
    # Eight rows have a ramp of two: 1/2, then 1.
    found = part(torch.zeros(1, 4, 32, 32), area=area)
    assert found.mult.expand(1, 4, area[0], 32)[0, 0, :, 5].tolist() == rows


def test_feather_is_at_most_eight_wide_and_both_axes_multiply() -> None:
    found = part(torch.zeros(1, 4, 128, 128), area=(64, 64, 64, 64), strength=2.0)
    ramp = torch.cat([torch.arange(1, 9) / 8, torch.ones(56)])
    torch.testing.assert_close(found.mult[0, 0], 2.0 * ramp[:, None] * ramp[None, :])


def test_input_and_what_is_laid_out_like_it_are_cut_to_the_area() -> None:
    x = torch.arange(64.0).reshape(1, 1, 8, 8)
    given = {"c_concat": CONDNoiseShape(x * 2), "y": CONDRegular(torch.ones(1, 3))}
    found = part(x.repeat(2, 1, 1, 1), area=(2, 3, 4, 5), model_conds=given)
    assert torch.equal(found.input_x[1], x[0, :, 4:6, 5:8])
    assert torch.equal(found.conditioning["c_concat"].cond[1], 2 * x[0, :, 4:6, 5:8])
    assert found.conditioning["y"].cond.shape == (2, 3)


@pytest.mark.parametrize(
    ("sigma", "awake"), [(10.1, False), (10.0, True), (5.0, True), (2.0, True), (1.9, False)]
)
def test_prompt_is_awake_between_its_sigmas(sigma: float, awake: bool) -> None:
    found = part(torch.zeros(1, 4, 8, 8), sigma, timestep_start=10.0, timestep_end=2.0)
    assert (found is not None) is awake


def test_gligen_boxes_become_a_patch_of_this_prompt() -> None:
    class Boxes:
        def set_position(self, shape: Any, boxes: Any, device: Any) -> Any:
            return ("placed", tuple(shape), boxes, str(device))

    class Patcher:
        model = Boxes()

    found = part(torch.zeros(1, 4, 8, 8), gligen=("position", Patcher(), ["a box"]))
    assert found.patches == {"middle_patch": [("placed", (1, 4, 8, 8), ["a box"], "cpu")]}


def conditioned(value: float, **keys: Any) -> dict[str, Any]:
    return cond(model_conds={"c": CONDRegular(torch.tensor([value]))}, **keys)


def values(conds: list[dict[str, Any]]) -> list[float]:
    return [c["model_conds"]["c"].cond.item() for c in conds]


def test_crop_of_one_prompt_gets_the_other_prompts_nearest_condition() -> None:
    whole, large, small = (
        conditioned(1.0),
        conditioned(2.0, area=(8, 8, 0, 0)),
        conditioned(3.0, area=(4, 4, 0, 0)),
    )
    negative = [whole, large, small]
    create_cond_with_same_area_if_none(negative, conditioned(9.0, area=(5, 5, 1, 1), strength=2.0))
    assert values(negative) == [1.0, 2.0, 3.0, 2.0]
    assert negative[-1]["area"] == (5, 5, 1, 1)
    assert negative[-1]["strength"] == 2.0
    create_cond_with_same_area_if_none(negative, conditioned(9.0, area=(8, 8, 1, 1)))
    assert values(negative) == [1.0, 2.0, 3.0, 2.0, 1.0]


@pytest.mark.parametrize(
    ("other", "mine"),
    [
        ([conditioned(1.0)], conditioned(2.0)),
        ([conditioned(1.0, area=(4, 4, 0, 0))], conditioned(2.0, area=(4, 4, 0, 0))),
        ([conditioned(1.0, area=(4, 4, 0, 0))], conditioned(2.0, area=(4, 4, 1, 0))),
        ([], conditioned(2.0, area=(4, 4, 1, 0))),
    ],
    ids=["no area", "same area", "none around it", "none at all"],
)
def test_nothing_is_added_where_nothing_fits_or_is_needed(
    other: list[dict[str, Any]], mine: dict[str, Any]
) -> None:
    before = list(other)
    create_cond_with_same_area_if_none(other, mine)
    assert other == before


def test_infinite_lengths_stand_for_all_of_an_axis() -> None:
    assert clamp_area((math.inf, 3, 0, 1), (9, 9)) == (9, 3, 0, 1)


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_mask_of_whole_numbers_is_resized_as_its_floats_are(dtype: torch.dtype) -> None:
    mask = (torch.arange(64).reshape(1, 8, 8) % 3 == 0).to(dtype)
    found, wanted = (resolve(5, 6, mask=one)[0]["mask"] for one in (mask, mask.float()))
    assert torch.equal(found, wanted)

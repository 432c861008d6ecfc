"""Latents are resized, turned, cut and laid over each other."""

from __future__ import annotations

import pytest
import torch

import comfy.utils
from comfy_extras.classic import latent_transforms as room

SAMPLES = torch.randn((2, 4, 12, 16), generator=torch.Generator().manual_seed(0))
LATENT = {"samples": SAMPLES, "noise_mask": torch.ones(1, 1, 8, 8), "unknown": "kept"}


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [
        (256, 192, (24, 32)),
        (256, 0, (24, 32)),
        (0, 192, (24, 32)),
        (8, 8, (8, 8)),
        (0, 8, (8, 10)),
        (0, 0, (12, 16)),
    ],
)
def test_latent_is_resized_to_pixels(width: int, height: int, wanted: tuple[int, int]) -> None:
    (resized,) = room.LatentUpscale().upscale(LATENT, "bilinear", width, height, "disabled")
    assert resized["samples"].shape == (2, 4, *wanted)
    assert resized["unknown"] == "kept"
    assert LATENT["samples"] is SAMPLES


@pytest.mark.parametrize("method", room._METHODS)
def test_factor_resizes_both_sides(method: str) -> None:
    (resized,) = room.LatentUpscaleBy().upscale(LATENT, method, 1.5)
    wanted = comfy.utils.common_upscale(SAMPLES, 24, 18, method, "disabled")
    assert torch.equal(resized["samples"], wanted)
    assert resized["noise_mask"] is LATENT["noise_mask"]


@pytest.mark.parametrize("method", room._METHODS)
def test_smallest_factor_leaves_one_position(method: str) -> None:
    (resized,) = room.LatentUpscaleBy().upscale(LATENT, method, 0.01)
    assert resized["samples"].shape == (2, 4, 1, 1)


def test_quarter_turn_is_clockwise() -> None:
    (turned,) = room.LatentRotate().rotate(LATENT, "90 degrees")
    assert turned["samples"].shape == (2, 4, 16, 12)
    assert torch.equal(turned["samples"][..., 0, :], SAMPLES[..., :, 0].flip(-1))


@pytest.mark.parametrize(
    ("rotation", "times"), [("none", 0), ("180 degrees", 2), ("270 degrees", 3)]
)
def test_other_turns_are_quarter_turns_in_a_row(rotation: str, times: int) -> None:
    wanted = LATENT
    for _ in range(times):
        (wanted,) = room.LatentRotate().rotate(wanted, "90 degrees")
    (turned,) = room.LatentRotate().rotate(LATENT, rotation)
    assert torch.equal(turned["samples"], wanted["samples"])


@pytest.mark.parametrize(("way", "axis"), [("x-axis: vertically", 2), ("y-axis: horizontally", 3)])
def test_flip_mirrors_at_its_axis(way: str, axis: int) -> None:
    (flipped,) = room.LatentFlip().flip(LATENT, way)
    assert torch.equal(flipped["samples"], SAMPLES.flip(axis))


@pytest.mark.parametrize(
    ("x", "y", "rows", "columns"),
    [
        (16, 8, slice(1, 9), slice(2, 10)),
        (96, 64, slice(4, 12), slice(8, 16)),
        (800, 800, slice(4, 12), slice(8, 16)),
    ],
)
def test_crop_stays_inside(x: int, y: int, rows: slice, columns: slice) -> None:
    (cut,) = room.LatentCrop().crop(LATENT, 64, 64, x, y)
    assert torch.equal(cut["samples"], SAMPLES[..., rows, columns])


def test_crop_that_ends_outside_is_cut_short() -> None:
    (cut,) = room.LatentCrop().crop(LATENT, 128, 64, 48, 0)
    assert torch.equal(cut["samples"], SAMPLES[..., :8, 6:])


def test_composite_lies_where_it_was_put_and_no_further() -> None:
    laid = {"samples": torch.ones(1, 4, 8, 8)}
    (result,) = room.LatentComposite().composite(LATENT, laid, 80, 16)
    inside = torch.zeros_like(SAMPLES, dtype=torch.bool)
    inside[..., 2:10, 10:] = True
    assert (result["samples"][inside] == 1).all()
    assert torch.equal(result["samples"][~inside], SAMPLES[~inside])
    assert result["unknown"] == "kept"
    assert LATENT["samples"] is SAMPLES


def test_feather_fades_edges_inside_only() -> None:
    under, laid = {"samples": torch.zeros(1, 1, 12, 12)}, {"samples": torch.ones(1, 1, 6, 6)}
    (result,) = room.LatentComposite().composite(under, laid, 0, 24, feather=16)
    column = result["samples"][0, 0, :, 0]
    assert column.tolist() == [0, 0, 0, 0.5, 1, 1, 1, 1, 0.5, 0, 0, 0]
    row = result["samples"][0, 0, 5]
    assert row.tolist() == [1, 1, 1, 1, 1, 0.5, 0, 0, 0, 0, 0, 0]


def test_composite_outside_changes_nothing() -> None:
    laid = {"samples": torch.ones(1, 4, 8, 8)}
    (result,) = room.LatentComposite().composite(LATENT, laid, 128, 0)
    assert torch.equal(result["samples"], SAMPLES)


@pytest.mark.parametrize("factor", [0.0, 0.25, 1.0])
def test_blend_is_weighted_and_as_large_as_its_first_input(factor: float) -> None:
    other = {"samples": torch.full((2, 4, 6, 8), 3.0)}
    (mixed,) = room.LatentBlend().blend(LATENT, other, factor)
    assert torch.allclose(mixed["samples"], SAMPLES * factor + 3.0 * (1 - factor), atol=1e-5)


@pytest.mark.parametrize(
    ("counts", "wanted"), [((2, 3), [0, 1]), ((3, 2), [0, 1, 0]), ((1, 2), [0, 1])]
)
def test_blend_repeats_or_cuts_the_second_batch(counts: tuple[int, int], wanted: list[int]) -> None:
    first, second = torch.zeros(counts[0], 4, 8, 8), torch.arange(counts[1]).float()
    second = second[:, None, None, None].expand(-1, 4, 8, 8)
    (mixed,) = room.LatentBlend().blend({"samples": first}, {"samples": second}, 0.0)
    assert mixed["samples"][:, 0, 0, 0].tolist() == wanted

"""Nodes that change pictures in memory."""

from __future__ import annotations

import pytest
import torch

from comfy_extras.classic.images import (
    EmptyImage,
    ImageBatch,
    ImageInvert,
    ImagePadForOutpaint,
    ImageScale,
    ImageScaleBy,
)

PICTURE = torch.rand((2, 8, 16, 3), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("width", "height", "wanted"),
    [(32, 4, (4, 32)), (32, 0, (16, 32)), (0, 2, (2, 4)), (0, 0, (8, 16))],
)
@pytest.mark.parametrize("method", ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"])
def test_zero_keeps_the_aspect(
    width: int, height: int, wanted: tuple[int, int], method: str
) -> None:
    (scaled,) = ImageScale().upscale(PICTURE, method, width, height, "disabled")
    assert scaled.shape == (2, *wanted, 3)


def test_center_crop_keeps_proportions() -> None:
    marked = torch.zeros((1, 8, 16, 3))
    marked[:, :, 4:12] = 1.0
    (scaled,) = ImageScale().upscale(marked, "nearest-exact", 8, 8, "center")
    assert (scaled == 1).all()


def test_factor_scales_both_sides() -> None:
    (scaled,) = ImageScaleBy().upscale(PICTURE, "bilinear", 1.5)
    assert scaled.shape == (2, 12, 24, 3)


@pytest.mark.parametrize("method", ["bilinear", "lanczos"])
def test_smallest_factor_leaves_one_pixel(method: str) -> None:
    assert ImageScaleBy().upscale(PICTURE, method, 0.01)[0].shape == (2, 1, 1, 3)


def test_negative_of_a_negative_is_the_picture() -> None:
    (negative,) = ImageInvert().invert(PICTURE)
    assert torch.allclose(ImageInvert().invert(negative)[0], PICTURE, atol=1e-6)
    assert not torch.equal(negative, PICTURE)


def test_second_batch_takes_size_and_channels_of_the_first() -> None:
    other = torch.ones((1, 4, 4, 4))
    (joined,) = ImageBatch().batch(PICTURE, other)
    assert joined.shape == (3, 8, 16, 3)
    assert torch.equal(joined[:2], PICTURE)
    assert (joined[2] == 1).all()


def test_plain_picture_has_the_colour_of_its_number() -> None:
    (plain,) = EmptyImage().generate(3, 2, 2, 0xFF8000)
    assert plain.shape == (2, 2, 3, 3)
    assert torch.allclose(plain[1, 1, 2], torch.tensor([1.0, 128 / 255, 0.0]))


def test_frame_is_grey_and_masked() -> None:
    framed, mask = ImagePadForOutpaint().expand_image(PICTURE, 8, 0, 16, 24, 0)
    assert framed.shape == (2, 32, 40, 3)
    assert mask.shape == (1, 32, 40)
    assert torch.equal(framed[:, :8, 8:24], PICTURE)
    assert (mask[0, :8, 8:24] == 0).all()
    mask[0, :8, 8:24] = 1
    assert (mask == 1).all()
    framed[:, :8, 8:24] = 0.5
    assert (framed == 0.5).all()


def test_mask_falls_with_the_square_away_from_moved_edges_only() -> None:
    _, mask = ImagePadForOutpaint().expand_image(torch.zeros((1, 20, 20, 3)), 8, 0, 0, 0, 4)
    inside = mask[0, :, 8:]
    assert torch.allclose(inside[0, :5], torch.tensor([1.0, 9 / 16, 4 / 16, 1 / 16, 0.0]))
    assert (inside[:, 5:] == 0).all()
    assert torch.equal(inside[0], inside[-1])

"""Masks are made, changed, compared, and lay one thing over another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import scipy.ndimage
import torch
from PIL import Image

import folder_paths
from comfy_extras import nodes_mask
from comfy_extras.masks import shapes

_SEED = torch.Generator().manual_seed(0)
DESTINATION = torch.rand((2, 3, 9, 11), generator=_SEED)
SOURCE = torch.rand((1, 3, 4, 5), generator=_SEED)
MASK = torch.rand((1, 4, 5), generator=_SEED)
BLOBS = (torch.rand((2, 13, 17), generator=_SEED) > 0.9).float() * 0.75


def _by_hand(x: int, y: int, mask: torch.Tensor) -> np.ndarray:
    """Pixel by pixel, as a person would paste."""
    result, over, opacity = DESTINATION.numpy().copy(), SOURCE.numpy(), mask.numpy()
    for row in range(over.shape[2]):
        for column in range(over.shape[3]):
            down, across = row + y, column + x
            if 0 <= down < result.shape[2] and 0 <= across < result.shape[3]:
                part = opacity[0, row, column]
                old = result[:, :, down, across]
                result[:, :, down, across] = part * over[0, :, row, column] + (1 - part) * old
    return result


@pytest.mark.parametrize(("x", "y"), [(0, 0), (3, 2), (9, 7), (11, 0), (40, 40), (-2, -3), (-5, 1)])
@pytest.mark.parametrize("masked", [True, False])
def test_composite_lies_where_it_was_put_through_its_mask(x: int, y: int, masked: bool) -> None:
    before = DESTINATION.clone()
    laid = nodes_mask.composite(DESTINATION, SOURCE, x, y, MASK if masked else None, 1)
    wanted = _by_hand(x, y, MASK if masked else torch.ones_like(MASK))
    assert np.allclose(laid.numpy(), wanted, atol=1e-6)
    assert torch.equal(DESTINATION, before)


def test_place_is_in_pixels_of_which_eight_make_an_element() -> None:
    assert torch.equal(
        nodes_mask.composite(DESTINATION, SOURCE, 24, 17),
        nodes_mask.composite(DESTINATION, SOURCE, 3, 2, multiplier=1),
    )


def test_source_can_take_the_size_of_the_destination() -> None:
    laid = nodes_mask.composite(DESTINATION, SOURCE, 0, 0, None, 1, resize_source=True)
    wanted = torch.nn.functional.interpolate(SOURCE, size=(9, 11), mode="bilinear")
    assert torch.allclose(laid, wanted.expand(2, -1, -1, -1))


def test_each_frame_of_a_video_is_covered() -> None:
    video = torch.zeros(1, 3, 2, 9, 11)
    laid = nodes_mask.composite(video, SOURCE[:, :, None].expand(-1, -1, 2, -1, -1), 1, 1, MASK, 1)
    alone = nodes_mask.composite(video[:, :, 0], SOURCE, 1, 1, MASK, 1)
    assert torch.equal(laid[:, :, 0], alone)
    assert torch.equal(laid[:, :, 1], alone)


def test_latent_keeps_what_else_it_has() -> None:
    latent = {"samples": DESTINATION, "unknown": "kept"}
    output = nodes_mask.LatentCompositeMasked.composite(latent, {"samples": SOURCE}, 8, 8, False)
    assert output[0]["unknown"] == "kept"
    assert torch.equal(output[0]["samples"], nodes_mask.composite(DESTINATION, SOURCE, 8, 8))
    assert latent["samples"] is DESTINATION


def test_picture_without_alpha_is_opaque_on_one_with_alpha() -> None:
    under = torch.zeros(1, 4, 4, 4)
    output = nodes_mask.ImageCompositeMasked.execute(
        under, torch.full((1, 2, 2, 3), 0.5), 1, 2, False
    )
    assert output[0].shape == (1, 4, 4, 4)
    assert output[0][0, 2, 1].tolist() == [0.5, 0.5, 0.5, 1.0]
    assert output[0][0, 0, 0].tolist() == [0.0] * 4


@pytest.mark.parametrize("tapered", [True, False])
@pytest.mark.parametrize("steps", [-3, -1, 0, 1, 2, 5])
def test_growing_is_repeated_grey_dilation(steps: int, tapered: bool) -> None:
    footprint = np.ones((3, 3), dtype=bool)
    if tapered:
        footprint[::2, ::2] = False
    change = scipy.ndimage.grey_dilation if steps > 0 else scipy.ndimage.grey_erosion
    wanted = BLOBS.numpy()
    for _ in range(abs(steps)):
        wanted = np.stack([change(plane, footprint=footprint) for plane in wanted])
    grown = nodes_mask.GrowMask.expand_mask(BLOBS, steps, tapered)[0]
    assert np.array_equal(grown.numpy(), wanted)


@pytest.mark.parametrize("tapered", [True, False])
def test_growing_without_end_fills_the_mask(tapered: bool) -> None:
    grown = shapes.grow(BLOBS, 16384, tapered)
    assert (grown == 0.75).all()


def test_feather_rises_from_each_edge() -> None:
    wanted = np.ones((1, 6, 8), dtype=np.float32)
    for edge, over in (("left", 3), ("top", 2), ("right", 0), ("bottom", 4)):
        for step in range(over):
            line = {
                "left": np.s_[:, :, step],
                "right": np.s_[:, :, -1 - step],
                "top": np.s_[:, step],
                "bottom": np.s_[:, -1 - step],
            }[edge]
            wanted[line] *= (step + 1) / over
    feathered = nodes_mask.FeatherMask.execute(torch.ones(6, 8), 3, 2, 0, 4)[0]
    assert np.allclose(feathered.numpy(), wanted)


def test_feather_wider_than_the_mask_rises_over_all_of_it() -> None:
    feathered = shapes.feather(torch.ones(1, 4), 100, 0, 0, 0)
    assert feathered[0, 0].tolist() == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("operation", "formula"),
    [
        ("multiply", lambda under, over: under * over),
        ("add", lambda under, over: under + over),
        ("subtract", lambda under, over: under - over),
        ("and", lambda under, over: (under > 0.5) & (over > 0.5)),
        ("or", lambda under, over: (under > 0.5) | (over > 0.5)),
        ("xor", lambda under, over: (under > 0.5) ^ (over > 0.5)),
    ],
)
def test_masks_are_combined_where_they_meet(operation: str, formula: object) -> None:
    under = torch.rand((2, 6, 7), generator=torch.Generator().manual_seed(1))
    wanted = under.numpy().copy()
    wanted[:, 4:6, 5:7] = formula(wanted[:, 4:6, 5:7], MASK.numpy()[:, :2, :2])  # type: ignore[operator]
    combined = nodes_mask.MaskComposite.execute(under, MASK, 5, 4, operation)[0]
    assert np.allclose(combined.numpy(), wanted.clip(0, 1))


def test_operations_are_those_of_the_listing() -> None:
    assert list(shapes.OPERATIONS) == ["multiply", "add", "subtract", "and", "or", "xor"]


def test_colour_is_compared_with_eight_bits() -> None:
    levels = torch.tensor([[[255, 128, 3], [255, 128, 4], [255, 128, 3]]]) / 255.0
    levels[0, 2] += 0.001
    found = nodes_mask.ImageColorToMask.image_to_mask(levels[None], 0xFF8003)[0]
    assert found.tolist() == [[[1.0, 0.0, 1.0]]]


def test_channel_becomes_a_mask_and_a_mask_a_picture() -> None:
    image = torch.rand(2, 3, 4, 4)
    mask = nodes_mask.ImageToMask.image_to_mask(image, "alpha")[0]
    assert torch.equal(mask, image[..., 3])
    back = nodes_mask.MaskToImage.mask_to_image(mask)[0]
    assert back.shape == (2, 3, 4, 3)
    assert torch.equal(back[..., 2], mask)


def test_missing_channel_is_named() -> None:
    with pytest.raises(ValueError, match="3 channels and none for alpha"):
        nodes_mask.ImageToMask.execute(torch.rand(1, 2, 2, 3), "alpha")


def test_plain_masks() -> None:
    solid = nodes_mask.SolidMask.solid(0.25, 5, 4)[0]
    assert (solid.shape, solid.unique().tolist()) == ((1, 4, 5), [0.25])
    assert nodes_mask.InvertMask.invert(solid)[0].unique().tolist() == [0.75]
    hard = nodes_mask.ThresholdMask.execute(torch.tensor([[[0.4, 0.5, 0.6]]]), 0.5)[0]
    assert hard.tolist() == [[[0.0, 0.0, 1.0]]]


def test_crop_ends_with_the_mask() -> None:
    cut = nodes_mask.CropMask.crop(BLOBS, 10, 2, 100, 3)[0]
    assert torch.equal(cut, BLOBS[:, 2:5, 10:])


def test_preview_shows_the_mask_in_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    shown = nodes_mask.MaskPreview.execute(torch.tensor([[[0.0, 0.5, 1.0]]])).ui.as_dict()
    (record,) = shown["images"]
    with Image.open(tmp_path / record["filename"]) as picture:
        assert np.asarray(picture).tolist() == [[[0] * 3, [127] * 3, [255] * 3]]
    assert record["type"] == "temp"

"""Pictures are cut, turned, scaled, padded, gathered and measured."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from comfy_extras import node_texts, nodes_images, nodes_post_processing
from comfy_extras.pictures import geometry

_GENERATOR = torch.Generator().manual_seed(0)
IMAGE = torch.rand((3, 6, 10, 3), generator=_GENERATOR)


@pytest.mark.parametrize(
    ("place", "rows", "columns"),
    [
        ((2, 1, 4, 3), slice(1, 4), slice(2, 6)),
        ((8, 5, 4, 4), slice(5, 6), slice(8, 10)),
        ((50, 50, 4, 4), slice(5, 6), slice(9, 10)),
    ],
)
def test_crop_begins_inside_and_ends_with_the_picture(
    place: tuple[int, int, int, int], rows: slice, columns: slice
) -> None:
    x, y, width, height = place
    cut = nodes_images.ImageCrop.crop(IMAGE, width, height, x, y)[0]
    assert torch.equal(cut, IMAGE[:, rows, columns])


@pytest.mark.parametrize(
    ("rotation", "turns"), [("none", 0), ("90 degrees", 1), ("270 degrees", 3)]
)
def test_turn_is_clockwise(rotation: str, turns: int) -> None:
    turned = nodes_images.ImageRotate.rotate(IMAGE, rotation)[0]
    # numpy turns from the first axis towards the second: to the right with columns first.
    assert np.array_equal(turned.numpy(), np.rot90(IMAGE.numpy(), turns, axes=(2, 1)))
    if turns == 1:
        assert torch.equal(turned[:, 0], IMAGE[:, :, 0].flip(1))


@pytest.mark.parametrize(("way", "axis"), [("x-axis: vertically", 1), ("y-axis: horizontally", 2)])
def test_flip_mirrors_at_its_axis(way: str, axis: int) -> None:
    flipped = nodes_images.ImageFlip.flip(IMAGE, way)[0]
    assert np.array_equal(flipped.numpy(), np.flip(IMAGE.numpy(), axis))


@pytest.mark.parametrize(
    ("size", "inside"),
    [
        ((20, 20), (slice(4, 16), slice(0, 20))),
        ((10, 3), (slice(0, 3), slice(2, 7))),
        ((10, 6), (slice(0, 6), slice(0, 10))),
    ],
)
def test_padded_picture_is_whole_and_centred(
    size: tuple[int, int], inside: tuple[slice, slice]
) -> None:
    padded = nodes_images.ResizeAndPadImage.execute(IMAGE * 0.5, *size, "white", "area")[0]
    assert padded.shape == (3, size[1], size[0], 3)
    is_ground = torch.ones(size[1], size[0], dtype=torch.bool)
    is_ground[inside] = False
    assert (padded[:, is_ground] == 1.0).all()
    assert (padded[:, ~is_ground] < 0.51).all()


@pytest.mark.parametrize(
    ("size", "wanted"),
    [((6, 10), (48, 80)), ((10, 6), (80, 48)), ((7, 7), (80, 80)), ((1, 9), (9, 80))],
)
def test_longer_side_gets_the_length(size: tuple[int, int], wanted: tuple[int, int]) -> None:
    scaled = nodes_images.ImageScaleToMaxDimension.upscale(torch.zeros(1, *size, 3), "area", 80)
    assert scaled[0].shape == (1, *wanted, 3)


def test_length_of_nothing_leaves_a_pixel() -> None:
    assert nodes_images.ImageScaleToMaxDimension.execute(IMAGE, "area", 0)[0].shape[1:3] == (1, 1)


@pytest.mark.parametrize(
    ("size", "megapixels", "steps"),
    [((512, 512), 1.0, 1), ((300, 700), 0.25, 8), ((9, 5), 1.5, 64)],
)
def test_total_pixels_are_met_at_the_aspect(
    size: tuple[int, int], megapixels: float, steps: int
) -> None:
    width, height = geometry.total_pixels_size(*size, megapixels, steps)
    assert (width % steps, height % steps) == (0, 0)
    ideal = (megapixels * 1024 * 1024 * size[0] / size[1]) ** 0.5
    assert abs(width - ideal) <= steps / 2 + 1
    assert abs(height - ideal * size[1] / size[0]) <= steps / 2 + 1


def test_picture_is_scaled_to_total_pixels() -> None:
    scaled = nodes_post_processing.ImageScaleToTotalPixels.upscale(
        torch.zeros(1, 100, 400, 3), "bilinear", 0.01, 16
    )[0]
    assert scaled.shape == (1, 48, 208, 3)


RESIZES = [
    ({"resize_type": "scale by multiplier", "multiplier": 1.5}, (9, 15)),
    ({"resize_type": "scale dimensions", "width": 4, "height": 4, "crop": "center"}, (4, 4)),
    ({"resize_type": "scale dimensions", "width": 20, "height": 0, "crop": "disabled"}, (12, 20)),
    ({"resize_type": "scale dimensions", "width": 0, "height": 3, "crop": "disabled"}, (3, 5)),
    ({"resize_type": "scale dimensions", "width": 0, "height": 0, "crop": "disabled"}, (6, 10)),
    ({"resize_type": "scale longer dimension", "longer_size": 40}, (24, 40)),
    ({"resize_type": "scale shorter dimension", "shorter_size": 12}, (12, 20)),
    ({"resize_type": "scale width", "width": 5}, (3, 5)),
    ({"resize_type": "scale height", "height": 18}, (18, 30)),
    ({"resize_type": "scale total pixels", "megapixels": 0.01}, (79, 132)),
    ({"resize_type": "match size", "match": torch.zeros(1, 7, 9), "crop": "center"}, (7, 9)),
    ({"resize_type": "match size", "match": torch.zeros(1, 7, 9, 3), "crop": "center"}, (7, 9)),
]


@pytest.mark.parametrize(("how", "wanted"), RESIZES)
def test_pictures_and_masks_are_resized_in_many_ways(
    how: dict[str, object], wanted: tuple[int, int]
) -> None:
    node = nodes_post_processing.ResizeImageMaskNode
    assert node.execute(IMAGE, how, "bilinear")[0].shape == (3, *wanted, 3)
    assert node.execute(IMAGE[..., 0], how, "bilinear")[0].shape == (3, *wanted)


def test_every_way_to_resize_has_its_inputs() -> None:
    schema = nodes_post_processing.ResizeImageMaskNode.GET_SCHEMA()
    offered = {option.key for option in schema.inputs[1].options}
    assert offered == {how["resize_type"] for how, _ in RESIZES}


def test_batches_are_repeated_and_taken_apart() -> None:
    assert torch.equal(nodes_images.RepeatImageBatch.repeat(IMAGE, 2)[0], torch.cat((IMAGE, IMAGE)))
    assert torch.equal(nodes_images.ImageFromBatch.frombatch(IMAGE, 1, 1)[0], IMAGE[1:2])
    assert torch.equal(nodes_images.ImageFromBatch.frombatch(IMAGE, 1, 9)[0], IMAGE[1:])
    assert torch.equal(nodes_images.ImageFromBatch.frombatch(IMAGE, 9, 9)[0], IMAGE[2:])


def test_noise_is_normal_and_the_same_for_a_seed() -> None:
    grey = torch.full((1, 100, 100, 3), 0.5)
    noisy = nodes_images.ImageAddNoise.execute(grey, 7, 0.1)[0]
    assert torch.equal(noisy, nodes_images.ImageAddNoise.execute(grey, 7, 0.1)[0])
    assert float((noisy - grey).std()) == pytest.approx(0.1, rel=0.02)
    assert float((noisy - grey).mean()) == pytest.approx(0.0, abs=0.003)
    strong = nodes_images.ImageAddNoise.execute(grey, 8, 1.0)[0]
    assert (float(strong.min()), float(strong.max())) == (0.0, 1.0)


def test_size_is_given_and_shown_at_the_node() -> None:
    told: list[tuple[str, str]] = []
    stop = node_texts.add_sender(lambda text, node: told.append((text, node)))
    node = nodes_images.GetImageSize.PREPARE_CLASS_CLONE({"hidden_inputs": {"UNIQUE_ID": "5"}})
    try:
        output = node.execute(IMAGE)
        nodes_images.GetImageSize.get_size(IMAGE)
    finally:
        stop()
    assert output.result == (10, 6, 3)
    assert told == [("10 x 6 pixels, batch of 3", "5")]
    node.execute(IMAGE)
    assert len(told) == 1


def test_gathered_pictures_take_size_and_channels() -> None:
    images = {"image0": IMAGE, "image1": torch.full((1, 12, 20, 4), 0.5), "image2": IMAGE[:1]}
    batch = nodes_post_processing.BatchImagesNode.execute(images)[0]
    assert batch.shape == (5, 6, 10, 4)
    assert (batch[:3, ..., 3] == 1.0).all()
    assert torch.equal(batch[4, ..., :3], IMAGE[0])
    assert torch.allclose(batch[3], torch.tensor(0.5))


def test_gathered_masks_take_the_size_of_the_first() -> None:
    masks = {"mask0": torch.zeros(4, 5), "mask1": torch.ones(2, 8, 10)}
    batch = nodes_post_processing.BatchMasksNode.execute(masks)[0]
    assert batch.shape == (3, 4, 5)
    assert batch.mean(dim=(1, 2)).tolist() == [0.0, 1.0, 1.0]

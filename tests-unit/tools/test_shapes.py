"""Pictures of shapes are read as what was drawn."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
from PIL import Image

from tools.shapes.drawing import draw, outline
from tools.shapes.reading import read
from tools.shapes.scenes import (
    BACKGROUNDS,
    COLOURS,
    POSITIONS,
    SHAPES,
    SIZES,
    Scene,
    random_prompt,
    random_scene,
)


@pytest.mark.parametrize(("shape", "background"), list(itertools.product(SHAPES, BACKGROUNDS)))
def test_what_was_drawn_is_read(shape: str, background: str) -> None:
    for colour, position, size in itertools.product(COLOURS, POSITIONS, SIZES):
        found = read(draw(Scene(colour, shape, background, position, size)))
        assert (found.colour, found.shape, found.background) == (colour, shape, background)


@pytest.mark.parametrize("background", BACKGROUNDS)
def test_plain_picture_has_no_shape(background: str) -> None:
    found = read(Image.new("RGB", (64, 64), BACKGROUNDS[background]))
    assert (found.shape, found.background) == ("", background)


def test_noise_has_no_shape() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert read(Image.fromarray(noise)).shape == ""


def test_soft_and_noisy_pictures_are_still_read() -> None:
    rng = np.random.default_rng(1)
    for shape in SHAPES:
        pixels = np.asarray(draw(Scene("blue", shape, "beige"))).astype(float)
        spoilt = np.clip(pixels + rng.normal(0, 8, pixels.shape), 0, 255).astype(np.uint8)
        assert read(Image.fromarray(spoilt)).shape == shape


def test_every_prompt_names_colour_shape_and_background() -> None:
    rng = random.Random(0)
    for _ in range(200):
        scene = random_scene(rng)
        for text in (scene.prompt, random_prompt(scene, rng)):
            assert {scene.colour, scene.shape, scene.background} <= set(
                text.replace(",", "").split()
            )


def test_round_shapes_have_no_corners() -> None:
    with pytest.raises(ValueError, match="'ring' has no corners"):
        outline("ring")

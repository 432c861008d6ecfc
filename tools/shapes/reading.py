"""Reading a picture: which shape of which colour is on which background."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageDraw

from tools.shapes.drawing import draw_shape
from tools.shapes.scenes import BACKGROUNDS, COLOURS, SHAPES

_TEMPLATE_PIXELS = 32
# Half of the distance between the nearest colour and background, in 8-bit RGB.
_FOREGROUND_DISTANCE = 45.0
# Half of a shape's pixels are nearer than this to its colour; noise is not.
_LARGEST_SPREAD = 60.0
# Fewer pixels than this share of the picture are specks.
_SMALLEST_SHARE = 0.01


@dataclass(frozen=True, slots=True)
class Reading:
    """What was seen.

    Attributes:
        colour: Nearest name.
        shape: Best match; empty if there is nothing of one colour on the background.
        background: Nearest name.
        match: Overlap with the shape's template, 0 to 1 (intersection over union).
    """

    colour: str
    shape: str
    background: str
    match: float


def nearest_name(rgb: np.ndarray, names: dict[str, tuple[int, int, int]]) -> str:
    """The name whose colour has the smallest distance in RGB."""
    return min(names, key=lambda name: float(np.linalg.norm(rgb - np.array(names[name]))))


@lru_cache(maxsize=1)
def _templates() -> dict[str, np.ndarray]:
    templates = {}
    for shape in SHAPES:
        image = Image.new("L", (256, 256), 0)
        draw_shape(ImageDraw.Draw(image), shape, (128, 128), 120, 255, 0)
        templates[shape] = _fit_box(np.asarray(image) > 127)
    return templates


def _fit_box(mask: np.ndarray) -> np.ndarray:
    """Cut to its bounding box and stretched to the templates' size."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    size = (_TEMPLATE_PIXELS, _TEMPLATE_PIXELS)
    stretched = Image.fromarray((box * 255).astype(np.uint8)).resize(size, Image.Resampling.BOX)
    return np.asarray(stretched) > 127


def _without_specks(mask: np.ndarray) -> np.ndarray:
    """Drop rows and columns of which hardly a pixel belongs to the shape."""
    kept: np.ndarray = mask.copy()
    kept[mask.sum(axis=1) < 2, :] = False
    kept[:, mask.sum(axis=0) < 2] = False
    return kept


def read(image: Image.Image | str | Path | BinaryIO) -> Reading:
    """Say what is in a picture.

    Args:
        image: A picture of any size, converted to RGB; or the file of one, by path or open.

    Returns:
        What was seen; the shape is empty if the picture is plain or noise.
    """
    if not isinstance(image, Image.Image):
        with Image.open(image) as opened:
            return read(opened.convert("RGB"))
    pixels = np.asarray(image.convert("RGB")).astype(np.float32)
    edge = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    ground = np.median(edge, axis=0)
    background = nearest_name(ground, BACKGROUNDS)
    mask = _without_specks(np.linalg.norm(pixels - ground, axis=2) > _FOREGROUND_DISTANCE)
    if mask.mean() < _SMALLEST_SHARE:
        return Reading("", "", background, 0.0)
    inside = pixels[mask]
    middle = np.median(inside, axis=0)
    colour = nearest_name(middle, COLOURS)
    if np.median(np.linalg.norm(inside - middle, axis=1)) > _LARGEST_SPREAD:
        return Reading(colour, "", background, 0.0)
    # Blurred edges belong to the shape up to half-way between the two colours.
    nearer = np.linalg.norm(pixels - middle, axis=2) < np.linalg.norm(pixels - ground, axis=2)
    found = _fit_box(_without_specks(nearer))
    matches = {
        shape: float((found & template).sum() / (found | template).sum())
        for shape, template in _templates().items()
    }
    shape = max(matches, key=lambda name: matches[name])
    return Reading(colour, shape, background, matches[shape])

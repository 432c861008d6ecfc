"""Pictures scaled, padded, cut, turned and gathered; (batch, height, width, channels), 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

import comfy.utils
from node_helpers import image_alpha_fix

MEGAPIXEL = 1024 * 1024
TURNS = {"none": 0, "90 degrees": 1, "180 degrees": 2, "270 degrees": 3}
"""Clockwise turns by their quarters."""


def scaled(
    image: torch.Tensor, width: int, height: int, method: str, crop: str = "disabled"
) -> torch.Tensor:
    """Resize; see `comfy.utils.common_upscale` for methods and crops."""
    planes = image.movedim(-1, 1)
    return comfy.utils.common_upscale(planes, width, height, method, crop).movedim(1, -1)


def cut(image: torch.Tensor, x: int, y: int, width: int, height: int) -> torch.Tensor:
    """A rectangle; one that begins outside begins at the last pixel, one that ends there is cut."""
    top, left = min(y, image.shape[1] - 1), min(x, image.shape[2] - 1)
    return image[:, top : top + height, left : left + width]


def middle(side: int, unit: int) -> slice:
    """The middle of a side, as long as whole units allow.

    Args:
        side: Pixels.
        unit: Pixels per position of a latent.
    """
    start = side % unit // 2
    return slice(start, start + side // unit * unit)


def padded_to(
    image: torch.Tensor, width: int, height: int, value: float, method: str
) -> torch.Tensor:
    """Scale to fit into a size, and centre on a ground that fills it.

    Args:
        value: Of all channels of the ground.
        method: Of scaling.
    """
    count, rows, columns, channels = image.shape
    factor = min(width / columns, height / rows)
    across, down = max(1, int(columns * factor)), max(1, int(rows * factor))
    left, top = (width - across) // 2, (height - down) // 2
    ground = image.new_full((count, height, width, channels), value)
    ground[:, top : top + down, left : left + across] = scaled(image, across, down, method)
    return ground


def to_longest(image: torch.Tensor, length: int, method: str) -> torch.Tensor:
    """Scale, at its aspect, until the longer side has `length` pixels."""
    width, height = _with_longer(image.shape[2], image.shape[1], length)
    return scaled(image, width, height, method)


def _with_longer(width: int, height: int, length: int) -> tuple[int, int]:
    longer = max(width, height)
    return max(1, round(width * length / longer)), max(1, round(height * length / longer))


def total_pixels_size(width: int, height: int, megapixels: float, multiple: int) -> tuple[int, int]:
    """The size of that area at the same aspect, each side a multiple; at least one of them.

    Args:
        megapixels: Of 1024 x 1024 pixels.
        multiple: Pixels.
    """
    factor = math.sqrt(int(megapixels * MEGAPIXEL) / (width * height))
    sides = (max(1, round(side * factor / multiple)) * multiple for side in (width, height))
    across, down = sides
    return across, down


def turned(image: torch.Tensor, rotation: str) -> torch.Tensor:
    """Turn clockwise by one of `TURNS`."""
    return torch.rot90(image, TURNS[rotation], dims=(2, 1))


def mirrored(image: torch.Tensor, way: str) -> torch.Tensor:
    """Mirror at the axis with which `way` begins, "x" (upside down) or "y"."""
    return image.flip(1 if way.startswith("x") else 2)


def with_noise(image: torch.Tensor, seed: int, strength: float) -> torch.Tensor:
    """Add normal noise of a standard deviation, drawn on the CPU so that it is the same anywhere."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(image.shape, generator=generator).to(image)
    return (image + strength * noise).clamp(0.0, 1.0)


def gathered(images: Sequence[torch.Tensor]) -> torch.Tensor:
    """One batch of many; all take the size of the first and the most channels of any."""
    widest = max(images, key=lambda image: image.shape[-1])
    rows, columns = images[0].shape[1:3]
    parts = []
    for image in images:
        _, part = image_alpha_fix(widest, image)
        if part.shape[1:3] != (rows, columns):
            part = scaled(part, columns, rows, "bilinear", "center")
        parts.append(part.to(images[0]))
    return torch.cat(parts)

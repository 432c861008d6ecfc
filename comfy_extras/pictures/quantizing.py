"""Pictures in few colours: a palette of their own, with or without dithering."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

DITHERS = ("none", "floyd-steinberg", "bayer-2", "bayer-4", "bayer-8", "bayer-16")


def thresholds(order: int) -> npt.NDArray[Any]:
    """Bayer's matrix, (order, order), in -0.5 to 0.5 around 0.

    The rank of a place has the bits of ``column ^ row`` and of ``row``, taken in turns and read
    backwards: neighbours differ in the highest bits.

    Source: Bayer, An optimum method for two-level rendition of continuous-tone pictures (1973).

    Args:
        order: A power of two.
    """
    row, column = np.indices((order, order))
    rank = np.zeros((order, order), dtype=np.int64)
    for bit in range(order.bit_length() - 1):
        rank = rank << 2 | ((row ^ column) >> bit & 1) << 1 | row >> bit & 1
    return ((rank + 0.5) / (order * order) - 0.5).astype(np.float32)


def quantized(image: torch.Tensor, colours: int, dither: str) -> torch.Tensor:
    """Reduce each picture to a palette of its own.

    Args:
        image: (batch, height, width, 3 or more), 0 to 1; only colours are kept.
        colours: 1 to 256.
        dither: One of `DITHERS`. Bayer's spreads over two steps of an even scale of that many.

    Returns:
        (batch, height, width, 3), float32.
    """
    return torch.stack([_one(one, colours, dither) for one in image])


def _one(image: torch.Tensor, colours: int, dither: str) -> torch.Tensor:
    levels = image[..., :3].cpu().float().numpy() * 255.0
    picture = _picture(levels)
    palette = picture.quantize(colors=colours)
    method = Image.Dither.NONE
    if dither == "floyd-steinberg":
        method = Image.Dither.FLOYDSTEINBERG
    elif dither.startswith("bayer-"):
        picture = _picture(levels + _pattern(picture.size, dither, colours))
    reduced = picture.quantize(colors=colours, palette=palette, dither=method).convert("RGB")
    return torch.from_numpy(np.asarray(reduced).astype(np.float32) / 255.0)


def _picture(levels: npt.NDArray[Any]) -> Image.Image:
    return Image.fromarray(levels.clip(0.0, 255.0).astype(np.uint8))


def _pattern(size: tuple[int, int], dither: str, colours: int) -> npt.NDArray[Any]:
    """What Bayer's dithering adds to each pixel, (height, width, 1), in levels."""
    order = int(dither.removeprefix("bayer-"))
    across, down = (-(-length // order) for length in size)
    tiled = np.tile(thresholds(order), (down, across))[: size[1], : size[0], None]
    return tiled * np.float32(2.0 * 256.0 / colours)

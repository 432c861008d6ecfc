"""How an autoencoder is run on pictures of any size: whole if there is room, else in tiles."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.loading.errors import NotEnoughMemory

logger = logging.getLogger(__name__)


def whole_or_tiled(
    samples: torch.Tensor,
    needs: Callable[[int, int], int],
    free: int,
    on_batch: Callable[[torch.Tensor], torch.Tensor],
    in_tiles: Callable[[int], torch.Tensor],
    sides: Sequence[int],
) -> torch.Tensor:
    """Run as many samples at a time as fit; in tiles, ever smaller, if one is too much.

    Args:
        samples: [B, C, H, W].
        needs: Bytes of one sample of some height and width.
        free: Bytes that are free.
        on_batch: Runs some samples whole.
        in_tiles: Runs all samples in tiles of a side.
        sides: Of tiles, largest first.

    Raises:
        OutOfMemoryError: If not even the smallest tile fits.
    """
    height, width = samples.shape[-2:]
    whole = needs(height, width)
    if whole <= free:
        count = max(1, free // max(1, whole))
        result = _unless_full(lambda: _batched(samples, on_batch, count))
        if result is not None:
            return result
    logger.info("VAE: %d MiB for the whole, %d free: in tiles", whole >> 20, free >> 20)
    useful = [side for side in sides if side < max(height, width)] or list(sides[-1:])
    fitting = [side for side in useful if needs(side, side) <= free] or useful[-1:]
    for side in fitting[:-1]:
        comfy.model_management.soft_empty_cache()
        result = _unless_full(functools.partial(in_tiles, side))
        if result is not None:
            return result
    comfy.model_management.soft_empty_cache()
    return in_tiles(fitting[-1])


def _batched(
    samples: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor], count: int
) -> torch.Tensor:
    """Apply a function to `count` samples at a time."""
    result: torch.Tensor | None = None
    for start in range(0, samples.shape[0], count):
        part = function(samples[start : start + count])
        if result is None:
            if part.shape[0] == samples.shape[0]:
                return part
            result = part.new_empty((samples.shape[0], *part.shape[1:]))
        result[start : start + count] = part
    assert result is not None
    return result


def _unless_full(function: Callable[[], torch.Tensor]) -> torch.Tensor | None:
    """Call; None if the device has no room. Nothing of the attempt is alive when this returns."""
    try:
        return function()
    except (comfy.model_management.OOM_EXCEPTION, NotEnoughMemory) as err:
        logger.warning("The VAE ran out of memory; it goes on in smaller tiles. (%s)", err)
        return None


@torch.inference_mode()  # as tiles are added up: their results may only be changed inside
def mean_of_tilings(
    samples: torch.Tensor,
    function: Callable[[torch.Tensor], torch.Tensor],
    tile: tuple[int, int, int],
    **scale: Any,
) -> torch.Tensor:
    """Blend three tilings, square, wide and tall, whose seams lie elsewhere.

    Args:
        samples: [B, C, H, W]; one call if they fit into a tile.
        function: Of a tile.
        tile: Width, height, overlap.
        scale: Further arguments of `comfy.utils.tiled_scale`.
    """
    x, y, overlap = tile
    height, width = samples.shape[-2:]
    shapes = [(x, y), (x * 2, y // 2), (x // 2, y * 2)]
    if width <= x and height <= y:
        shapes = shapes[:1]
    steps = sum(
        comfy.utils.get_tiled_scale_steps(width, height, *shape, overlap) for shape in shapes
    )
    pbar = comfy.utils.ProgressBar(samples.shape[0] * steps)
    total: torch.Tensor | None = None
    for across, down in shapes:
        part = comfy.utils.tiled_scale(samples, function, across, down, overlap, pbar=pbar, **scale)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total.div_(len(shapes))

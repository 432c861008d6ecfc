"""Masks grown, feathered, compared and laid over each other.

A mask is (batch, height, width) or (height, width), 0 to 1; results always have a batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

import comfy.utils
from comfy_extras.masks.compositing import overlap
from comfy_extras.pictures.windows import highest


def as_batch(mask: torch.Tensor) -> torch.Tensor:
    """(batch, height, width), whatever stood before the last two axes."""
    return mask.reshape(-1, *mask.shape[-2:])


def grow(mask: torch.Tensor, steps: int, tapered: bool) -> torch.Tensor:
    """Grey dilation, `steps` times by one pixel; erosion where `steps` is negative.

    Repeating the square of three pixels gives a square of ``2 * steps + 1``, which is separable.
    The cross gives a diamond, which is not: it is repeated until nothing changes any more.

    Args:
        mask: Float; what lies outside of it has no effect.
        steps: Pixels.
        tapered: Grow along rows and columns only, so that corners are cut; else to all sides.

    Source: Serra, Image Analysis and Mathematical Morphology (1982), decomposition of dilations.
    """
    planes = as_batch(mask)
    if steps < 0:
        return -grow(-planes, -steps, tapered)
    if not tapered:
        reach = min(steps, max(planes.shape[-2:]))
        return highest(highest(planes, -2, reach, reach), -1, reach, reach)
    for _ in range(steps):
        grown = torch.maximum(highest(planes, -2, 1, 1), highest(planes, -1, 1, 1))
        if torch.equal(grown, planes):
            break
        planes = grown
    return planes.clone()


def feather(mask: torch.Tensor, left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    """Fade a mask out towards its edges.

    Args:
        mask: Float.
        left: Pixels over which it rises as 1/left, 2/left ... 1; the others likewise.
    """
    planes = as_batch(mask)
    rows, columns = planes.shape[-2:]
    across = _ramp(columns, left) * _ramp(columns, right).flip(0)
    down = _ramp(rows, top) * _ramp(rows, bottom).flip(0)
    return planes * (down[:, None] * across).to(planes)


def _ramp(length: int, over: int) -> torch.Tensor:
    over = min(over, length)
    if over == 0:
        return torch.ones(length)
    return (torch.arange(1, length + 1) / over).clamp(max=1.0)


def _logical(
    operation: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """An operation on what is half-way to 1 or more."""

    def on_masks(under: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
        return operation(under.round().bool(), over.round().bool()).to(under.dtype)

    return on_masks


OPERATIONS: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "multiply": torch.mul,
    "add": torch.add,
    "subtract": torch.sub,
    "and": _logical(torch.logical_and),
    "or": _logical(torch.logical_or),
    "xor": _logical(torch.logical_xor),
}
"""Ways to combine two masks."""


def combine(
    destination: torch.Tensor, source: torch.Tensor, x: int, y: int, operation: str
) -> torch.Tensor:
    """Combine two masks where the second lies on the first.

    Args:
        destination: Stays as it is.
        source: Repeated or cut to as many masks.
        x: Its left edge on `destination`, in pixels.
        y: Its upper edge.
        operation: One of `OPERATIONS`.

    Returns:
        0 to 1, as large as `destination`.
    """
    result = as_batch(destination).clone()
    laid = comfy.utils.repeat_to_batch_size(as_batch(source).to(result), result.shape[0])
    rows, from_rows = overlap(y, laid.shape[-2], result.shape[-2])
    columns, from_columns = overlap(x, laid.shape[-1], result.shape[-1])
    under = result[..., rows, columns]
    under.copy_(OPERATIONS[operation](under, laid[..., from_rows, from_columns]))
    return result.clamp_(0.0, 1.0)


def where_colour(image: torch.Tensor, colour: int) -> torch.Tensor:
    """1 where a picture has exactly a colour, else 0.

    Args:
        image: (batch, height, width, 3 or more), 0 to 1, compared with 8 bits to a channel.
        colour: 0xRRGGBB.
    """
    levels = (image[..., :3].float().clamp(0.0, 1.0) * 255.0).round().to(torch.int64)
    wanted = torch.tensor([colour >> 16 & 0xFF, colour >> 8 & 0xFF, colour & 0xFF])
    return (levels == wanted.to(levels.device)).all(dim=-1).float()

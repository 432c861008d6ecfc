"""One batch laid over another, through a mask."""

from __future__ import annotations

import torch

import comfy.utils


def composite(
    destination: torch.Tensor,
    source: torch.Tensor,
    x: int,
    y: int,
    mask: torch.Tensor | None = None,
    multiplier: int = 8,
    resize_source: bool = False,
) -> torch.Tensor:
    """Lay `source` over `destination`; what hangs over its edges is cut off.

    Args:
        destination: [B, C, H, W], or [B, C, T, H, W]; stays as it is.
        source: As many axes and channels; its batch is repeated or cut to that of `destination`.
        x: Left edge in pixels, `multiplier` of them to an element; may be negative.
        y: Upper edge, likewise.
        mask: [..., h, w], 1 where `source` covers; takes the size of `source`. None covers wholly.
        multiplier: 8 for most latents, 1 for pictures.
        resize_source: First give `source` the size of `destination`.

    Returns:
        A new tensor with the shape, dtype and device of `destination`:
        ``mask * source + (1 - mask) * destination`` where they meet.
    """
    rows, columns = destination.shape[-2:]
    laid = source.to(destination)
    if resize_source:
        laid = comfy.utils.common_upscale(laid, columns, rows, "bilinear", "disabled")
    laid = comfy.utils.repeat_to_batch_size(laid, destination.shape[0])
    onto_rows, from_rows = overlap(y // multiplier, laid.shape[-2], rows)
    onto_columns, from_columns = overlap(x // multiplier, laid.shape[-1], columns)
    result = destination.clone()
    under = result[..., onto_rows, onto_columns]
    over = laid[..., from_rows, from_columns]
    if mask is not None:
        opacity = _fitted(mask, laid)[..., from_rows, from_columns]
        over = torch.lerp(under, over, opacity.expand_as(over))
    under.copy_(over)
    return result


def overlap(start: int, length: int, room: int) -> tuple[slice, slice]:
    """Where `length` elements from `start` on lie among `room` places, and which of them do."""
    first, last = max(0, start), min(room, start + length)
    last = max(first, last)
    return slice(first, last), slice(first - start, last - start)


def _fitted(mask: torch.Tensor, laid: torch.Tensor) -> torch.Tensor:
    """The mask at the size and batch of what is laid, with one channel."""
    count, sizes = laid.shape[0], laid.shape[-2:]
    planes = comfy.utils.reshape_mask(mask.to(laid), (count, 1, *sizes))
    return planes.reshape(count, *[1] * (laid.ndim - 3), *sizes)

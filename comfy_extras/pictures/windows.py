"""The largest value in a window around each element, in few steps however large the window."""

from __future__ import annotations

import torch


def highest(values: torch.Tensor, axis: int, before: int, after: int) -> torch.Tensor:
    """The largest of each element, those before it and those after it; nothing lies outside.

    The maximum over 2 n elements is that of two maxima over n, side by side; a window of any size
    is covered by two of the largest power of two in it, which may overlap.

    Args:
        values: Float.
        axis: Along which windows lie.
        before: Elements.
        after: Elements.
    """
    size, length = before + 1 + after, values.shape[axis]
    ends = [values.new_full(_with(values.shape, axis, n), -torch.inf) for n in (before, after)]
    maxima = torch.cat((ends[0], values, ends[1]), dim=axis)
    covered = 1
    while 2 * covered <= size:
        maxima = _of_two(maxima, axis, covered, maxima.shape[axis] - covered)
        covered *= 2
    return _of_two(maxima, axis, size - covered, length)


def _with(shape: torch.Size, axis: int, length: int) -> list[int]:
    changed = list(shape)
    changed[axis] = length
    return changed


def _of_two(values: torch.Tensor, axis: int, apart: int, length: int) -> torch.Tensor:
    return torch.maximum(values.narrow(axis, 0, length), values.narrow(axis, apart, length))

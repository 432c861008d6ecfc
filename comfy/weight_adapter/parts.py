"""Small tensors of an adapter: bringing them to the weight, and the products they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from comfy.loading import FileTensor

Place = Callable[[torch.Tensor], torch.Tensor]
"""Gives a part as an ordinary tensor where, and in the dtype in which, the weight is computed."""


Matrix = tuple[int, int]
"""Rows and columns."""


def placed(part: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Read or move a part; the bytes of a part in a file are read once and not kept by it."""
    there = part.to(device=device, dtype=dtype)
    return there.clone() if isinstance(there, FileTensor) else there


def flat(part: torch.Tensor) -> Matrix:
    """Rows and columns of a part whose kernel is flattened; nothing fits one of fewer axes."""
    return (part.shape[0], math.prod(part.shape[1:])) if part.dim() > 1 else (0, 0)


def product_shape(left: Matrix | None, right: Matrix | None) -> Matrix | None:
    """Shape of a matrix product; None if there is none."""
    if left is None or right is None or left[1] != right[0]:
        return None
    return left[0], right[1]


def tucker_shape(core: torch.Tensor, out: torch.Tensor, into: torch.Tensor) -> Matrix | None:
    """Shape of `tucker`'s result with its kernel flattened; None if the parts do not match."""
    if out.dim() != 2 or into.dim() != 2 or core.shape[:2] != (out.shape[0], into.shape[0]):
        return None
    return out.shape[1], into.shape[1] * math.prod(core.shape[2:])


def identity(change: torch.Tensor) -> torch.Tensor:
    """The function of a patch that has none."""
    return change


def tucker(core: torch.Tensor, out: torch.Tensor, into: torch.Tensor) -> torch.Tensor:
    """Expand a Tucker-2 decomposition of a convolution.

    Args:
        core: (r, s, *kernel).
        out: (r, out channels).
        into: (s, in channels).

    Returns:
        (out channels, in channels, *kernel).
    """
    return torch.einsum("rs...,ro,si->oi...", core, out, into)


def pad_to(weight: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Grow a weight by zeros at the end of each axis; `shape` is nowhere smaller."""
    grown = weight.new_zeros(tuple(shape))
    grown[tuple(slice(size) for size in weight.shape)] = weight
    return grown


def can_grow(weight: torch.Tensor, shape: Sequence[int]) -> bool:
    """Whether `pad_to` is defined."""
    return len(shape) == weight.dim() and all(
        new >= old for new, old in zip(shape, weight.shape, strict=True)
    )

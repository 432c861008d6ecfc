"""Small tensors of an adapter: bringing them to the weight, and the products they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from comfy.loading import FileTensor

Place = Callable[[torch.Tensor], torch.Tensor]
"""Gives a part as an ordinary tensor where, and in the dtype in which, the weight is computed."""


def placed(part: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Read or move a part; the bytes of a part in a file are read once and not kept by it."""
    there = part.to(device=device, dtype=dtype)
    return there.clone() if isinstance(there, FileTensor) else there


def on_meta(part: torch.Tensor) -> torch.Tensor:
    """Give a part's shape in float32, without its bytes."""
    return torch.empty(part.shape, dtype=torch.float32, device="meta")


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

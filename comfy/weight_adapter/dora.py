"""DoRA: a weight as direction and magnitude, of which the magnitude is stored."""

from __future__ import annotations

import torch


def is_per_output(weight: torch.Tensor, dora_scale: torch.Tensor) -> bool:
    """Whether the magnitudes belong to the rows of the weight, not to its input channels."""
    return dora_scale.dim() > 0 and dora_scale.shape[0] == weight.shape[0]


def fits(weight: torch.Tensor, dora_scale: torch.Tensor) -> bool:
    """Whether there is one magnitude for each row, or for each input channel, of the weight."""
    if weight.dim() < 2:
        return False
    return dora_scale.numel() == weight.shape[0 if is_per_output(weight, dora_scale) else 1]


def weight_decompose(
    weight: torch.Tensor, change: torch.Tensor, dora_scale: torch.Tensor, strength: float
) -> torch.Tensor:
    """Apply ``W + strength * (V * dora_scale / norm - W)`` with ``V = W + change``, in place.

    The norm is that of each row of W if there is one magnitude for each output, else that of each
    input channel of V (arXiv 2402.09353 with the magnitudes as trainers store them).

    Args:
        weight: (out, in, *kernel), changed.
        change: Of the same shape, scaled; overwritten.
        dora_scale: One number for each output or each input channel, any number of axes.
        strength: 1 takes the new weight as it is.

    Returns:
        `weight`.
    """
    axis = 0 if is_per_output(weight, dora_scale) else 1
    moved = change.add_(weight)
    others = [other for other in range(weight.dim()) if other != axis]
    norm = torch.linalg.vector_norm(weight if axis == 0 else moved, dim=others, keepdim=True)
    norm += torch.finfo(norm.dtype).eps
    moved.mul_(dora_scale.reshape(norm.shape) / norm)
    if strength == 1.0:
        return weight.copy_(moved)
    return weight.add_(moved.sub_(weight), alpha=strength)

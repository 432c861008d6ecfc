"""What the networks share: the embedding of timesteps, the groups of normalisations."""

from __future__ import annotations

import math

import torch


def timestep_embedding(
    timesteps: torch.Tensor, dim: int, max_period: float = 10000, repeat_only: bool = False
) -> torch.Tensor:
    """Embed numbers as sinusoids.

    Args:
        timesteps: [batch]; need not be integers.
        dim: Of the result; if odd, the last channel is zero.
        max_period: The longest wave is 2 pi times this (nearly).
        repeat_only: Copy the number into every channel instead.

    Returns:
        [batch, dim], float32: cos(t f_k), then sin(t f_k), f_k = max_period^(-k / (dim // 2)).

    Source: Vaswani et al.: Attention is all you need (2017), section 3.5, with cosines first.
    """
    if repeat_only:
        return timesteps[:, None].expand(-1, dim)
    half = dim // 2
    steps = torch.arange(half, dtype=torch.float32, device=timesteps.device) / max(half, 1)
    angles = timesteps[:, None].float() * torch.exp(-math.log(max_period) * steps)
    embedded = torch.cat([angles.cos(), angles.sin()], dim=-1)
    return torch.nn.functional.pad(embedded, (0, dim % 2))


def norm_groups(channels: int) -> int:
    """Groups of a group normalisation: 32, and fewer where that leaves less than four channels each.

    Published models are wide enough for 32. In a narrow one a group of a single channel would lose
    the channel's mean, and with it what a plain area's colour is.
    """
    return max(1, min(32, channels // 4))

"""The feed-forward part of a transformer block."""

from __future__ import annotations

import torch
from torch import nn

import comfy.ops


class GEGLU(nn.Module):
    """a * gelu(b), where (a, b) is a projection. Source: Shazeer: GLU variants (2020)."""

    def __init__(
        self,
        dim_in: int,
        dim_out: int,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        self.proj = operations.Linear(dim_in, 2 * dim_out, dtype=dtype, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        a, b = self.proj(x).chunk(2, dim=-1)
        return nn.functional.gelu(b).mul_(a)


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, gated if `glu`."""

    def __init__(
        self,
        dim: int,
        dim_out: int | None = None,
        mult: int = 4,
        glu: bool = False,
        dropout: float = 0.0,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        inner = dim * mult
        if glu:
            first: nn.Module = GEGLU(dim, inner, **place, operations=operations)
        else:
            first = nn.Sequential(operations.Linear(dim, inner, **place), nn.GELU())
        last = operations.Linear(inner, dim_out or dim, **place)
        self.net = nn.Sequential(first, nn.Dropout(dropout), last)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape whose last size is `dim`."""
        result: torch.Tensor = self.net(x)
        return result

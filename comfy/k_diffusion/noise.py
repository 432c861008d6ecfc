"""Noise that is the same however finely a run is cut: increments of one Brownian path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchsde

# The path is resolved to 10^-6: torchsde rounds times to as many digits.
TIME_DIGITS = 6


class BatchedBrownianTree:
    """A seeded Brownian path over [t0, t1], shaped like `x`, that can be asked for any increment.

    Args:
        x: [B, ...]; gives shape, dtype and device.
        t0: one end of the interval.
        t1: the other end, in either order.
        seed: one seed for the whole batch, a sequence with one seed per sample, or None for a
            random one.
        cpu: draw on the CPU, so that every device sees the same noise.

    Source: Li et al. 2020, "Scalable Gradients for Stochastic Differential Equations" (torchsde).
    """

    def __init__(
        self,
        x: torch.Tensor,
        t0: float,
        t1: float,
        seed: int | Sequence[int] | None = None,
        cpu: bool = True,
    ) -> None:
        self.low, self.high = sorted((round(float(t0), TIME_DIGITS), round(float(t1), TIME_DIGITS)))
        self.device, self.dtype = x.device, x.dtype
        self.is_per_sample = isinstance(seed, Sequence)
        if seed is None:
            seed = int(torch.randint(0, 2**63 - 1, ()).item())
        seeds = list(seed) if isinstance(seed, Sequence) else [seed]
        if self.is_per_sample and len(seeds) != len(x):
            raise ValueError(f"{len(seeds)} seeds were given for a batch of {len(x)}.")
        start = torch.zeros_like(x[0] if self.is_per_sample else x)
        start = start.cpu() if cpu else start
        self.trees = [
            torchsde.BrownianTree(
                self.low, start, self.high, entropy=entropy, tol=10.0**-TIME_DIGITS
            )
            for entropy in seeds
        ]

    def _inside(self, t: Any) -> float:
        # Levels of lower precision than the ends may lie a rounding error outside.
        return min(max(round(float(t), TIME_DIGITS), self.low), self.high)

    def __call__(self, t0: Any, t1: Any) -> torch.Tensor:
        """The increment W(t1) - W(t0), in the shape, dtype and device of x."""
        low, high = sorted((self._inside(t0), self._inside(t1)))
        increments = [tree(low, high) for tree in self.trees]
        path = torch.stack(increments) if self.is_per_sample else increments[0]
        sign = 1 if float(t0) <= float(t1) else -1
        return (path * sign).to(self.device, self.dtype)


def _same(sigma: Any) -> Any:
    return sigma


class BrownianTreeNoiseSampler:
    """Unit normal noise for steps between noise levels, from one Brownian path.

    Args:
        x: [B, ...]; gives shape, dtype and device.
        sigma_min: the lowest level above zero that will be asked for.
        sigma_max: the highest.
        seed: as in `BatchedBrownianTree`.
        transform: maps a level to the path's time.
        cpu: draw on the CPU, so that every device sees the same noise.
    """

    def __init__(
        self,
        x: torch.Tensor,
        sigma_min: Any,
        sigma_max: Any,
        seed: int | Sequence[int] | None = None,
        transform: Callable[[Any], Any] = _same,
        cpu: bool = False,
    ) -> None:
        self.transform = transform
        low, high = float(transform(sigma_min)), float(transform(sigma_max))
        self.tree = BatchedBrownianTree(x, low, high, seed, cpu=cpu)

    def __call__(self, sigma: Any, sigma_next: Any) -> torch.Tensor:
        """The path's increment between two levels, divided by its standard deviation."""
        t0, t1 = float(self.transform(sigma)), float(self.transform(sigma_next))
        return self.tree(t0, t1) / abs(t1 - t0) ** 0.5

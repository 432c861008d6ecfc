"""Steps of sampling that take over what an earlier step computed, while little changes.

Source: Zhou et al. 2025, "Less is Enough: Training-Free Video Diffusion Acceleration via
Runtime-Adaptive Caching" (EasyCache), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass

import torch

from comfy_extras.guidance.patching import Window


@dataclass
class _Pass:
    """What is known of one pass of the network, which each step makes once.

    Attributes:
        x: The latest input.
        out: The latest output that was computed.
        offset: Output less input, where that was computed.
        rate: How much the output changed with the input between the last two computed ones.
        error: Relative change of the output since it was computed, as estimated.
    """

    x: torch.Tensor
    out: torch.Tensor
    offset: torch.Tensor
    rate: float | None = None
    error: float = 0.0


def _size(x: torch.Tensor) -> float:
    return x.float().abs().mean().item()


class StepCache:
    """Decides for each step whether it is computed.

    The first pass of a step decides for all of its passes.

    Attributes:
        threshold: The largest estimated error, relative to the output.
        window: Noise levels at which steps may be left out.
        steps: How many there were since `clear`.
        reused: How many of them were left out.
    """

    def __init__(self, threshold: float, window: Window) -> None:
        self.threshold, self.window = threshold, window
        self.clear()

    def clear(self) -> None:
        """Forget all: a run begins, or has ended."""
        self._passes: dict[Hashable, _Pass] = {}
        self._asked: dict[Hashable, int] = {}
        self._sigma: float | None = None
        self._is_reused = False
        self.steps = self.reused = 0

    def run(
        self,
        name: Hashable,
        x: torch.Tensor,
        sigma: torch.Tensor,
        compute: Callable[[], torch.Tensor],
    ) -> torch.Tensor:
        """Compute a pass, or make its output from an earlier one: x plus the offset it had.

        Args:
            name: Tells the passes of a step apart; equal ones are counted.
            x: The network's input.
            sigma: [B], the noise level.
            compute: Gives the output, of x's shape.
        """
        level = sigma.flatten()[0].item()
        is_new = level != self._sigma
        if is_new:
            self._asked.clear()
            self._sigma = level
            self.steps += 1
        count = self._asked[name] = self._asked.get(name, 0) + 1
        key = (name, count)
        known = self._passes.get(key)
        if known is not None and known.x.shape != x.shape:
            known = None
        if is_new:
            self._is_reused = known is not None and self._may_reuse(known, x, sigma)
            self.reused += self._is_reused
        if self._is_reused and known is not None:
            known.x = x.detach().clone()
            return x + known.offset
        out = compute()
        self._passes[key] = _noted(known, x, out)
        return out

    def _may_reuse(self, known: _Pass, x: torch.Tensor, sigma: torch.Tensor) -> bool:
        if known.rate is None or not self.window.holds(sigma):
            return False
        scale = max(_size(known.out), 1e-12)
        known.error += known.rate * _size(x - known.x) / scale
        return known.error < self.threshold


def _noted(known: _Pass | None, x: torch.Tensor, out: torch.Tensor) -> _Pass:
    made = _Pass(x.detach().clone(), out.detach().clone(), (out - x).detach())
    if known is not None:
        moved = _size(x - known.x)
        made.rate = _size(out - known.out) / moved if moved > 0 else known.rate
    return made

"""Models whose data are normal, N(MEAN, STD^2): their denoiser and their flow are known exactly."""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch

from comfy.model_sampling import CONST, EPS, ModelSamplingDiscrete, ModelSamplingDiscreteFlow

MEAN, STD = 0.3, 0.7


class EpsSampling(ModelSamplingDiscrete, EPS):
    """Added noise."""


Level = TypeVar("Level", float, torch.Tensor)


class FlowSampling(ModelSamplingDiscreteFlow, CONST):
    """Rectified flow, no shift."""


class GaussianModel:
    """The ideal denoiser: D = mean + a s^2 / (a^2 s^2 + sigma^2) (x - a mean), a = alpha(sigma).

    Attributes:
        seen: the levels it was called with, one for each call.
        uncond_shift: what the unconditional estimate, told to post-CFG functions, differs by.
        last: the latest D.
    """

    def __init__(self, flow: bool, uncond_shift: float = 0.0) -> None:
        self.flow, self.uncond_shift = flow, uncond_shift
        self.model_sampling = FlowSampling() if flow else EpsSampling()
        self.seen: list[float] = []
        self.last = torch.zeros(())

    def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> torch.Tensor:
        self.seen.append(sigma[0].item())
        sigma = sigma.reshape(-1, *[1] * (x.ndim - 1)).to(x.dtype)
        alpha = self.alpha(sigma)
        gain = alpha * STD**2 / (alpha**2 * STD**2 + sigma**2)
        denoised = MEAN + gain * (x - alpha * MEAN)
        for function in extra.get("model_options", {}).get("sampler_post_cfg_function", []):
            told = {"denoised": denoised, "uncond_denoised": denoised + self.uncond_shift}
            denoised = function(told)
        self.last = denoised
        return denoised

    def alpha(self, sigma: Level) -> Level:
        """How much of the data is in a state."""
        return 1 - sigma if self.flow else sigma * 0 + 1

    def variance(self, sigma: float) -> float:
        """Of states at this level."""
        return self.alpha(sigma) ** 2 * STD**2 + sigma**2

    def mean(self, sigma: float) -> float:
        """Of states at this level."""
        return self.alpha(sigma) * MEAN

    def start(self, count: int, sigma: float, seed: int) -> torch.Tensor:
        """States at this level, fp64 [count, 1]."""
        generator = torch.Generator().manual_seed(seed)
        unit = torch.randn(count, 1, generator=generator, dtype=torch.float64)
        return self.mean(sigma) + unit * math.sqrt(self.variance(sigma))

    def solution(self, x: torch.Tensor, sigma: float, end: float) -> torch.Tensor:
        """Where the probability flow takes x from one level to another."""
        ratio = math.sqrt(self.variance(end) / self.variance(sigma))
        return self.mean(end) + (x - self.mean(sigma)) * ratio

"""ER-SDE-Solver: reverse SDEs with any amount of noise, given by a noise scaler phi.

Source: Cui et al. 2023, "Elucidating the Solution Space of Extended Reverse-Time SDE for Diffusion
Models", algorithms 1 to 3. Here l = sigma / alpha, and y = x / alpha.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy
import torch

from comfy.k_diffusion.weights import quadrature

NoiseScaler = Callable[[torch.Tensor], torch.Tensor]


def default_noise_scaler(level: torch.Tensor) -> torch.Tensor:
    """Phi(l) = l (exp(l^0.3) + 10), the paper's ER-SDE 5."""
    return level * ((level**0.3).exp() + 10.0)


class ErSdeStep(NamedTuple):
    """y -> keep y + (1 - keep) D + slope D' + curve D'' + std n; derivatives by l."""

    keep: float
    slope: float
    curve: float
    std: float


def er_sde_step(scaler: NoiseScaler, level: float, level_next: float) -> ErSdeStep:
    """The exact step for a D that is a parabola in l.

    Integration by parts leaves the integrals of 1/phi and (t - l)/phi over the step, taken in ln t.
    """
    logs, weights = quadrature(numpy.log(level_next), numpy.log(level))
    points = torch.from_numpy(numpy.exp(logs))
    inverse = points / scaler(points) * torch.from_numpy(weights)
    ends = scaler(torch.tensor([level, level_next], dtype=torch.float64))
    at_start, at_end = ends.tolist()
    keep, dl = at_end / at_start, level_next - level
    first, second = inverse.sum().item(), (inverse * (points - level)).sum().item()
    return ErSdeStep(
        keep=keep,
        slope=dl + at_end * first,
        curve=dl**2 / 2 + at_end * second,
        std=max(level_next**2 - (keep * level) ** 2, 0.0) ** 0.5,
    )


def derivatives(levels: Sequence[float], denoised: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """First and second derivative of D by l at the last of up to three evaluations."""
    slopes = [
        (denoised[k + 1] - denoised[k]) / (levels[k + 1] - levels[k])
        for k in range(len(levels) - 1)
    ]
    if len(slopes) < 2:
        return slopes
    curve = (slopes[1] - slopes[0]) / ((levels[2] - levels[0]) / 2)
    return [slopes[1] + curve * (levels[2] - levels[1]) / 2, curve]

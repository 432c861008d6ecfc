"""SA-Solver: stochastic Adams predictor and corrector in lambda.

Source: Xue et al. 2023, "SA-Solver: Stochastic Adams Solver for Fast Sampling of Diffusion Models".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from comfy.k_diffusion.noise_path import NoisePath
from comfy.k_diffusion.weights import exponential_weights

Evaluation = tuple[float, torch.Tensor]
"""A lambda and D there."""


def get_tau_interval_func(
    start_sigma: float, end_sigma: float, eta: float = 1.0
) -> Callable[[float], float]:
    """A tau that is eta between two noise levels (the start is the higher one) and 0 elsewhere."""

    def tau(sigma: float) -> float:
        return eta if start_sigma >= float(sigma) >= end_sigma else 0.0

    return tau


def _simple_weights(lambdas: Sequence[float], end: float, rate: float) -> list[float]:
    """Order 2 with the slope's weight taken as half of the step's, as in DPM-Solver++(2M)."""
    start = lambdas[-1] if end > lambdas[-1] else lambdas[0]
    gain = -math.expm1(-rate * (end - start))
    slope = 0.5 * gain * (end - start) / (lambdas[-1] - lambdas[0])
    return [-slope, gain + slope] if start == lambdas[-1] else [gain - slope, slope]


def advance(
    path: NoisePath,
    x: torch.Tensor,
    levels: tuple[float, float],
    tau: float,
    evaluations: Sequence[Evaluation],
    is_simple: bool = False,
) -> torch.Tensor:
    """The mean of the state at the second level, given the one at the first (equation 14).

    The D between is the polynomial through the evaluations: past ones for the predictor, past ones
    and the one at the second level for the corrector.

    Args:
        path: the model's noise path.
        x: the state at the first level.
        levels: both levels, below 1 for flow and above 0.
        tau: how much noise the step's SDE has; the noise itself is the caller's.
        evaluations: lambda and D, the latest last.
        is_simple: with two evaluations, use the simpler weights of the same order.
    """
    sigma, sigma_next = levels
    rate = 1.0 + tau**2
    start, end = path.half_log_snr(sigma), path.half_log_snr(sigma_next)
    lambdas = [at for at, _ in evaluations]
    if is_simple and len(lambdas) == 2:
        weights = _simple_weights(lambdas, end, rate)
    else:
        weights = exponential_weights(lambdas, start, end, rate)
    result = x * path.sde(sigma, sigma_next, tau**2).keep
    for weight, (_, denoised) in zip(weights, evaluations, strict=True):
        result = result + denoised * (weight * path.alpha(sigma_next))
    return result

"""DEIS: multistep weights for a slope that is interpolated in the time of the VP process."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy

from comfy.k_diffusion.weights import lagrange_weights

# The VP process of Song et al. 2021: beta(t) = BETA_MIN + BETA_D t.
BETA_MIN, BETA_D = 0.1, 19.9


def vp_time(sigma: float) -> float:
    """The time t at which sigma^2 = exp(BETA_D t^2 / 2 + BETA_MIN t) - 1."""
    log_scale = math.log1p(sigma**2)
    return (math.sqrt(BETA_MIN**2 + 2 * BETA_D * log_scale) - BETA_MIN) / BETA_D


def _sigma_slope(t: numpy.ndarray) -> numpy.ndarray:
    """The derivative d sigma / d t of the VP process."""
    exponent = BETA_D * t**2 / 2 + BETA_MIN * t
    return (BETA_D * t + BETA_MIN) * numpy.exp(exponent) / (2 * numpy.sqrt(numpy.expm1(exponent)))


def deis_weights(
    sigmas: Sequence[float], sigma: float, sigma_next: float, mode: str
) -> list[float]:
    """Weights of the slopes at `sigmas` for the step from `sigma` to `sigma_next`.

    Args:
        sigmas: where slopes are known; as many as the order.
        sigma: the level of the state.
        sigma_next: the level wanted, above zero.
        mode: "tab" interpolates in VP time, "rhoab" in sigma.

    Raises:
        ValueError: the mode is neither.

    Source: Zhang and Chen 2022 (DEIS), equations 14 and 15.
    """
    if mode == "rhoab":
        return lagrange_weights(sigmas, sigma, sigma_next)
    if mode != "tab":
        raise ValueError(f"DEIS has the modes 'tab' and 'rhoab', not {mode!r}.")
    nodes = [vp_time(level) for level in sigmas]
    return lagrange_weights(nodes, vp_time(sigma), vp_time(sigma_next), _sigma_slope)

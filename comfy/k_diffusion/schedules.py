"""Noise levels that need only their two ends: [n + 1] fp32, descending, with a final 0."""

from __future__ import annotations

import math
from typing import Any

import torch

Level = float | torch.Tensor


def append_zero(x: torch.Tensor) -> torch.Tensor:
    """Append the noise level 0, at which a run ends."""
    return torch.cat([x, x.new_zeros(1)])


def get_sigmas_karras(
    n: int, sigma_min: Level, sigma_max: Level, rho: float = 7.0, device: Any = "cpu"
) -> torch.Tensor:
    """Even steps in sigma^(1/rho) (Karras et al. 2022, equation 5)."""
    ramp = torch.linspace(0, 1, n, dtype=torch.float64)
    low, high = float(sigma_min) ** (1 / rho), float(sigma_max) ** (1 / rho)
    return append_zero((high + ramp * (low - high)) ** rho).float().to(device)


def get_sigmas_exponential(
    n: int, sigma_min: Level, sigma_max: Level, device: Any = "cpu"
) -> torch.Tensor:
    """Even steps in log sigma."""
    return get_sigmas_polyexponential(n, sigma_min, sigma_max, 1.0, device)


def get_sigmas_polyexponential(
    n: int, sigma_min: Level, sigma_max: Level, rho: float = 1.0, device: Any = "cpu"
) -> torch.Tensor:
    """Steps in log sigma that follow a power `rho` of an even ramp."""
    ramp = torch.linspace(1, 0, n, dtype=torch.float64) ** rho
    low, high = math.log(sigma_min), math.log(sigma_max)
    return append_zero((low + ramp * (high - low)).exp()).float().to(device)


def get_sigmas_vp(
    n: int, beta_d: float = 19.9, beta_min: float = 0.1, eps_s: float = 1e-3, device: Any = "cpu"
) -> torch.Tensor:
    """Even steps in the time of the continuous VP process (Song et al. 2021, appendix C)."""
    t = torch.linspace(1, eps_s, n, dtype=torch.float64)
    return append_zero((t**2 * beta_d / 2 + t * beta_min).expm1().sqrt()).float().to(device)


def get_sigmas_laplace(
    n: int,
    sigma_min: Level,
    sigma_max: Level,
    mu: float = 0.0,
    beta: float = 0.5,
    device: Any = "cpu",
) -> torch.Tensor:
    """Log sigma at even quantiles of a Laplace distribution (Hang and Gu 2024), cut to the ends."""
    quantile = torch.linspace(0, 1, n, dtype=torch.float64)
    from_middle = 0.5 - quantile
    # Both outermost quantiles are infinite; the ends cut them.
    log_sigmas = mu - beta * from_middle.sign() * torch.log1p(-2 * from_middle.abs())
    sigmas = log_sigmas.exp().clamp(float(sigma_min), float(sigma_max))
    return append_zero(sigmas).float().to(device)

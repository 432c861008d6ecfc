"""How much of the data and how much noise a state holds: x = alpha(sigma) x0 + sigma n.

Models with added noise (VE) keep alpha = 1; flow models have alpha = 1 - sigma. In both,
d x / d sigma = (x - D) / sigma along the probability flow, so samplers need the difference only
where they add noise or measure steps by lambda = ln(alpha / sigma), half the log SNR.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch

from comfy.model_sampling import CONST

# Where a flow starts from pure noise its SNR is 0; levels between are then sought from here.
FLOW_START = 0.9999


class AncestralStep(NamedTuple):
    """Go down to `down` along the flow, then x -> scale x + std n stands at the level wanted."""

    down: float
    scale: float
    std: float


class SdeStep(NamedTuple):
    """x -> keep x + gain D + std n, over a step of size h in lambda; h_eta = h (1 + eta)."""

    h: float
    h_eta: float
    alpha: float
    keep: float
    gain: float
    std: float


@dataclass(frozen=True)
class NoisePath:
    """The path of one kind of model. All levels are plain numbers, in fp64."""

    flow: bool

    def alpha(self, sigma: float) -> float:
        """How much of the data is in the state."""
        return 1.0 - sigma if self.flow else 1.0

    def half_log_snr(self, sigma: float) -> float:
        """Lambda = ln(alpha / sigma); sigma > 0, and < 1 for flow."""
        return math.log(self.alpha(sigma) / sigma)

    def sigma(self, half_log_snr: float) -> float:
        """The level with this lambda."""
        return 1.0 / (math.exp(half_log_snr) + (1.0 if self.flow else 0.0))

    def between(self, sigma: float, to: float, part: float) -> float:
        """The level after this part of the way from `sigma` to `to`, measured in lambda."""
        if part == 1.0:
            return to
        start = self.half_log_snr(min(sigma, FLOW_START) if self.flow else sigma)
        return self.sigma(start + part * (self.half_log_snr(to) - start))

    def renoise(self, sigma: float, to: float) -> tuple[float, float]:
        """Scale and standard deviation that bring a state from `sigma` up to the level `to`."""
        if sigma == to:
            return 1.0, 0.0
        scale = self.alpha(to) / self.alpha(sigma)
        return scale, max(to**2 - (scale * sigma) ** 2, 0.0) ** 0.5

    def ancestral(self, sigma: float, to: float, eta: float) -> AncestralStep:
        """Split a step into a longer one along the flow and fresh noise; eta 0 adds none."""
        if self.flow:
            down = max(to * (1.0 + (to / sigma - 1.0) * eta), 0.0)
        else:
            down = get_ancestral_step(sigma, to, eta)[0]
        return AncestralStep(down, *self.renoise(down, to))

    def sde(self, sigma: float, to: float, eta: float) -> SdeStep:
        """One step of the reverse SDE with D held constant; eta 0 is the probability flow.

        Source: Lu et al. 2022 (DPM-Solver++), equations 17 and 19, with the noise scaled by eta.
        """
        if sigma == to:
            return SdeStep(0.0, 0.0, self.alpha(to), 1.0, 0.0, 0.0)
        h = self.half_log_snr(to) - self.half_log_snr(sigma)
        return SdeStep(
            h=h,
            h_eta=h * (1.0 + eta),
            alpha=self.alpha(to),
            keep=to / sigma * math.exp(-eta * h),
            gain=-self.alpha(to) * math.expm1(-h * (1.0 + eta)),
            std=to * max(-math.expm1(-2.0 * eta * h), 0.0) ** 0.5,
        )


def get_ancestral_step(sigma_from: Any, sigma_to: Any, eta: float = 1.0) -> tuple[Any, Any]:
    """Split a step of a model with added noise: the level to go down to, the noise to add.

    Args:
        sigma_from: the level of the state, number or scalar tensor.
        sigma_to: the level wanted.
        eta: 0 for no noise, 1 for as much as the reverse process of DDPM adds.

    Returns:
        sigma_down and sigma_up with sigma_down^2 + sigma_up^2 = sigma_to^2.

    Raises:
        ValueError: the level is to rise, and noise to be added: there is no such step.
    """
    if not eta:
        return sigma_to, 0.0
    if sigma_to > sigma_from:
        raise ValueError(
            f"A sampler that adds noise (eta {eta}) only goes down, and the sigmas rise from "
            f"{float(sigma_from):.4g} to {float(sigma_to):.4g}: take one without noise, such as "
            "euler, or turn the sigmas around."
        )
    variance = sigma_to**2 * (sigma_from**2 - sigma_to**2) / sigma_from**2
    sigma_up = min(sigma_to, eta * variance**0.5)
    return (sigma_to**2 - sigma_up**2) ** 0.5, sigma_up


def find_model_sampling(model: Any) -> Any:
    """The sampling object of what a sampler was given, or None for a bare function.

    A sampler's model wraps a guider, which wraps the real model: the first thing along
    `inner_model` that has a `model_patcher` is asked for its object (which may be patched), else
    the first that has a `model_sampling` gives it.
    """
    while model is not None:
        patcher = getattr(model, "model_patcher", None)
        if patcher is not None:
            return patcher.get_model_object("model_sampling")
        found = getattr(model, "model_sampling", None)
        if found is not None:
            return found
        model = getattr(model, "inner_model", None)
    return None


def is_flow(model_sampling: Any) -> bool:
    """Whether states are alpha x0 + s n with alpha = 1 - s, instead of x0 + s n."""
    return isinstance(model_sampling, CONST)


def sigma_to_half_log_snr(sigma: torch.Tensor, model_sampling: Any) -> torch.Tensor:
    """Lambda = ln(alpha / sigma) of noise levels; shape and dtype of `sigma`."""
    if is_flow(model_sampling):
        return -sigma.logit()
    return -sigma.log()


def half_log_snr_to_sigma(half_log_snr: torch.Tensor, model_sampling: Any) -> torch.Tensor:
    """The noise levels with these lambdas; shape and dtype of `half_log_snr`."""
    if is_flow(model_sampling):
        return (-half_log_snr).sigmoid()
    return (-half_log_snr).exp()


def offset_first_sigma_for_snr(
    sigmas: torch.Tensor, model_sampling: Any, percent_offset: float = 1e-4
) -> torch.Tensor:
    """Replace a flow's first level of 1, whose SNR is 0, by the one shortly after it."""
    if len(sigmas) > 1 and is_flow(model_sampling) and sigmas[0] >= 1:
        sigmas = sigmas.clone()
        sigmas[0] = model_sampling.percent_to_sigma(percent_offset)
    return sigmas

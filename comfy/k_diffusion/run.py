"""One run of a sampler: the model, the levels to visit, and who is told about each step."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from tqdm import tqdm

from comfy.k_diffusion.noise_path import (
    NoisePath,
    find_model_sampling,
    is_flow,
    offset_first_sigma_for_snr,
)

Noise = Callable[[Any, Any], torch.Tensor]
"""Called as noise(sigma, sigma_next); gives unit normal noise shaped like the state."""


class Run:
    """Iterating gives (i, sigma, sigma_next) for each step, levels as plain numbers.

    Levels that follow on equal ones are left out: such a step goes nowhere, and its length, by
    which solvers divide, is 0. The callback hears of the steps by their place in `sigmas`.

    Steps compute with Python's fp64 numbers: the levels come from the device once, not each step.

    Args:
        model: called as model(x, sigma [B], **extra_args); gives D, the denoised estimate.
        x: [B, ...], the state at the first level.
        sigmas: [n + 1], descending.
        extra_args: keyword arguments of the model; `seed` also seeds the noise.
        callback: told of each step as {"x", "i", "sigma", "sigma_hat", "denoised"}.
        disable: no progress bar; None leaves it out where there is no terminal.
        finite_snr: for samplers that measure steps by lambda: a flow starts shortly after 1.
        keep_repeats: for samplers that draw anew where a level above 0 is repeated.
    """

    def __init__(
        self,
        model: Callable[..., torch.Tensor],
        x: torch.Tensor,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any] | None = None,
        callback: Callable[[dict[str, Any]], Any] | None = None,
        disable: bool | None = None,
        finite_snr: bool = False,
        keep_repeats: bool = False,
    ) -> None:
        self.model, self.x, self.callback, self.disable = model, x, callback, disable
        self.extra_args = extra_args or {}
        self.model_sampling = find_model_sampling(model)
        self.path = NoisePath(is_flow(self.model_sampling))
        kept = _distinct(sigmas.tolist(), keep_repeats)
        self._places = [end - 1 for end in kept[1:]]
        if len(kept) < len(sigmas):
            sigmas = sigmas[kept]
        if finite_snr:
            sigmas = offset_first_sigma_for_snr(sigmas, self.model_sampling)
        self.sigmas = sigmas
        self.levels: list[float] = sigmas.tolist()

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        steps = list(zip(self.levels, self.levels[1:], strict=False))
        for i, (sigma, sigma_next) in enumerate(tqdm(steps, disable=self.disable)):
            yield i, sigma, sigma_next

    @property
    def seed(self) -> int | None:
        """The seed that the caller gave, if any."""
        return self.extra_args.get("seed")

    @property
    def lowest(self) -> float:
        """The lowest level above zero."""
        return min(level for level in self.levels if level > 0)

    def denoise(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """D of the state x at this level."""
        levels = torch.full((len(x),), sigma, dtype=self.sigmas.dtype, device=x.device)
        return self.model(x, levels, **self.extra_args)

    def evaluate(self, x: torch.Tensor, i: int, sigma_hat: float | None = None) -> torch.Tensor:
        """D at the start of step i (or at the raised level `sigma_hat`); tells the callback."""
        denoised = self.denoise(x, self.levels[i] if sigma_hat is None else sigma_hat)
        self.tell(x, i, self.sigmas[i], sigma_hat, denoised)
        return denoised

    def tell(
        self,
        x: torch.Tensor,
        i: int,
        sigma: torch.Tensor,
        sigma_hat: float | None,
        denoised: torch.Tensor,
    ) -> None:
        """Tell the callback where the run stands."""
        if self.callback is not None:
            raised = sigma if sigma_hat is None else sigma.new_tensor(sigma_hat)
            told = {
                "x": x,
                "i": self._places[i],
                "sigma": sigma,
                "sigma_hat": raised,
                "denoised": denoised,
            }
            self.callback(told)

    def by_level(self, noise_sampler: Noise) -> Callable[[float, float], torch.Tensor]:
        """Ask a noise sampler, which takes scalar tensors, by plain numbers."""
        dtype = self.sigmas.dtype

        def noise(sigma: float, sigma_next: float) -> torch.Tensor:
            return noise_sampler(
                torch.tensor(sigma, dtype=dtype), torch.tensor(sigma_next, dtype=dtype)
            )

        return noise


def _distinct(levels: Sequence[float], keep_repeats: bool) -> list[int]:
    """Places of the levels that are steps' ends: of equal neighbours the last one."""
    repeated = {
        place
        for place, (level, following) in enumerate(itertools.pairwise(levels))
        if level == following and (level == 0 or not keep_repeats)
    }
    return [place for place in range(len(levels)) if place not in repeated]


def to_d(x: torch.Tensor, sigma: Any, denoised: torch.Tensor) -> torch.Tensor:
    """The slope d x / d sigma = (x - D) / sigma (Karras et al. 2022, algorithm 1).

    Args:
        x: [B, ...], the state.
        sigma: its level, a number, a scalar tensor or [B].
        denoised: D, in the shape of x.
    """
    if isinstance(sigma, torch.Tensor) and 0 < sigma.ndim < x.ndim:
        sigma = sigma.reshape(sigma.shape + (1,) * (x.ndim - sigma.ndim))
    return (x - denoised) / sigma


def ddim_step(
    x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float
) -> torch.Tensor:
    """Follow the flow with D held constant: (s'/s) x + (1 - s'/s) D, exactly D at s' = 0."""
    ratio = sigma_next / sigma
    return x * ratio + denoised * (1.0 - ratio)

"""Samplers that add noise: mean and variance of what they draw from Gaussian data.

The ideal denoiser is affine, so a sampler's result is an affine function of its start and of each
noise it asks for. Feeding it one unit at a time gives the result's law exactly; drawing many
samples shows that the noise it takes by itself has that law.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from comfy.k_diffusion import sampling
from support.gaussian_models import MEAN, STD, GaussianModel

NAMES = [
    "euler_ancestral",
    "dpm_2_ancestral",
    "dpmpp_2s_ancestral",
    "res_multistep_ancestral",
    "euler_ancestral_cfg_pp",
    "dpmpp_2s_ancestral_cfg_pp",
    "res_multistep_ancestral_cfg_pp",
    "dpmpp_sde",
    "dpmpp_2m_sde",
    "dpmpp_2m_sde_heun",
    "dpmpp_3m_sde",
    "ddpm",
    "er_sde",
    "seeds_2",
    "seeds_3",
    "exp_heun_2_x0_sde",
    "sa_solver",
    "sa_solver_pece",
]
ENDS = {False: (20.0, 0.1), True: (0.999, 0.05)}
SAMPLES = 4000


class Impulses:
    """Noise of one row at a time; increments that overlap are those of one Brownian path."""

    def __init__(self, like: torch.Tensor) -> None:
        self.like, self.drawn = like, 0
        self.last = (0.0, 0.0, like)

    def _new(self) -> torch.Tensor:
        noise = torch.zeros_like(self.like)
        noise[2 + self.drawn] = 1
        self.drawn += 1
        return noise

    def __call__(self, sigma: Any, sigma_next: Any) -> torch.Tensor:
        start, end = float(sigma), float(sigma_next)
        last_start, last_end, noise = self.last
        fresh = self._new()
        if start == last_start and end < last_end:
            known = (start - last_end) / (start - end)
            fresh = noise * known**0.5 + fresh * (1 - known) ** 0.5
        self.last = (start, end, fresh)
        return fresh


def _grid(flow: bool, steps: int) -> torch.Tensor:
    first, last = ENDS[flow]
    part = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if flow:
        return first + part * (last - first)
    return (math.log(first) + part * math.log(last / first)).exp()


def _law(name: str, flow: bool, steps: int, **options: Any) -> tuple[float, float]:
    """Mean and variance of the result, exactly."""
    model, sigmas = GaussianModel(flow), _grid(flow, steps)
    first = sigmas[0].item()
    x = torch.full((2 + 3 * steps, 1), float(model.mean(first)), dtype=torch.float64)
    x[1] += model.variance(first) ** 0.5
    sample = getattr(sampling, f"sample_{name}")
    result = sample(model, x, sigmas, disable=True, noise_sampler=Impulses(x), **options)
    return result[0].item(), (result[1:] - result[0]).square().sum().item()


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_law_converges_to_that_of_the_data(name: str, flow: bool) -> None:
    model, last = GaussianModel(flow), ENDS[flow][1]
    errors = []
    for steps in (60, 120):
        mean, variance = _law(name, flow, steps)
        assert mean == pytest.approx(model.mean(last), abs=1e-6)
        errors.append(abs(variance / model.variance(last) - 1))
    assert errors[1] < 0.1
    assert errors[1] < 0.7 * errors[0] or errors[1] < 1e-3


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
@pytest.mark.parametrize("name", ["euler_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "seeds_3"])
def test_law_does_not_depend_on_the_amount_of_noise(name: str, eta: float, flow: bool) -> None:
    variance = _law(name, flow, 120, eta=eta)[1]
    assert variance == pytest.approx(GaussianModel(flow).variance(ENDS[flow][1]), rel=0.1)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", NAMES)
def test_many_samples_have_the_law(name: str, flow: bool) -> None:
    steps, model = 30, GaussianModel(flow)
    mean, variance = _law(name, flow, steps)
    sigmas = _grid(flow, steps)
    x = model.start(SAMPLES, sigmas[0].item(), seed=7)
    sample = getattr(sampling, f"sample_{name}")
    result = sample(model, x, sigmas, extra_args={"seed": 11}, disable=True)
    assert result.mean().item() == pytest.approx(mean, abs=4 * (variance / SAMPLES) ** 0.5)
    assert result.var().item() == pytest.approx(variance, rel=4 * (2 / SAMPLES) ** 0.5)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("name", ["euler", "heun", "dpm_2"])
def test_churn_keeps_the_law(name: str, flow: bool) -> None:
    model, sigmas = GaussianModel(flow), _grid(flow, 60)
    x = model.start(SAMPLES, sigmas[0].item(), seed=3)
    sample = getattr(sampling, f"sample_{name}")
    result = sample(model, x, sigmas, extra_args={"seed": 4}, disable=True, s_churn=3.0)
    plain = sample(model, x, sigmas, disable=True)
    assert max(model.seen) > sigmas[0] or flow
    assert not torch.allclose(result, plain)
    scale = model.variance(sigmas[-1].item()) / SAMPLES
    assert result.mean().item() == pytest.approx(model.mean(ENDS[flow][1]), abs=4 * scale**0.5)
    assert result.var().item() == pytest.approx(plain.var().item(), rel=0.1)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
def test_lcm_draws_from_a_consistency_model(flow: bool) -> None:
    gaussian = GaussianModel(flow)

    class Consistent(GaussianModel):
        def __call__(self, x: torch.Tensor, sigma: torch.Tensor, **extra: Any) -> torch.Tensor:
            return self.solution(x, sigma[0].item(), 0.0)

    sigmas = torch.cat([_grid(flow, 4), torch.zeros(1, dtype=torch.float64)])
    x = gaussian.start(SAMPLES, sigmas[0].item(), seed=5)
    result = sampling.sample_lcm(Consistent(flow), x, sigmas, {"seed": 6}, disable=True)
    assert result.mean().item() == pytest.approx(MEAN, abs=4 * STD / SAMPLES**0.5)
    assert result.var().item() == pytest.approx(STD**2, rel=4 * (2 / SAMPLES) ** 0.5)

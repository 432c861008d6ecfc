"""Schedules given by their two ends."""

from __future__ import annotations

import math

import pytest
import torch

from comfy.k_diffusion import sampling


@pytest.mark.parametrize(
    "sigmas",
    [
        sampling.get_sigmas_karras(10, 0.03, 14.0),
        sampling.get_sigmas_exponential(10, 0.03, 14.0),
        sampling.get_sigmas_polyexponential(10, 0.03, 14.0, rho=2.0),
        sampling.get_sigmas_laplace(10, 0.03, 14.0),
    ],
    ids=["karras", "exponential", "polyexponential", "laplace"],
)
def test_both_ends_are_met_and_zero_is_appended(sigmas: torch.Tensor) -> None:
    assert sigmas[[0, -2, -1]].tolist() == pytest.approx([14.0, 0.03, 0.0], rel=1e-6)
    assert (sigmas.diff() <= 0).all()
    assert sigmas.dtype == torch.float32


def test_exponential_steps_are_even_in_log_sigma() -> None:
    logs = sampling.get_sigmas_exponential(9, 0.5, 8.0)[:-1].log()
    assert torch.allclose(logs.diff(), torch.full((8,), -math.log(16) / 8), atol=1e-5)


def test_vp_levels_are_those_of_the_process() -> None:
    sigmas = sampling.get_sigmas_vp(3, eps_s=0.5)
    expected = [math.sqrt(math.expm1(19.9 * t * t / 2 + 0.1 * t)) for t in (1.0, 0.75, 0.5)]
    assert sigmas.tolist() == pytest.approx([*expected, 0.0], rel=1e-6)


def test_laplace_levels_are_quantiles() -> None:
    sigmas = sampling.get_sigmas_laplace(5, 1e-6, 1e6, mu=0.3, beta=0.5)
    quartile = 0.5 * math.log(2)
    expected = [math.exp(0.3 + quartile), math.exp(0.3), math.exp(0.3 - quartile)]
    assert sigmas[1:4].tolist() == pytest.approx(expected, rel=1e-6)

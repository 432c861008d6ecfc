"""Nodes that change the formula of guidance, each beside the formula of its paper."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.samplers
from comfy_extras import (
    nodes_apg,
    nodes_cfg,
    nodes_eps,
    nodes_fresca,
    nodes_model_advanced,
    nodes_perpneg,
    nodes_tcfg,
)

GENERATOR = torch.Generator().manual_seed(4)
X, POSITIVE, NEGATIVE, EMPTY = (torch.randn((2, 4, 6, 6), generator=GENERATOR) for _ in range(4))
SIGMA = torch.tensor([2.0, 2.0])
SCALE = 5.0


def _guided(patched: Any, sigma: torch.Tensor = SIGMA, scale: float = SCALE) -> torch.Tensor:
    """What guidance makes of both predictions, as the sampling loop has it done."""
    options = {**patched.model_options}
    conds = [[{"positive": 1}], [{"negative": 1}]]

    def given(args: Any) -> list[torch.Tensor]:
        return [POSITIVE, NEGATIVE]

    options["sampler_calc_cond_batch_function"] = given
    return comfy.samplers.sampling_function(
        patched.model, X, sigma, conds[1], conds[0], scale, model_options=options
    )


def _usual(scale: float = SCALE) -> torch.Tensor:
    return NEGATIVE + scale * (POSITIVE - NEGATIVE)


def _dot(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return torch.einsum("bchw,bchw->b", a, b).reshape(-1, 1, 1, 1)


def test_zero_star_scales_the_negative_velocity(sd15: Any) -> None:
    v_pos, v_neg = (X - POSITIVE) / 2.0, (X - NEGATIVE) / 2.0
    best = _dot(v_pos, v_neg) / _dot(v_neg, v_neg)
    v = best * v_neg + SCALE * (v_pos - best * v_neg)
    made = _guided(nodes_cfg.CFGZeroStar.execute(sd15.model)[0])
    torch.testing.assert_close(made, X - 2.0 * v, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_norm_is_at_most_that_of_the_positive_prediction(sd15: Any, strength: float) -> None:
    made = _guided(nodes_cfg.CFGNorm.execute(sd15.model, strength)[0])
    longest = POSITIVE.norm(dim=1)
    usual = _usual().norm(dim=1)
    torch.testing.assert_close(made.norm(dim=1), torch.minimum(longest, usual) * strength)
    cosine = torch.nn.functional.cosine_similarity(made, _usual(), dim=1)
    torch.testing.assert_close(cosine, torch.ones_like(cosine))


def test_projected_guidance_without_its_parts_is_the_usual_one(sd15: Any) -> None:
    made = _guided(nodes_apg.APG.execute(sd15.model, 1.0, 0.0, 0.0)[0])
    torch.testing.assert_close(made, _usual(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("eta", "limit"), [(0.0, 0.0), (0.3, 0.0), (0.0, 2.0), (1.0, 2.0)])
def test_projected_guidance_is_the_papers_algorithm(sd15: Any, eta: float, limit: float) -> None:
    rows = []
    for positive, negative in zip(POSITIVE.double(), NEGATIVE.double(), strict=True):
        diff = positive - negative
        if limit:
            diff = diff * min(1.0, limit / float(diff.norm()))
        unit = positive / positive.norm()
        parallel = (diff * unit).sum() * unit
        rows.append(positive + (SCALE - 1) * (diff - parallel + eta * parallel))
    made = _guided(nodes_apg.APG.execute(sd15.model, eta, limit, 0.0)[0])
    torch.testing.assert_close(made, torch.stack(rows).float(), rtol=1e-4, atol=1e-4)


def test_momentum_lasts_as_long_as_a_run(sd15: Any) -> None:
    patched = nodes_apg.APG.execute(sd15.model, 1.0, 0.0, -0.5)[0]
    diff = POSITIVE - NEGATIVE
    torch.testing.assert_close(_guided(patched), _usual(), rtol=1e-4, atol=1e-4)
    second = _guided(patched, SIGMA / 2)
    wanted = POSITIVE + (SCALE - 1) * 0.5 * diff
    torch.testing.assert_close(second, wanted, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(_guided(patched), _usual(), rtol=1e-4, atol=1e-4)


def test_damped_score_is_projected_on_the_first_singular_vector(sd15: Any) -> None:
    rows = []
    for x, positive, negative in zip(X, POSITIVE, NEGATIVE, strict=True):
        scores = torch.stack([x - positive, x - negative]).flatten(1).double()
        first = torch.linalg.svd(scores, full_matrices=False).Vh[0]
        rows.append(x - ((scores[1] @ first) * first).reshape(x.shape).float())
    damped = torch.stack(rows)
    made = _guided(nodes_tcfg.TCFG.execute(sd15.model)[0])
    wanted = damped + SCALE * (POSITIVE - damped)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("node", [nodes_tcfg.TCFG, nodes_cfg.CFGZeroStar])
def test_scale_one_needs_no_negative_prompt(sd15: Any, node: Any) -> None:
    made = _guided(node.execute(sd15.model)[0], scale=1.0)
    torch.testing.assert_close(made, POSITIVE, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factor", [1.0, 1.25])
def test_predicted_noise_is_divided(sd15: Any, factor: float) -> None:
    made = _guided(nodes_eps.EpsilonScaling.execute(sd15.model, factor)[0])
    noise = (X - _usual()) / 2.0
    torch.testing.assert_close(made, X - 2.0 * noise / factor, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("flow", [False, True])
@pytest.mark.parametrize("k", [0.5, 1.0, 4.0])
def test_score_becomes_that_of_a_sharper_distribution(sd15: Any, k: float, flow: bool) -> None:
    """Data N(0, s^2): the ideal D at each level is known, and so is that of N(0, s^2 / k)."""
    spread = 0.8
    model = (
        nodes_model_advanced.ModelSamplingSD3().patch(sd15.model, 1.0)[0] if flow else sd15.model
    )
    patched = nodes_eps.TemporalScoreRescaling.execute(model, k, spread)[0]
    (function,) = patched.model_options["sampler_post_cfg_function"]
    for level in (0.3, 0.9, 1.0):
        scale = 1 - level if flow else 1.0

        def ideal(variance: float, scale: float = scale, level: float = level) -> torch.Tensor:
            return X * scale * variance / (scale**2 * variance + level**2)

        sigma = torch.full((2,), level)
        told = {"input": X, "denoised": ideal(spread**2), "sigma": sigma}
        torch.testing.assert_close(function(told), ideal(spread**2 / k), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("low", "high"), [(1.0, 1.0), (0.5, 2.0)])
def test_frequencies_of_guidance_are_scaled(sd15: Any, low: float, high: float) -> None:
    made = _guided(nodes_fresca.FreSca.execute(sd15.model, low, high, 2)[0])
    shifted = torch.fft.fftshift(torch.fft.fft2(POSITIVE - NEGATIVE), dim=(-2, -1))
    factors = torch.full((6, 6), high)
    factors[1:5, 1:5] = low
    back = torch.fft.ifft2(torch.fft.ifftshift(shifted * factors, dim=(-2, -1))).real
    torch.testing.assert_close(made, NEGATIVE + SCALE * back, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_negative_prompt_takes_away_what_lies_across(weight: float) -> None:
    made = nodes_perpneg.perp_neg(POSITIVE, NEGATIVE, EMPTY, weight, SCALE)
    towards, away = POSITIVE - EMPTY, NEGATIVE - EMPTY
    across = away - _dot(away, towards) / _dot(towards, towards) * towards
    assert float(_dot(across, towards).abs().max()) < 1e-3
    wanted = EMPTY + SCALE * (towards - weight * across)
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


def test_negative_prompt_along_the_positive_one_takes_nothing_away() -> None:
    made = nodes_perpneg.perp_neg(POSITIVE, 2 * POSITIVE - EMPTY, EMPTY, 3.0, SCALE)
    torch.testing.assert_close(made, EMPTY + SCALE * (POSITIVE - EMPTY), rtol=1e-4, atol=1e-4)


def test_formulas_leave_the_model_they_were_given(sd15: Any) -> None:
    nodes_cfg.CFGZeroStar.execute(sd15.model)
    nodes_tcfg.TCFG.execute(sd15.model)
    torch.testing.assert_close(_guided(sd15.model), _usual())

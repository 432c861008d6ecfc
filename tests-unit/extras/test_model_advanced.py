"""Nodes give a clone of a model another sampling object, formula of guidance, or dtype."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from diffusers import LCMScheduler

import comfy.latent_formats
import comfy.samplers
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras import nodes_model_advanced as room

SIGMA = torch.tensor([2.0])
X = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(1))
F = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))


def _sampling(patched: Any) -> Any:
    return patched.get_model_object("model_sampling")


def _scaled_linear() -> torch.Tensor:
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    products = (1 - betas).cumprod(0)
    return ((1 - products) / products).sqrt()


@pytest.mark.parametrize(
    ("kind", "denoised"),
    [
        ("eps", X - 2.0 * F),
        ("v_prediction", X / 5.0 - F * 2.0 / math.sqrt(5.0)),
        ("x0", F),
        ("img_to_img", F),
    ],
)
def test_prediction_is_turned_into_the_clean_latent(
    sd15: Any, kind: str, denoised: torch.Tensor
) -> None:
    (patched,) = room.ModelSamplingDiscrete().patch(sd15.model, kind, False)
    sampling = _sampling(patched)
    torch.testing.assert_close(sampling.calculate_denoised(SIGMA, F, X), denoised)
    torch.testing.assert_close(sampling.sigmas, _scaled_linear().float())
    scaled = X if kind == "img_to_img" else X / math.sqrt(5.0)
    torch.testing.assert_close(sampling.calculate_input(SIGMA, X), scaled)
    assert _sampling(sd15.model) is not sampling


@pytest.mark.parametrize(
    ("node", "arguments", "told"),
    [
        (room.ModelSamplingSD3, (0.0,), "ModelSamplingSD3 .* shift"),
        (room.ModelSamplingAuraFlow, (0.0,), "ModelSamplingAuraFlow .* shift"),
        (room.ModelSamplingStableCascade, (0.0,), "ModelSamplingStableCascade .* shift"),
        (room.ModelSamplingContinuousEDM, ("edm", 9.0, 0.0), "ContinuousEDM .* sigma_min"),
        (room.ModelSamplingContinuousEDM, ("edm", 0.0, 1.0), "ContinuousEDM .* sigma_max"),
        (room.ModelSamplingContinuousV, ("v_prediction", 0.0, 1.0), "ContinuousV .* sigma_max"),
        (room.ModelSamplingContinuousV, ("v_prediction", 9.0, 0.0), "ContinuousV .* sigma_min"),
    ],
)
def test_numbers_without_noise_levels_are_refused_by_name(
    sd15: Any, node: Any, arguments: tuple[Any, ...], told: str
) -> None:
    with pytest.raises(ValueError, match=rf"{told} = 0\.0: choose more than 0"):
        getattr(node(), node.FUNCTION)(sd15.model, *arguments)


def test_zero_snr_stretches_the_chain(sd15: Any) -> None:
    (patched,) = room.ModelSamplingDiscrete().patch(sd15.model, "v_prediction", True)
    assert float(_sampling(patched).sigma_max) > 4000
    assert float(_sampling(patched).sigma_min) == pytest.approx(
        float(_scaled_linear()[0]), rel=1e-4
    )


def test_consistency_model_is_weighted_as_in_diffusers(sd15: Any) -> None:
    (patched,) = room.ModelSamplingDiscrete().patch(sd15.model, "lcm", False)
    sampling = _sampling(patched)
    scheduler = LCMScheduler()
    for time in (19, 499, 999):
        sigma = sampling.sigma(torch.tensor([float(time)]))
        assert sampling.timestep(sigma).tolist() == [time]
        skip, out = scheduler.get_scalings_for_boundary_condition_discrete(torch.tensor(time))
        wanted = out * (X - sigma * F) + skip * X
        torch.testing.assert_close(sampling.calculate_denoised(sigma, F, X), wanted.float())


def test_consistency_model_knows_every_twentieth_time(sd15: Any) -> None:
    (patched,) = room.ModelSamplingDiscrete().patch(sd15.model, "lcm", False)
    sampling = _sampling(patched)
    chain = _scaled_linear()[19::20].float()
    torch.testing.assert_close(sampling.sigmas, chain)
    assert sampling.percent_to_sigma(1.0) == 0.0
    assert sampling.percent_to_sigma(0.0) > 1e8
    half = sampling.percent_to_sigma(0.5)
    assert float(_scaled_linear()[490]) < half < float(_scaled_linear()[510])


@pytest.mark.parametrize(
    ("kind", "denoised"),
    [
        ("eps", X - 2.0 * F),
        ("v_prediction", X / 5.0 - F * 2.0 / math.sqrt(5.0)),
        ("edm", X * 0.25 / 4.25 + F * 2.0 * 0.5 / math.sqrt(4.25)),
        ("edm_playground_v2.5", X * 0.25 / 4.25 + F * 2.0 * 0.5 / math.sqrt(4.25)),
        ("cosmos_rflow", (X - 2.0 * F) / 3.0),
    ],
)
def test_continuous_levels_lie_between_their_bounds(
    sd15: Any, kind: str, denoised: torch.Tensor
) -> None:
    (patched,) = room.ModelSamplingContinuousEDM().patch(sd15.model, kind, 80.0, 0.01)
    sampling = _sampling(patched)
    assert float(sampling.sigma_max) == pytest.approx(80.0)
    assert float(sampling.sigma_min) == pytest.approx(0.01)
    torch.testing.assert_close(sampling.calculate_denoised(SIGMA, F, X), denoised)
    time = 2.0 / 3.0 if kind == "cosmos_rflow" else math.log(2.0) / 4
    assert sampling.timestep(SIGMA).item() == pytest.approx(time)
    is_playground = isinstance(
        patched.get_model_object("latent_format"), comfy.latent_formats.SDXL_Playground_2_5
    )
    assert is_playground == (kind == "edm_playground_v2.5")


def test_levels_of_angles(sd15: Any) -> None:
    (patched,) = room.ModelSamplingContinuousV().patch(sd15.model, "v_prediction", 500.0, 0.03)
    sampling = _sampling(patched)
    assert float(sampling.sigma_max) == pytest.approx(500.0)
    assert sampling.timestep(torch.tensor([1.0])).item() == pytest.approx(0.5)


@pytest.mark.parametrize("shift", [1.0, 2.0])
def test_shift_of_stable_cascade_divides_the_signal(sd15: Any, shift: float) -> None:
    (patched,) = room.ModelSamplingStableCascade().patch(sd15.model, shift)
    level = _sampling(patched).sigma(torch.tensor(0.5, dtype=torch.float64))
    angle = (0.5 + 0.008) / 1.008 * math.pi / 2
    alphas = math.cos(angle) ** 2 / math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(level) == pytest.approx(shift * math.sqrt((1 - alphas) / alphas))


@pytest.mark.parametrize(
    ("patch", "multiplier"),
    [(room.ModelSamplingSD3().patch, 1000), (room.ModelSamplingAuraFlow().patch_aura, 1)],
)
def test_flow_is_shifted(sd15: Any, patch: Any, multiplier: float) -> None:
    sampling = _sampling(patch(sd15.model, 3.0)[0])
    assert sampling.timestep(torch.tensor([0.5])).item() == 0.5 * multiplier
    for t in (0.25, 0.5, 1.0):
        level = sampling.sigma(torch.tensor(t * multiplier, dtype=torch.float64))
        assert float(level) == pytest.approx(3 * t / (1 + 2 * t))
    torch.testing.assert_close(sampling.calculate_denoised(SIGMA, F, X), X - 2.0 * F)
    made = sampling.noise_scaling(torch.tensor(0.25), F, X)
    torch.testing.assert_close(made, 0.25 * F + 0.75 * X)


@pytest.mark.parametrize(
    ("width", "height", "mu"),
    [(256, 256, 0.5), (1024, 1024, 1.15), (640, 512, 0.5 + 0.65 * (40 * 32 - 256) / (4096 - 256))],
)
def test_shift_of_flux_is_linear_in_the_tokens(
    sd15: Any, width: int, height: int, mu: float
) -> None:
    (patched,) = room.ModelSamplingFlux().patch(sd15.model, 1.15, 0.5, width, height)
    level = float(_sampling(patched).sigma(torch.tensor(0.5)))
    assert level == pytest.approx(math.exp(mu) / (math.exp(mu) + 1), rel=1e-5)


def _cfg(patched: Any, positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    return comfy.samplers.cfg_function(
        patched.model, positive, negative, 7.0, X, SIGMA, patched.model_options
    )


def _v(denoised: torch.Tensor) -> torch.Tensor:
    """v = alpha eps - sigma' D, of the state x / sqrt(5), alpha = 1 / sqrt(5)."""
    alpha, noise_level = 1 / math.sqrt(5.0), 2 / math.sqrt(5.0)
    eps = (X - denoised) / 2.0
    return alpha * eps - noise_level * denoised


@pytest.mark.parametrize("multiplier", [0.0, 0.7, 1.0])
def test_rescaled_guidance_keeps_the_spread_of_v(sd15: Any, multiplier: float) -> None:
    positive, negative = X * 0.5, F * 0.3
    (patched,) = room.RescaleCFG().patch(sd15.model, multiplier)
    made = _v(_cfg(patched, positive, negative))
    guided = _v(negative + 7.0 * (positive - negative))
    rescaled = guided * _v(positive).std() / guided.std()
    wanted = multiplier * rescaled + (1 - multiplier) * guided
    torch.testing.assert_close(made, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("default", None)]
)
def test_compute_dtype_is_that_of_a_clone(sd15: Any, name: str, dtype: torch.dtype | None) -> None:
    (patched,) = room.ModelComputeDtype().patch(sd15.model, name)
    assert patched.get_model_object("manual_cast_dtype") is dtype
    assert patched is not sd15.model


def test_model_with_another_sampling_object_samples_its_levels(sd15: Any, latent: Any) -> None:
    (patched,) = room.ModelSamplingSD3().patch(sd15.model, 2.0)
    sigmas = custom.BasicScheduler.execute(patched, "simple", 2, 1.0)[0]
    torch.testing.assert_close(sigmas, torch.tensor([1.0, 2 / 3, 0.0]))
    guider = custom.BasicGuider.execute(patched, sd15.positive)[0]
    parts = (custom.Noise_RandomNoise(1), guider, custom.KSamplerSelect.execute("euler")[0])
    made = custom.SamplerCustomAdvanced.execute(*parts, sigmas, latent)[0]["samples"]
    assert made.isfinite().all()
    assert made.std() > 0
    back = custom.BasicScheduler.execute(sd15.model, "simple", 2, 1.0)[0]
    assert back[0] > 10

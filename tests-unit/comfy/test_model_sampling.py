"""Sampling objects: levels and times are inverse, scaling and denoising fit together."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfy import model_sampling as ms

ADDED = [ms.EPS, ms.V_PREDICTION, ms.EDM, ms.X0]
TABLES: dict[str, Any] = {
    "discrete": ms.ModelSamplingDiscrete,
    "discrete-edm": ms.ModelSamplingDiscreteEDM,
    "continuous-edm": ms.ModelSamplingContinuousEDM,
    "continuous-v": ms.ModelSamplingContinuousV,
    "flow": ms.ModelSamplingDiscreteFlow,
    "flux": ms.ModelSamplingFlux,
    "cosmos": ms.ModelSamplingCosmosRFlow,
    "cascade": ms.StableCascadeSampling,
}


def configured(**settings: Any) -> SimpleNamespace:
    return SimpleNamespace(sampling_settings=settings)


def output_for(kind: type, sigma: torch.Tensor, x: torch.Tensor, clean: torch.Tensor, sd: float):
    """What a network must say so that D is the clean latent."""
    total = sigma**2 + sd**2
    v = (x * sd**2 / total - clean) * total**0.5 / (sigma * sd)
    return {
        ms.EPS: (x - clean) / sigma,
        ms.V_PREDICTION: v,
        ms.EDM: -v,
        ms.X0: clean,
        ms.IMG_TO_IMG: clean,
        ms.CONST: (x - clean) / sigma,
        ms.COSMOS_RFLOW: (x - (1 + sigma) * clean) / sigma,
    }[kind]


@pytest.mark.parametrize("sd", [1.0, 0.5])
@pytest.mark.parametrize("kind", [*ADDED, ms.IMG_TO_IMG, ms.CONST, ms.COSMOS_RFLOW])
def test_the_right_output_gives_the_clean_latent(kind: type, sd: float) -> None:
    prediction = kind()
    prediction.sigma_data = sd
    clean, noise = torch.randn(2, 3, 4, 4).double(), torch.randn(2, 3, 4, 4).double()
    sigma = torch.tensor([0.9, 0.2]).double()
    x = prediction.noise_scaling(sigma, noise, clean)
    levels = sigma.reshape(2, 1, 1, 1)
    output = output_for(kind, levels, x, clean, sd)
    assert torch.allclose(prediction.calculate_denoised(sigma, output, x), clean)
    if kind is ms.CONST:
        assert torch.allclose(x, levels * noise + (1 - levels) * clean)
    else:
        assert torch.allclose(x, clean + levels * noise)


@pytest.mark.parametrize("kind", [ms.EPS, ms.V_PREDICTION, ms.EDM])
def test_inputs_have_unit_variance(kind: type) -> None:
    x = torch.full((1, 1, 2, 2), 3.0)
    found = kind().calculate_input(torch.tensor([2.0]), x)
    assert found.flatten().tolist() == pytest.approx([3 / 5**0.5] * 4)


@pytest.mark.parametrize("kind", [ms.CONST, ms.IMG_TO_IMG])
def test_other_inputs_are_left_alone(kind: type) -> None:
    x = torch.randn(1, 1, 2, 2)
    assert torch.equal(kind().calculate_input(torch.tensor([2.0]), x), x)


def test_the_flow_of_cosmos_is_the_state_over_one_plus_sigma() -> None:
    found = ms.COSMOS_RFLOW().calculate_input(torch.tensor([3.0]), torch.full((1, 2), 8.0))
    assert found.tolist() == [[2.0, 2.0]]


def test_full_noise_is_as_strong_as_in_training() -> None:
    noise, latent = torch.ones(1, 2), torch.full((1, 2), 0.25)
    sigma = torch.tensor([3.0])
    assert ms.EPS().noise_scaling(sigma, noise, latent, True)[0, 0].item() == pytest.approx(
        10**0.5 + 0.25
    )


@pytest.mark.parametrize("sigma", [0.0, 0.3])
def test_noise_scaling_of_a_flow_is_undone(sigma: float) -> None:
    latent, level = torch.randn(2, 3), torch.tensor(sigma)
    flow = ms.CONST()
    scaled = flow.noise_scaling(level, torch.zeros(2, 3), latent)
    assert torch.allclose(flow.inverse_noise_scaling(level, scaled), latent)
    assert torch.equal(ms.EPS().inverse_noise_scaling(level, latent), latent)


@pytest.mark.parametrize("name", ["discrete", "discrete-edm", "continuous-edm", "continuous-v"])
def test_levels_survive_the_way_through_time(name: str) -> None:
    table = TABLES[name]()
    found = table.sigma(table.timestep(table.sigmas))
    assert torch.allclose(found, table.sigmas, rtol=1e-3)


@pytest.mark.parametrize("name", ["flux", "cosmos", "cascade", "flow"])
def test_times_of_unshifted_levels_are_inverse(name: str) -> None:
    table = TABLES[name]()
    if name == "flux":
        table.set_parameters(shift=0.0)
    chosen = table.sigmas[10:-10].double()
    assert torch.allclose(table.sigma(table.timestep(chosen)), chosen, rtol=1e-4)


@pytest.mark.parametrize("name", TABLES)
def test_tables_ascend_and_stay_out_of_the_state_dict(name: str) -> None:
    table = TABLES[name]()
    # Where a cosine chain is cut off, levels repeat.
    assert (table.sigmas.diff() >= 0).all()
    assert table.sigmas.dtype == torch.float32
    assert (table.sigma_min, table.sigma_max) == (table.sigmas[0], table.sigmas[-1])
    assert table.state_dict() == {}


@pytest.mark.parametrize("name", TABLES)
def test_percentages_run_from_noise_to_none(name: str) -> None:
    table = TABLES[name]()
    is_flow = name in ("flow", "flux")
    assert table.percent_to_sigma(0.0) == (1.0 if is_flow else 999999999.9)
    assert table.percent_to_sigma(1.0) == 0.0
    levels = [table.percent_to_sigma(p / 20) for p in range(1, 20)]
    assert levels == sorted(levels, reverse=True)
    assert levels[0] <= table.sigma_max * (1 + 1e-6)


def test_time_steps_between_two_are_interpolated_in_log_sigma() -> None:
    table = ms.ModelSamplingDiscrete()
    between = table.sigma(torch.tensor([10.25])).log().item()
    low, high = table.log_sigmas[10].item(), table.log_sigmas[11].item()
    assert between == pytest.approx(0.75 * low + 0.25 * high, rel=1e-6)
    assert table.sigma(torch.tensor([-5.0, 5000.0])).tolist() == pytest.approx(
        [table.sigma_min.item(), table.sigma_max.item()]
    )


def test_zero_terminal_snr_keeps_the_first_level_and_ends_in_noise() -> None:
    plain, zero = ms.ModelSamplingDiscrete(), ms.ModelSamplingDiscrete(configured(zsnr=True))
    assert zero.sigma_min.item() == pytest.approx(plain.sigma_min.item(), rel=1e-5)
    assert zero.sigma_max.item() == pytest.approx(4518.76, rel=1e-5)
    assert ms.ModelSamplingDiscrete(configured(zsnr=True), zsnr=False).sigma_max < 15


def test_settings_of_the_chain_are_read() -> None:
    table = ms.ModelSamplingDiscrete(configured(linear_start=1e-4, linear_end=0.02, timesteps=500))
    assert table.num_timesteps == 500
    assert table.sigma_min.item() == pytest.approx((1e-4 / (1 - 1e-4)) ** 0.5, rel=1e-5)
    with pytest.raises(ValueError, match="beta schedule 'cubic' is not known"):
        ms.ModelSamplingDiscrete(configured(beta_schedule="cubic"))


def test_both_shifts_are_one_formula() -> None:
    t = torch.linspace(0.1, 1, 10)
    assert torch.allclose(ms.time_snr_shift(math.exp(1.15), t), ms.flux_time_shift(1.15, 1.0, t))


def test_a_shift_of_the_cosine_chain_scales_its_levels() -> None:
    table, time = ms.StableCascadeSampling(), torch.tensor([0.5])
    plain = table.sigma(time).item()
    table.set_parameters(shift=2.0)
    assert table.sigma(time).item() == pytest.approx(2 * plain)
    assert table.timestep(torch.tensor([2 * plain])).item() == pytest.approx(0.5, abs=1e-5)

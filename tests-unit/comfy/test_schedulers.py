"""Schedulers: the formulas, the reference values, the edges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfy import schedulers
from comfy.model_sampling import (
    CONST,
    EPS,
    V_PREDICTION,
    ModelSamplingDiscrete,
    ModelSamplingDiscreteFlow,
    ModelSamplingFlux,
)

REFERENCE = json.loads(
    (Path(__file__).parent.parent / "data" / "reference_schedules.json").read_text(encoding="utf-8")
)


class Eps(ModelSamplingDiscrete, EPS):
    pass


class V(ModelSamplingDiscrete, V_PREDICTION):
    pass


class Flow(ModelSamplingDiscreteFlow, CONST):
    pass


class Flux(ModelSamplingFlux, CONST):
    pass


MODELS: dict[str, tuple[type, dict[str, Any]]] = {
    "sd15_sdxl_eps": (Eps, {}),
    "sdxl_vpred_zsnr": (V, {"zsnr": True}),
    "sd35": (Flow, {"shift": 3.0}),
    "flux1_dev_chroma_qwen": (Flux, {}),
    "flux1_schnell": (Flow, {"shift": 1.0, "multiplier": 1}),
    "flux2_dev": (Flux, {"shift": 2.02}),
    "z_image": (Flow, {"shift": 3.0, "multiplier": 1}),
    "wan21": (Flow, {"shift": 8.0}),
}
ENTRIES = {name.split(" ")[0]: entry for name, entry in REFERENCE["models"].items()}


def sampling_of(name: str) -> Any:
    kind, settings = MODELS[name]
    return kind(SimpleNamespace(sampling_settings=settings))


def test_every_reference_model_is_checked() -> None:
    assert set(ENTRIES) == set(MODELS)


@pytest.mark.parametrize("scheduler", schedulers.SCHEDULER_NAMES)
@pytest.mark.parametrize("name", MODELS)
def test_sigmas_are_those_of_the_reference(name: str, scheduler: str) -> None:
    sampling, schedules = sampling_of(name), ENTRIES[name]["schedules"]
    cases = [key for key in schedules if key.startswith(f"{scheduler}/")]
    assert len(cases) == 3
    for key in cases:
        sigmas = schedulers.calculate_sigmas(sampling, scheduler, int(key.split("/")[1]))
        assert sigmas.dtype == torch.float32
        assert sigmas.tolist() == pytest.approx(schedules[key], rel=3e-6, abs=1e-9), key


@pytest.mark.parametrize("name", MODELS)
def test_tables_are_those_of_the_reference(name: str) -> None:
    sampling, entry = sampling_of(name), ENTRIES[name]
    assert len(sampling.sigmas) == entry["n_sigmas"]
    assert sampling.sigma_min.item() == pytest.approx(entry["sigma_min"], rel=1e-6)
    assert sampling.sigma_max.item() == pytest.approx(entry["sigma_max"], rel=1e-6)
    for sigma, timestep in entry["timestep_of_sigma"].items():
        found = sampling.timestep(torch.tensor(float(sigma)))
        assert found.item() == pytest.approx(timestep, rel=1e-6)
    for percent, sigma in entry["percent_to_sigma"].items():
        assert sampling.percent_to_sigma(float(percent)) == pytest.approx(sigma, rel=1e-6)


def test_names_are_in_the_order_of_the_user_interface() -> None:
    assert REFERENCE["schedulers_ui_order"] == schedulers.SCHEDULER_NAMES


def test_exact_formulas_of_the_schedulers_that_need_only_two_ends() -> None:
    low, high, n = 0.03, 14.0, 7
    part = [i / (n - 1) for i in range(n)]
    kl = [math.tan(p * math.atan(low) + (1 - p) * math.atan(high)) for p in part]
    assert schedulers.kl_optimal_scheduler(n, low, high).tolist() == pytest.approx([*kl, 0], 1e-5)
    karras = [(high ** (1 / 7) + p * (low ** (1 / 7) - high ** (1 / 7))) ** 7 for p in part]
    found = schedulers.get_sigmas_karras(n, low, high).tolist()
    assert found == pytest.approx([*karras, 0], 1e-6)


@pytest.mark.parametrize("scheduler", schedulers.SCHEDULER_NAMES)
@pytest.mark.parametrize("steps", [1, 2, 3, 7, 50, 1000])
@pytest.mark.parametrize("name", ["sd15_sdxl_eps", "flux1_dev_chroma_qwen"])
def test_levels_descend_to_zero(name: str, steps: int, scheduler: str) -> None:
    sampling = sampling_of(name)
    sigmas = schedulers.calculate_sigmas(sampling, scheduler, steps)
    assert sigmas[-1] == 0
    assert (sigmas.diff() < 0).all()
    assert sigmas[0] <= sampling.sigma_max * (1 + 1e-6)
    if scheduler not in ("beta", "ddim_uniform"):
        assert len(sigmas) == steps + 1


def test_beta_drops_repeated_levels() -> None:
    sigmas = schedulers.beta_scheduler(sampling_of("sd15_sdxl_eps"), 1000)
    assert len(sigmas) < 1001
    assert len(sigmas.unique()) == len(sigmas)


@pytest.mark.parametrize("scheduler", ["ddim_uniform", "normal"])
def test_a_table_that_starts_at_zero_gets_no_second_zero(scheduler: str) -> None:
    sampling = sampling_of("flux1_schnell")
    sampling.set_sigmas(torch.cat([torch.zeros(2), torch.arange(1, 999) / 998]))
    sigmas = schedulers.calculate_sigmas(sampling, scheduler, 10)
    assert sigmas.tolist().count(0.0) == 1
    assert sigmas[-1] == 0


def test_linear_quadratic_halves_meet_with_one_slope() -> None:
    sigmas = schedulers.linear_quadratic_schedule(sampling_of("sd35"), 400).double()
    steps = -sigmas.diff()
    assert steps[:200].max().item() == pytest.approx(steps[:200].min().item(), rel=1e-2)
    assert steps[200].item() == pytest.approx(steps[199].item(), rel=0.5)
    assert sigmas[200].item() == pytest.approx(1 - 0.025, rel=1e-6)


def test_an_unknown_scheduler_is_named() -> None:
    with pytest.raises(ValueError, match="no scheduler 'often'; known are simple, sgm_uniform"):
        schedulers.calculate_sigmas(sampling_of("sd35"), "often", 4)


def test_an_added_scheduler_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def two_levels(n: int, sigma_min: float, sigma_max: float) -> torch.Tensor:
        return torch.tensor([sigma_max, sigma_min, float(n)])

    added = schedulers.SchedulerHandler(two_levels, use_ms=False)
    monkeypatch.setitem(schedulers.SCHEDULER_HANDLERS, "mine", added)
    sigmas = schedulers.calculate_sigmas(sampling_of("sd15_sdxl_eps"), "mine", 5)
    assert sigmas.tolist() == pytest.approx([14.61464, 0.02916716, 5.0], rel=1e-6)

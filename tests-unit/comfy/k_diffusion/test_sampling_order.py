"""Deterministic samplers converge to the exact flow of Gaussian data, each at its order."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from comfy.extra_samplers import uni_pc
from comfy.k_diffusion import sampling
from support.gaussian_models import GaussianModel

ENDS = {False: (200.0, 0.1), True: (0.999, 0.1)}

# Name -> order, and what makes the sampler deterministic. Orders are those of the papers.
NO_NOISE = {"eta": 0.0}
ORDERS: dict[str, tuple[int, dict[str, Any]]] = {
    "euler": (1, {}),
    "euler_cfg_pp": (1, {}),
    "euler_ancestral": (1, NO_NOISE),
    "euler_ancestral_cfg_pp": (1, NO_NOISE),
    "heun": (2, {}),
    "heunpp2": (1, {}),
    "exp_heun_2_x0": (2, {}),
    "exp_heun_2_x0_sde": (2, NO_NOISE),
    "dpm_2": (2, {}),
    "dpm_2_ancestral": (2, NO_NOISE),
    "lms": (4, {}),
    "dpmpp_2s_ancestral": (2, NO_NOISE),
    "dpmpp_2s_ancestral_cfg_pp": (2, NO_NOISE),
    "dpmpp_sde": (2, NO_NOISE),
    "dpmpp_2m": (2, {}),
    "dpmpp_2m_cfg_pp": (2, {}),
    "dpmpp_2m_sde": (2, NO_NOISE),
    "dpmpp_2m_sde_heun": (2, NO_NOISE),
    "dpmpp_3m_sde": (3, NO_NOISE),
    # With unequal steps the weights of equal ones are right to order 2.
    "ipndm": (2, {}),
    "ipndm_v": (4, {}),
    "deis": (3, {}),
    "res_multistep": (2, {}),
    "res_multistep_cfg_pp": (2, {}),
    "res_multistep_ancestral": (2, NO_NOISE),
    "res_multistep_ancestral_cfg_pp": (2, NO_NOISE),
    "gradient_estimation": (1, {}),
    "gradient_estimation_cfg_pp": (1, {}),
    "er_sde": (3, {"noise_scaler": lambda level: level}),
    "seeds_2": (2, NO_NOISE),
    "seeds_3": (3, NO_NOISE),
    "sa_solver": (4, {"tau_func": lambda sigma: 0.0}),
    "sa_solver_pece": (4, {"tau_func": lambda sigma: 0.0}),
}

VARIANTS: list[tuple[Callable[..., torch.Tensor], int, dict[str, Any]]] = [
    (uni_pc.sample_unipc, 4, {}),
    (uni_pc.sample_unipc_bh2, 4, {}),
    (sampling.sample_seeds_2, 2, {"eta": 0.0, "solver_type": "phi_2"}),
    (sampling.sample_exp_heun_2_x0, 2, {"solver_type": "phi_1"}),
    (sampling.sample_deis, 3, {"deis_mode": "rhoab"}),
    (sampling.sample_deis, 2, {"max_order": 2}),
    (sampling.sample_lms, 2, {"order": 2}),
    (sampling.sample_lms, 1, {"order": 1}),
    (sampling.sample_er_sde, 2, {"noise_scaler": lambda level: level, "max_stage": 2}),
    (sampling.sample_er_sde, 1, {"noise_scaler": lambda level: level, "max_stage": 1}),
    *(
        (
            sampling.sample_sa_solver,
            order,
            {
                "tau_func": lambda sigma: 0.0,
                "predictor_order": order,
                "corrector_order": corrector,
                "simple_order_2": simple,
            },
        )
        for order, corrector, simple in [(1, 0, False), (2, 0, False), (2, 0, True), (2, 2, True)]
    ),
]


def _grid(flow: bool, steps: int) -> torch.Tensor:
    """Even in lambda."""
    first, last = ENDS[flow]
    part = torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    if not flow:
        return (math.log(first) + part * math.log(last / first)).exp()
    ends = torch.tensor([first, last], dtype=torch.float64).logit()
    return (ends[0] + part * (ends[1] - ends[0])).sigmoid()


def _error(
    sample: Callable[..., torch.Tensor], flow: bool, steps: int, options: dict[str, Any]
) -> float:
    model = GaussianModel(flow)
    first, last = ENDS[flow]
    x = torch.tensor([[1.9], [-1.1]], dtype=torch.float64) * model.variance(first) ** 0.5
    found = sample(model, x, _grid(flow, steps), disable=True, **options)
    return (found - model.solution(x, first, last)).abs().max().item()


def _slope(
    sample: Callable[..., torch.Tensor], flow: bool, steps: tuple[int, int], options: dict[str, Any]
) -> float:
    coarse, fine = (_error(sample, flow, count, options) for count in steps)
    return math.log(coarse / fine) / math.log(steps[1] / steps[0])


def _cases() -> list[Any]:
    named = [
        pytest.param(getattr(sampling, f"sample_{name}"), order, options, id=name)
        for name, (order, options) in ORDERS.items()
    ]
    return named + [
        pytest.param(sample, order, options, id=f"{sample.__name__}-{k}")
        for k, (sample, order, options) in enumerate(VARIANTS)
    ]


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize(("sample", "order", "options"), _cases())
def test_error_falls_with_the_order(
    sample: Callable[..., torch.Tensor], order: int, options: dict[str, Any], flow: bool
) -> None:
    assert _slope(sample, flow, (80, 160), options) == pytest.approx(order, abs=0.4)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize(("rest", "order"), [(1, 2), (2, 3)])
def test_dpm_fast_has_order_3_but_for_its_last_step(flow: bool, rest: int, order: int) -> None:
    steps = (90 + rest, 180 + rest)
    assert _slope(sampling.sample_dpm_fast, flow, steps, {}) == pytest.approx(order, abs=0.4)


@pytest.mark.parametrize("flow", [False, True], ids=["added-noise", "flow"])
@pytest.mark.parametrize("order", [2, 3])
def test_dpm_adaptive_keeps_its_tolerance(flow: bool, order: int) -> None:
    errors = [
        _error(
            functools.partial(sampling.sample_dpm_adaptive, order=order, rtol=tol, atol=tol),
            flow,
            10,
            {},
        )
        for tol in (1e-2, 1e-4)
    ]
    assert errors[0] < 5e-1
    assert errors[1] < min(2e-2, errors[0] / 10)


def test_ipndm_is_adams_bashforth_where_steps_are_equal() -> None:
    sigmas = torch.linspace(8, 1, 12, dtype=torch.float64)
    x = torch.tensor([[5.0]], dtype=torch.float64)
    found = [
        sample(GaussianModel(False), x, sigmas, disable=True)
        for sample in (sampling.sample_ipndm, sampling.sample_lms)
    ]
    assert torch.allclose(*found, rtol=1e-12)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_ipndm_has_the_order_of_its_weights(order: int) -> None:
    """From where the flow is a straight line, so that the low orders of the start do not count."""
    errors = []
    for steps in (800, 1600):
        model = GaussianModel(False)
        sigmas = torch.linspace(100, 2, steps + 1, dtype=torch.float64)
        x = torch.tensor([[150.0]], dtype=torch.float64)
        found = sampling.sample_ipndm(model, x, sigmas, disable=True, max_order=order)
        errors.append((found - model.solution(x, 100, 2)).abs().item())
    assert math.log2(errors[0] / errors[1]) > order - 0.5

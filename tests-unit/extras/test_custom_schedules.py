"""Schedules, changes of schedules, and samplers with options of their own."""

from __future__ import annotations

import math
from typing import Any

import diffusers
import numpy
import pytest
import scipy.integrate
import scipy.stats
import torch

import comfy.samplers
from comfy.k_diffusion import sampling
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.nodes_lt import LTXVScheduler
from support.gaussian_models import EpsSampling, FlowSampling, GaussianModel

LOW, HIGH = 0.03, 14.6
SIGMAS = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0])


class Patcher:
    """Has a sampling object, which is all that schedules look at."""

    def __init__(self, flow: bool = False) -> None:
        self.model_sampling = FlowSampling() if flow else EpsSampling()

    def get_model_object(self, name: str) -> Any:
        return getattr(self, name)


@pytest.mark.parametrize("scheduler", comfy.samplers.SCHEDULER_NAMES)
@pytest.mark.parametrize(("denoise", "total"), [(1.0, 6), (0.6, 10), (0.25, 24)])
def test_part_of_a_schedule_is_the_end_of_a_longer_one(
    scheduler: str, denoise: float, total: int
) -> None:
    patcher = Patcher()
    whole = comfy.samplers.calculate_sigmas(patcher.model_sampling, scheduler, total)
    made = custom.BasicScheduler.execute(patcher, scheduler, 6, denoise)[0]
    assert torch.equal(made, whole[-7:])


def test_nothing_is_left_of_a_schedule_without_denoising() -> None:
    assert custom.BasicScheduler.execute(Patcher(), "simple", 6, 0.0)[0].shape == (0,)


def test_karras_levels_are_even_in_the_root() -> None:
    made = custom.KarrasScheduler.execute(5, HIGH, LOW, 3.0)[0]
    roots = made[:-1] ** (1 / 3)
    torch.testing.assert_close(roots, torch.linspace(HIGH ** (1 / 3), LOW ** (1 / 3), 5))
    assert made[-1] == 0


def test_exponential_levels_are_even_in_the_logarithm() -> None:
    made = custom.ExponentialScheduler.execute(5, HIGH, LOW)[0]
    wanted = torch.from_numpy(numpy.geomspace(HIGH, LOW, 5)).float()
    torch.testing.assert_close(made[:-1], wanted)
    assert torch.equal(made, custom.PolyexponentialScheduler.execute(5, HIGH, LOW, 1.0)[0])


def test_polyexponential_levels_follow_a_power() -> None:
    made = custom.PolyexponentialScheduler.execute(5, HIGH, LOW, 2.0)[0]
    parts = (made[:-1].log() - math.log(LOW)) / (math.log(HIGH) - math.log(LOW))
    torch.testing.assert_close(parts.sqrt(), torch.linspace(1, 0, 5), atol=1e-3, rtol=0)


def test_laplace_levels_are_quantiles_of_a_laplace_distribution() -> None:
    made = custom.LaplaceScheduler.execute(7, HIGH, LOW, 0.5, 0.8)[0]
    quantiles = 1 - numpy.linspace(0, 1, 7)[1:-1]
    wanted = numpy.exp(scipy.stats.laplace(0.5, 0.8).ppf(quantiles))
    torch.testing.assert_close(made[1:-2], torch.from_numpy(wanted).float().clamp(LOW, HIGH))
    assert made[0] == pytest.approx(HIGH)


def test_vp_levels_are_those_of_the_continuous_process() -> None:
    made = custom.VPScheduler.execute(3, 19.9, 0.1, 0.001)[0]
    for level, t in zip(made[:-1], (1.0, 0.5005, 0.001), strict=True):
        integral = scipy.integrate.quad(lambda s: 0.1 + 19.9 * s, 0, t)[0]
        assert float(level) == pytest.approx(math.sqrt(math.exp(integral) - 1), rel=1e-5)


def test_beta_levels_are_at_quantiles_of_a_beta_distribution() -> None:
    patcher = Patcher()
    made = custom.BetaSamplingScheduler.execute(patcher, 4, 0.7, 0.5)[0]
    quantiles = scipy.stats.beta(0.7, 0.5).ppf(1 - numpy.arange(4) / 4)
    table = patcher.model_sampling.sigmas
    assert torch.equal(made[:-1], table[numpy.rint(quantiles * 999).astype(int)])


@pytest.mark.parametrize(
    ("node", "arguments", "told"),
    [
        (custom.KarrasScheduler, (5, HIGH, LOW, 0.0), "rho = 0.0"),
        (custom.ExponentialScheduler, (5, HIGH, 0.0), "sigma_min = 0.0"),
        (custom.ExponentialScheduler, (5, 0.0, LOW), "sigma_max = 0.0"),
        (custom.PolyexponentialScheduler, (5, 0.0, LOW, 1.0), "sigma_max = 0.0"),
        (custom.PolyexponentialScheduler, (5, HIGH, 0.0, 1.0), "sigma_min = 0.0"),
        (custom.LaplaceScheduler, (5, HIGH, LOW, 0.5, 0.0), "beta = 0.0"),
        (custom.BetaSamplingScheduler, (Patcher(), 5, 0.0, 0.5), "alpha = 0.0"),
        (custom.BetaSamplingScheduler, (Patcher(), 5, 0.5, 0.0), "beta = 0.0"),
        (custom.VPScheduler, (5, 5000.0, 0.1, 0.001), "infinite noise level for beta_d = 5000.0"),
    ],
)
def test_numbers_without_noise_levels_are_refused_by_name(
    node: Any, arguments: tuple[Any, ...], told: str
) -> None:
    with pytest.raises(ValueError, match=rf"{node.__name__} .*{told}"):
        node.execute(*arguments)


@pytest.mark.parametrize(
    ("steps", "denoise", "times"),
    [(1, 1.0, [999]), (4, 1.0, [999, 899, 799, 699]), (2, 0.5, [499, 399]), (10, 0.2, [199, 99])],
)
def test_turbo_levels_are_at_every_hundredth_time(
    steps: int, denoise: float, times: list[int]
) -> None:
    patcher = Patcher()
    made = custom.SDTurboScheduler.execute(patcher, steps, denoise)[0]
    wanted = patcher.model_sampling.sigmas[times]
    torch.testing.assert_close(made, torch.cat([wanted, torch.zeros(1)]))


@pytest.mark.parametrize("stretch", [True, False])
@pytest.mark.parametrize(("size", "tokens"), [(None, 4096), ((3, 24, 40), 2880)])
def test_levels_of_ltx_video_are_those_of_its_publisher(
    stretch: bool, size: tuple[int, int, int] | None, tokens: int
) -> None:
    reference = diffusers.FlowMatchEulerDiscreteScheduler(
        shift_terminal=0.1 if stretch else None, use_dynamic_shifting=True
    )
    shift = numpy.interp(tokens, [1024, 4096], [0.95, 2.05])
    reference.set_timesteps(sigmas=numpy.linspace(1.0, 1 / 8, 8).tolist(), mu=shift)
    latent = None if size is None else {"samples": torch.zeros(1, 128, *size)}
    made = LTXVScheduler.execute(8, 2.05, 0.95, stretch, 0.1, latent)[0]
    assert torch.allclose(made, reference.sigmas, atol=1e-6)


def test_run_of_one_step_of_ltx_video_goes_all_the_way() -> None:
    made = LTXVScheduler.execute(1, 2.05, 0.95, True, 0.1)[0]
    assert made.tolist() == [1.0, 0.0]


@pytest.mark.parametrize("step", [0, 2, 4, 9])
def test_halves_share_the_level_at_which_they_are_cut(step: int) -> None:
    high, low = custom.SplitSigmas.execute(SIGMAS, step).result
    assert torch.equal(high, SIGMAS[: step + 1])
    assert torch.equal(low, SIGMAS[step:])


@pytest.mark.parametrize(
    ("denoise", "high", "low"),
    [
        (1.0, [8.0], [8.0, 4.0, 2.0, 1.0, 0.0]),
        (0.5, [8.0, 4.0, 2.0], [2.0, 1.0, 0.0]),
        (0.3, [8.0, 4.0, 2.0, 1.0], [1.0, 0.0]),
        (0.0, [8.0, 4.0, 2.0, 1.0, 0.0], [0.0]),
    ],
)
def test_second_half_is_a_part_of_the_steps(
    denoise: float, high: list[float], low: list[float]
) -> None:
    made = custom.SplitSigmasDenoise.execute(SIGMAS, denoise)
    assert made[0].tolist() == high
    assert made[1].tolist() == low


def test_flipped_levels_ascend_from_above_zero() -> None:
    made = custom.FlipSigmas.execute(SIGMAS)[0]
    torch.testing.assert_close(made, torch.tensor([0.0001, 1.0, 2.0, 4.0, 8.0]))
    assert custom.FlipSigmas.execute(SIGMAS[:3])[0].tolist() == [2.0, 4.0, 8.0]
    assert custom.FlipSigmas.execute(torch.empty(0))[0].numel() == 0
    assert SIGMAS[-1] == 0


def test_first_level_is_set_in_a_copy() -> None:
    assert custom.SetFirstSigma.execute(SIGMAS, 136.0)[0].tolist() == [136.0, 4.0, 2.0, 1.0, 0.0]
    assert SIGMAS[0] == 8


@pytest.mark.parametrize(
    ("start", "end", "wanted"),
    [
        (-1.0, 3.0, [8, 6, 4, 3, 2, 1, 0]),
        (5.0, 3.0, [8, 4, 3, 2, 1, 0]),
        (-1.0, 0.0, [8, 6, 4, 3, 2, 1.5, 1, 0.5, 0]),
        (1.5, 1.2, [8, 4, 2, 1, 0]),
    ],
)
def test_steps_that_begin_in_a_range_are_divided(
    start: float, end: float, wanted: list[float]
) -> None:
    made = custom.ExtendIntermediateSigmas.execute(SIGMAS, 2, start, end, "linear")[0]
    assert made.tolist() == wanted


@pytest.mark.parametrize(
    ("spacing", "part"), [("cosine", math.sin(math.pi / 6)), ("sine", 1 - math.cos(math.pi / 6))]
)
def test_divided_steps_may_be_uneven(spacing: str, part: float) -> None:
    made = custom.ExtendIntermediateSigmas.execute(SIGMAS, 3, -1.0, 5.0, spacing)[0]
    assert len(made) == len(SIGMAS) + 2
    assert float(made[1]) == pytest.approx(8 - 4 * part)


@pytest.mark.parametrize("flow", [False, True])
def test_percent_is_a_part_of_the_models_time(flow: bool) -> None:
    patcher = Patcher(flow)
    levels = patcher.model_sampling

    def sigma(percent: float, actual: bool = False) -> float:
        return float(custom.SamplingPercentToSigma.execute(patcher, percent, actual)[0])

    assert sigma(0.0) == (1.0 if flow else pytest.approx(999999999.9))
    assert sigma(1.0) == 0.0
    assert sigma(0.0, True) == float(levels.sigma_max)
    assert sigma(1.0, True) == float(levels.sigma_min)
    half = 0.5 if flow else float((levels.sigmas[499] * levels.sigmas[500]).sqrt())
    assert sigma(0.5) == sigma(0.5, True) == pytest.approx(half, rel=1e-5)


@pytest.mark.parametrize(
    ("text", "levels"),
    [
        ("1, 0.5", [1, 0.5]),
        ("14.6 .5;0.", [14.6, 0.5, 0]),
        ("[1e1,\n2.5e-1]", [10, 0.25]),
        ("none", []),
    ],
)
def test_levels_are_read_from_text(text: str, levels: list[float]) -> None:
    made = custom.ManualSigmas.execute(text)[0]
    torch.testing.assert_close(made, torch.tensor(levels, dtype=torch.float32))


OPTIONS = {
    "eta": 0.5,
    "s_noise": 0.9,
    "r": 0.4,
    "order": 2,
    "solver_type": "heun",
    "noise_device": "gpu",
}
NUMBERS = {"rtol": 0.1, "atol": 0.01, "h_init": 0.1, "pcoeff": 0.1, "icoeff": 0.9, "dcoeff": 0.1}


@pytest.mark.parametrize(
    ("node", "function"),
    [
        (custom.SamplerEulerAncestral, sampling.sample_euler_ancestral),
        (custom.SamplerEulerAncestralCFGPP, sampling.sample_euler_ancestral_cfg_pp),
        (custom.SamplerLMS, sampling.sample_lms),
        (custom.SamplerDPMPP_3M_SDE, sampling.sample_dpmpp_3m_sde_gpu),
        (custom.SamplerDPMPP_2M_SDE, sampling.sample_dpmpp_2m_sde_gpu),
        (custom.SamplerDPMPP_SDE, sampling.sample_dpmpp_sde_gpu),
        (custom.SamplerDPMPP_2S_Ancestral, sampling.sample_dpmpp_2s_ancestral),
        (custom.SamplerDPMAdaptative, sampling.sample_dpm_adaptive),
    ],
)
def test_options_reach_the_function_of_the_sampler(node: Any, function: Any) -> None:
    named = {**OPTIONS, **NUMBERS, "accept_safety": 0.8}
    asked = [name for name in node.INPUT_TYPES()["required"] if name != "model"]
    made = node.execute(**{name: named[name] for name in asked})[0]
    assert made.sampler_function is function
    assert made.extra_options == {n: named[n] for n in asked if n != "noise_device"}


@pytest.mark.parametrize(
    ("node", "function"),
    [
        (custom.SamplerDPMPP_3M_SDE, sampling.sample_dpmpp_3m_sde),
        (custom.SamplerDPMPP_2M_SDE, sampling.sample_dpmpp_2m_sde),
        (custom.SamplerDPMPP_SDE, sampling.sample_dpmpp_sde),
    ],
)
def test_noise_may_be_drawn_on_the_cpu(node: Any, function: Any) -> None:
    asked = {name: OPTIONS[name] for name in node.INPUT_TYPES()["required"]}
    assert node.execute(**{**asked, "noise_device": "cpu"})[0].sampler_function is function


def _final(sampler: Any, flow: bool = False) -> torch.Tensor:
    """Where a sampler takes states of an ideal model."""
    model = GaussianModel(flow)
    model.inner_model = model  # type: ignore[attr-defined]
    sigmas = torch.cat([torch.linspace(0.95, 0.05, 12), torch.zeros(1)])
    x = model.start(2000, 0.95, 3)
    run = sampler.sampler_function
    result: torch.Tensor = run(
        model, x, sigmas.double(), extra_args={"seed": 1}, disable=True, **sampler.extra_options
    )
    return result


@pytest.mark.parametrize("kind", ["ER-SDE", "Reverse-time SDE", "ODE"])
def test_er_sde_adds_noise_unless_it_is_an_ode(kind: str) -> None:
    make = custom.SamplerER_SDE.execute
    one, two = (_final(make(kind, 3, 1.0, noise)[0]) for noise in (1.0, 0.0))
    assert torch.equal(one, two) == (kind == "ODE")
    if kind == "Reverse-time SDE":
        still = _final(make(kind, 3, 0.0, 1.0)[0])
        torch.testing.assert_close(still, _final(make("ODE", 3, 1.0, 1.0)[0]))


def test_sa_solver_has_its_noise_between_two_times() -> None:
    patcher = Patcher(flow=True)
    make = custom.SamplerSASolver.execute
    made = make(patcher, 0.7, 0.2, 0.8, 0.9, 3, 4, True, False)[0]
    assert made.sampler_function is sampling.sample_sa_solver
    tau = made.extra_options["tau_func"]
    assert [tau(level) for level in (0.9, 0.79, 0.21, 0.1)] == [0.0, 0.7, 0.7, 0.0]
    del made.extra_options["tau_func"]
    assert made.extra_options == {
        "s_noise": 0.9,
        "predictor_order": 3,
        "corrector_order": 4,
        "use_pece": True,
        "simple_order_2": False,
    }


@pytest.mark.parametrize("solver_type", ["phi_1", "phi_2"])
def test_seeds_takes_its_options(solver_type: str) -> None:
    made = custom.SamplerSEEDS2.execute(solver_type, 0.5, 0.9, 0.4)[0]
    assert made.sampler_function is sampling.sample_seeds_2
    wanted = {"solver_type": solver_type, "eta": 0.5, "s_noise": 0.9, "r": 0.4}
    assert made.extra_options == wanted


def test_schedule_and_sampler_that_a_pack_adds_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def halving(levels: Any, steps: int) -> torch.Tensor:
        return torch.tensor([0.5**n for n in range(steps + 1)])

    handler = comfy.samplers.SchedulerHandler(halving)
    monkeypatch.setitem(comfy.samplers.SCHEDULER_HANDLERS, "halving", handler)
    monkeypatch.setattr(sampling, "sample_still", lambda model, x, *rest, **kw: x, raising=False)
    schedulers, samplers = comfy.samplers.SCHEDULER_NAMES, comfy.samplers.SAMPLER_NAMES
    monkeypatch.setattr(comfy.samplers, "SCHEDULER_NAMES", [*schedulers, "halving"])
    monkeypatch.setattr(comfy.samplers, "SAMPLER_NAMES", [*samplers, "still"])
    offered = custom.BasicScheduler.INPUT_TYPES()["required"]["scheduler"][1]["options"]
    assert offered[-1] == "halving"
    made = custom.BasicScheduler.execute(Patcher(), "halving", 2, 1.0)[0]
    assert made.tolist() == [1.0, 0.5, 0.25]
    offered = custom.KSamplerSelect.INPUT_TYPES()["required"]["sampler_name"][1]["options"]
    assert offered[-1] == "still"
    still = custom.KSamplerSelect.execute("still")[0]
    assert still.sampler_function is sampling.sample_still

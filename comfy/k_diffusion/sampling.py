"""Samplers: one function each, found by name (`sample_<name>`), named after its paper.

All share `sample(model, x, sigmas, extra_args=None, callback=None, disable=None, ...)`:

- model(x, sigma [B], **extra_args) gives D, the estimate of the clean latent, in the shape of x;
- x [B, ...] is the state at sigmas[0]; the result is the state at sigmas[-1];
- sigmas [n + 1] descends; where it ends at 0, the result is the last D;
- callback is told {"x", "i", "sigma", "sigma_hat", "denoised"} in each step;
- disable turns the progress bar off (None: only where there is no terminal);
- eta scales the added noise (0: none), s_noise its standard deviation;
- noise_sampler(sigma, sigma_next) gives unit normal noise, by default seeded with
  extra_args["seed"].

In formulas s and s' are the step's levels, alpha is 1 (flow: 1 - s), lambda = ln(alpha / s), and h
the step in lambda. Flow models, told by a `CONST` sampling object, get noise that keeps
x = alpha x0 + s n. Custom nodes add functions to this module and replace `default_noise_sampler`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tqdm import tqdm

from comfy.k_diffusion import sa_solver
from comfy.k_diffusion.cfg_pp import UncondRun
from comfy.k_diffusion.deis import deis_weights
from comfy.k_diffusion.dpm_solver import DpmStep, StepSize, fast_orders, relative_error
from comfy.k_diffusion.er_sde import (
    NoiseScaler,
    default_noise_scaler,
    derivatives,
    er_sde_step,
)
from comfy.k_diffusion.noise import BatchedBrownianTree, BrownianTreeNoiseSampler
from comfy.k_diffusion.noise_path import (
    AncestralStep,
    get_ancestral_step,
    half_log_snr_to_sigma,
    offset_first_sigma_for_snr,
    sigma_to_half_log_snr,
)
from comfy.k_diffusion.run import Noise, Run, ddim_step, to_d
from comfy.k_diffusion.schedules import (
    append_zero,
    get_sigmas_exponential,
    get_sigmas_karras,
    get_sigmas_laplace,
    get_sigmas_polyexponential,
    get_sigmas_vp,
)
from comfy.k_diffusion.weights import lagrange_weights, phi

__all__ = [
    "BatchedBrownianTree",
    "BrownianTreeNoiseSampler",
    "append_zero",
    "default_noise_sampler",
    "get_ancestral_step",
    "get_sigmas_exponential",
    "get_sigmas_karras",
    "get_sigmas_laplace",
    "get_sigmas_polyexponential",
    "get_sigmas_vp",
    "half_log_snr_to_sigma",
    "offset_first_sigma_for_snr",
    "sigma_to_half_log_snr",
    "to_d",
]

Callback = Callable[[dict[str, Any]], Any]
LevelNoise = Callable[[float, float], torch.Tensor]


def default_noise_sampler(x: torch.Tensor, seed: int | None = None) -> Noise:
    """Independent unit normal noise, shaped like x, on its device; the levels do not matter.

    The start noise of a run comes from the CPU's generator and the same seed, so on the CPU the
    next seed is taken: else the first step would add the start noise again.
    """
    generator = None
    if seed is not None:
        own = seed + 1 if x.device.type == "cpu" else seed
        generator = torch.Generator(device=x.device).manual_seed(own % 2**64)

    def noise_sampler(sigma: Any, sigma_next: Any) -> torch.Tensor:
        return torch.randn(x.shape, dtype=x.dtype, device=x.device, generator=generator)

    return noise_sampler


def _noise(run: Run, noise_sampler: Noise | None) -> LevelNoise:
    return run.by_level(noise_sampler or default_noise_sampler(run.x, seed=run.seed))


def _brownian(run: Run, noise_sampler: Noise | None) -> LevelNoise:
    return run.by_level(noise_sampler or _tree(run.x, run.sigmas, run.extra_args, cpu=True))


def _tree(
    x: torch.Tensor, sigmas: torch.Tensor, extra_args: dict[str, Any] | None, cpu: bool
) -> Noise:
    """Noise from one Brownian path over all levels above zero."""
    seed = (extra_args or {}).get("seed")
    levels = sigmas[sigmas > 0]
    if len(levels) < 2:
        return default_noise_sampler(x, seed=seed)
    return BrownianTreeNoiseSampler(x, levels.min(), levels.max(), seed, cpu=cpu)


def _churner(
    run: Run, s_churn: float, s_tmin: float, s_tmax: float, s_noise: float
) -> Callable[[torch.Tensor, float], tuple[torch.Tensor, float]]:
    """The noise raised before each step (Karras et al. 2022, algorithm 2, lines 4 to 6)."""
    gamma = min(s_churn / max(len(run.levels) - 1, 1), 2**0.5 - 1)
    noise = _noise(run, None) if gamma > 0 else None

    def churn(x: torch.Tensor, sigma: float) -> tuple[torch.Tensor, float]:
        if noise is None or not s_tmin <= sigma <= s_tmax:
            return x, sigma
        raised = sigma * (1 + gamma)
        raised = min(raised, 1.0) if run.path.flow else raised
        scale, std = run.path.renoise(sigma, raised)
        return x * scale + noise(sigma, raised) * (std * s_noise), raised

    return churn


def _add_noise(
    x: torch.Tensor,
    step: AncestralStep,
    noise: LevelNoise,
    levels: tuple[float, float],
    s_noise: float,
) -> torch.Tensor:
    """Bring a state that was taken down too far back up to the level wanted."""
    if step.std == 0:
        return x
    return x * step.scale + noise(*levels) * (step.std * s_noise)


@torch.no_grad()
def sample_euler(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> torch.Tensor:
    """Euler's method, order 1 (Karras et al. 2022, algorithm 2 without the correction)."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    churn = _churner(run, s_churn, s_tmin, s_tmax, s_noise)
    for i, sigma, sigma_next in run:
        x, raised = churn(x, sigma)
        x = ddim_step(x, run.evaluate(x, i, raised), raised, sigma_next)
    return x


@torch.no_grad()
def sample_euler_ancestral(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """Euler's method with fresh noise in each step (Song et al. 2020, DDIM, equation 16)."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        step = run.path.ancestral(sigma, sigma_next, eta)
        x = ddim_step(x, run.evaluate(x, i), sigma, step.down)
        x = _add_noise(x, step, noise, (sigma, sigma_next), s_noise)
    return x


@torch.no_grad()
def sample_heun(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> torch.Tensor:
    """Heun's method, order 2: the mean of two slopes (Karras et al. 2022, algorithm 2)."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    churn = _churner(run, s_churn, s_tmin, s_tmax, s_noise)
    for i, sigma, sigma_next in run:
        x, raised = churn(x, sigma)
        denoised = run.evaluate(x, i, raised)
        predicted = ddim_step(x, denoised, raised, sigma_next)
        if sigma_next == 0:
            return predicted
        slope = to_d(x, raised, denoised)
        slope_next = to_d(predicted, sigma_next, run.denoise(predicted, sigma_next))
        x = x + (slope + slope_next) * ((sigma_next - raised) / 2)
    return x


@torch.no_grad()
def sample_heunpp2(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> torch.Tensor:
    """Heun++: looks up to two levels ahead, order 1.

    Each of the m slopes seen counts sigma / (m sigma_0) of its level, the first one the rest: far
    steps lean on what lies ahead, the last ones are Euler's.
    """
    run = Run(model, x, sigmas, extra_args, callback, disable)
    churn = _churner(run, s_churn, s_tmin, s_tmax, s_noise)
    for i, sigma, sigma_next in run:
        x, raised = churn(x, sigma)
        denoised = run.evaluate(x, i, raised)
        if sigma_next == 0:
            return denoised
        slopes, ahead, level = [to_d(x, raised, denoised)], x, raised
        levels = [level for level in run.levels[i + 1 : i + 3] if level > 0]
        for level_ahead in levels:
            ahead = ahead + slopes[-1] * (level_ahead - level)
            level = level_ahead
            slopes.append(to_d(ahead, level, run.denoise(ahead, level)))
        shares = [level / (len(slopes) * run.levels[0]) for level in levels]
        weights = [1 - sum(shares), *shares]
        x = x + _combine(slopes, weights) * (sigma_next - raised)
    return x


def _combine(values: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    total = values[0] * weights[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + value * weight
    return total


@torch.no_grad()
def sample_dpm_2(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_churn: float = 0.0,
    s_tmin: float = 0.0,
    s_tmax: float = math.inf,
    s_noise: float = 1.0,
) -> torch.Tensor:
    """The midpoint method, order 2, with the midpoint in log sigma (Lu et al. 2022, DPM-Solver-2)."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    churn = _churner(run, s_churn, s_tmin, s_tmax, s_noise)
    for i, sigma, sigma_next in run:
        x, raised = churn(x, sigma)
        x = _midpoint_step(run, x, run.evaluate(x, i, raised), raised, sigma_next)
    return x


def _midpoint_step(
    run: Run, x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float
) -> torch.Tensor:
    if sigma_next == 0:
        return denoised
    middle = (sigma * sigma_next) ** 0.5
    halfway = ddim_step(x, denoised, sigma, middle)
    return x + to_d(halfway, middle, run.denoise(halfway, middle)) * (sigma_next - sigma)


@torch.no_grad()
def sample_dpm_2_ancestral(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """The midpoint method of `sample_dpm_2` with fresh noise in each step."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        step = run.path.ancestral(sigma, sigma_next, eta)
        x = _midpoint_step(run, x, run.evaluate(x, i), sigma, step.down)
        x = _add_noise(x, step, noise, (sigma, sigma_next), s_noise)
    return x


@torch.no_grad()
def sample_lms(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 4,
) -> torch.Tensor:
    """Linear multistep: Adams-Bashforth with variable steps (Hairer et al. 1993, section III.5)."""
    return _multistep(
        Run(model, x, sigmas, extra_args, callback, disable),
        x,
        order,
        lambda levels, sigma_next: lagrange_weights(levels, levels[-1], sigma_next),
    )


def _multistep(
    run: Run,
    x: torch.Tensor,
    order: int,
    weights: Callable[[Sequence[float], float], Sequence[float]],
) -> torch.Tensor:
    """Add up to `order` past slopes in each step; weights(levels of the slopes, s'), latest last."""
    slopes: list[torch.Tensor] = []
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        slopes = [*slopes, to_d(x, sigma, denoised)][-order:]
        levels = run.levels[i + 1 - len(slopes) : i + 1]
        x = x + _combine(slopes, weights(levels, sigma_next))
    return x


# Adams-Bashforth with equal steps, the oldest slope first.
_EQUAL_STEPS = (
    (1.0,),
    (-1 / 2, 3 / 2),
    (5 / 12, -16 / 12, 23 / 12),
    (-9 / 24, 37 / 24, -59 / 24, 55 / 24),
)


@torch.no_grad()
def sample_ipndm(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> torch.Tensor:
    """iPNDM: Adams-Bashforth with the weights of equal steps, started with lower orders.

    Source: Liu et al. 2022 (PNDM), equation 9; Zhang and Chen 2022 (DEIS), section 3.
    """
    return _multistep(
        Run(model, x, sigmas, extra_args, callback, disable),
        x,
        max_order,
        lambda levels, sigma_next: [
            weight * (sigma_next - levels[-1]) for weight in _EQUAL_STEPS[len(levels) - 1]
        ],
    )


@torch.no_grad()
def sample_ipndm_v(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 4,
) -> torch.Tensor:
    """iPNDM with the weights of the actual steps, which is `sample_lms`."""
    return sample_lms(model, x, sigmas, extra_args, callback, disable, order=max_order)


@torch.no_grad()
def sample_deis(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    max_order: int = 3,
    deis_mode: str = "tab",
) -> torch.Tensor:
    """DEIS: slopes are interpolated in VP time ("tab") or in sigma ("rhoab").

    Source: Zhang and Chen 2022, "Fast Sampling of Diffusion Models with Exponential Integrator".
    """
    return _multistep(
        Run(model, x, sigmas, extra_args, callback, disable),
        x,
        max_order,
        lambda levels, sigma_next: deis_weights(levels, levels[-1], sigma_next, deis_mode),
    )


@torch.no_grad()
def sample_dpm_fast(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """DPM-Solver-fast (Lu et al. 2022, section 3.4): orders 3, 3, .. that use n evaluations.

    Only the number of sigmas and their ends count; the steps are even in ln sigma. A final level
    of 0 takes one evaluation more.
    """
    if len(sigmas) < 2:
        return x
    orders = fast_orders(len(sigmas) - 1)
    first, last = sigmas[0].item(), sigmas[sigmas > 0][-1].item()
    even = [first * (last / first) ** (k / len(orders)) for k in range(len(orders))] + [last]
    ends = [0.0] if sigmas[-1] == 0 else []
    run = Run(model, x, sigmas.new_tensor(even + ends), extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        step = run.path.ancestral(sigma, sigma_next, eta)
        if step.down == 0:
            x = denoised
        else:
            solver = DpmStep(run, x, to_d(x, sigma, denoised), sigma, step.down)
            x = solver.of_order(orders[i])
        x = _add_noise(x, step, noise, (sigma, sigma_next), s_noise)
    return x


@torch.no_grad()
def sample_dpm_adaptive(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    order: int = 3,
    rtol: float = 0.05,
    atol: float = 0.0078,
    h_init: float = 0.05,
    pcoeff: float = 0.0,
    icoeff: float = 1.0,
    dcoeff: float = 0.0,
    accept_safety: float = 0.81,
    eta: float = 0.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """DPM-Solver-12 or -23 with adaptive steps (Lu et al. 2022, appendix C).

    Only the ends of sigmas count. The callback's `i` is the step of `sigmas` that has been reached.

    Args:
        order: 2 or 3; the order below estimates the error.
        rtol: tolerance as a part of the state.
        atol: absolute tolerance.
        h_init: the first step in ln sigma.
        pcoeff: of the step size controller, with icoeff and dcoeff; see `StepSize`.
        accept_safety: a step is done again if it should have been smaller than this part.

    Raises:
        ValueError: the order is neither 2 nor 3.
    """
    if order not in (2, 3):
        raise ValueError(f"DPM-Solver adapts its steps with order 2 or 3, not {order}.")
    if len(sigmas) < 2:
        return x
    run = Run(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    size = StepSize(h_init, order, accept_safety, (pcoeff, icoeff, dcoeff))
    sigma, before = run.levels[0], x
    with tqdm(disable=disable) as bar:
        while sigma > run.lowest * (1 + 1e-7):
            denoised = run.denoise(x, sigma)
            sigma_next = max(sigma * math.exp(-size.h), run.lowest)
            step = run.path.ancestral(sigma, sigma_next, eta)
            solver = DpmStep(run, x, to_d(x, sigma, denoised), sigma, max(step.down, 1e-12))
            low, high = solver.pair(order)
            if size.accepts(relative_error(low, high, before, rtol, atol)):
                i = bisect.bisect_right([-level for level in run.levels[:-1]], -sigma) - 1
                run.tell(x, i, sigmas.new_tensor(sigma), None, denoised)
                before = low
                x = _add_noise(high, step, noise, (sigma, sigma_next), s_noise)
                sigma = sigma_next
                bar.update()
    return run.denoise(x, sigma) if run.levels[-1] == 0 else x


@torch.no_grad()
def sample_dpmpp_2s_ancestral(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2S) with fresh noise in each step (Lu et al. 2022, DPM-Solver++, algorithm 1)."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        step = run.path.ancestral(sigma, sigma_next, eta)
        denoised = run.evaluate(x, i)
        if step.down > 0:
            middle = run.path.between(sigma, step.down, 0.5)
            denoised = run.denoise(ddim_step(x, denoised, sigma, middle), middle)
        x = ddim_step(x, denoised, sigma, step.down)
        x = _add_noise(x, step, noise, (sigma, sigma_next), s_noise)
    return x


@torch.no_grad()
def sample_dpmpp_sde(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    r: float = 0.5,
) -> torch.Tensor:
    """DPM-Solver++ for the reverse SDE, two stages (Lu et al. 2022, DPM-Solver++, section 4.2).

    Args:
        r: where the second stage lies between both levels, in lambda.
    """
    run = Run(model, x, sigmas, extra_args, callback, disable, finite_snr=True)
    noise, path, lean = _brownian(run, noise_sampler), run.path, 1 / (2 * r)

    def step(
        x: torch.Tensor, denoised: torch.Tensor, sigma: float, sigma_next: float
    ) -> torch.Tensor:
        """An ancestral step of x / alpha, whose noise has the level sigma / alpha."""
        alpha, alpha_next = path.alpha(sigma), path.alpha(sigma_next)
        down, up = get_ancestral_step(sigma / alpha, sigma_next / alpha_next, eta)
        mean = ddim_step(x / alpha, denoised, sigma / alpha, down)
        return (mean + noise(sigma, sigma_next) * (up * s_noise)) * alpha_next

    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        middle = path.between(sigma, sigma_next, r)
        second = run.denoise(step(x, denoised, sigma, middle), middle)
        x = step(x, denoised * (1 - lean) + second * lean, sigma, sigma_next)
    return x


@torch.no_grad()
def sample_dpmpp_sde_gpu(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    r: float = 0.5,
) -> torch.Tensor:
    """`sample_dpmpp_sde` with its noise drawn on the device of x."""
    noise_sampler = noise_sampler or _tree(x, sigmas, extra_args, cpu=False)
    return sample_dpmpp_sde(
        *(model, x, sigmas, extra_args, callback, disable),
        *(eta, s_noise, noise_sampler, r),
    )


@torch.no_grad()
def sample_dpmpp_2m(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """DPM-Solver++(2M), order 2, with lambda = -ln s (Lu et al. 2022, DPM-Solver++, algorithm 2)."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    old = None
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        x = ddim_step(x, _extrapolated(run, i, denoised, old), sigma, sigma_next)
        old = denoised
    return x


def _extrapolated(
    run: Run, i: int, denoised: torch.Tensor, old: torch.Tensor | None
) -> torch.Tensor:
    """D in the middle of step i, along the line through the last two: D + (D - D_old) / (2 r)."""
    sigma, sigma_next = run.levels[i], run.levels[i + 1]
    if old is None or sigma_next == 0:
        return denoised
    inverse_r = math.log(sigma / sigma_next) / math.log(run.levels[i - 1] / sigma)
    return denoised + (denoised - old) * (inverse_r / 2)


@torch.no_grad()
def sample_dpmpp_2m_sde(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    solver_type: str = "midpoint",
) -> torch.Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, DPM-Solver++, appendix A).

    Args:
        solver_type: how the difference to the last D is weighted, "midpoint" or "heun".

    Raises:
        ValueError: the solver type is neither.
    """
    if solver_type not in ("midpoint", "heun"):
        raise ValueError(f"The solver types are 'midpoint' and 'heun', not {solver_type!r}.")
    run = Run(model, x, sigmas, extra_args, callback, disable, finite_snr=True)
    noise = _brownian(run, noise_sampler)
    old, old_h = None, 0.0
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        step = run.path.sde(sigma, sigma_next, eta)
        x = x * step.keep + denoised * step.gain
        if old is not None:
            heun = step.alpha * step.h_eta * phi(2, -step.h_eta)
            weight = heun if solver_type == "heun" else step.gain / 2
            x = x + (denoised - old) * (weight * step.h / old_h)
        if step.std > 0:
            x = x + noise(sigma, sigma_next) * (step.std * s_noise)
        old, old_h = denoised, step.h
    return x


@torch.no_grad()
def sample_dpmpp_2m_sde_gpu(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    solver_type: str = "midpoint",
) -> torch.Tensor:
    """`sample_dpmpp_2m_sde` with its noise drawn on the device of x."""
    noise_sampler = noise_sampler or _tree(x, sigmas, extra_args, cpu=False)
    return sample_dpmpp_2m_sde(
        *(model, x, sigmas, extra_args, callback, disable),
        *(eta, s_noise, noise_sampler, solver_type),
    )


@torch.no_grad()
def sample_dpmpp_2m_sde_heun(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    solver_type: str = "heun",
) -> torch.Tensor:
    """`sample_dpmpp_2m_sde` whose usual solver type is "heun"."""
    return sample_dpmpp_2m_sde(
        *(model, x, sigmas, extra_args, callback, disable),
        *(eta, s_noise, noise_sampler, solver_type),
    )


@torch.no_grad()
def sample_dpmpp_2m_sde_heun_gpu(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    solver_type: str = "heun",
) -> torch.Tensor:
    """`sample_dpmpp_2m_sde_heun` with its noise drawn on the device of x."""
    noise_sampler = noise_sampler or _tree(x, sigmas, extra_args, cpu=False)
    return sample_dpmpp_2m_sde_heun(
        *(model, x, sigmas, extra_args, callback, disable),
        *(eta, s_noise, noise_sampler, solver_type),
    )


@torch.no_grad()
def sample_dpmpp_3m_sde(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """SDE-DPM-Solver++(3M): D is the parabola through the last three, in lambda.

    With v = (u - lambda) / h, D(v) = D + b v + c v^2; its weights are h_eta phi_2 and
    2 h_eta phi_3 (Lu et al. 2022, DPM-Solver++, proposition 4.1 and equation 17).
    """
    run = Run(model, x, sigmas, extra_args, callback, disable, finite_snr=True)
    noise = _brownian(run, noise_sampler)
    past: list[tuple[float, torch.Tensor]] = []
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        step = run.path.sde(sigma, sigma_next, eta)
        past = [*past, (run.path.half_log_snr(sigma), denoised)][-3:]
        x = x * step.keep + denoised * step.gain
        for k, term in enumerate(_newton([((at - past[-1][0]) / step.h, d) for at, d in past])):
            weight = math.factorial(k + 1) * phi(k + 2, -step.h_eta)
            x = x + term * (step.alpha * step.h_eta * weight)
        if step.std > 0:
            x = x + noise(sigma, sigma_next) * (step.std * s_noise)
    return x


def _newton(values: Sequence[tuple[float, torch.Tensor]]) -> list[torch.Tensor]:
    """Coefficients of v and v^2 of the polynomial through up to three points, the last at v = 0."""
    slopes = [(b - a) / (w - v) for (v, a), (w, b) in itertools.pairwise(values)]
    if len(slopes) < 2:
        return slopes
    curve = (slopes[1] - slopes[0]) / (values[2][0] - values[0][0])
    return [slopes[1] - curve * values[1][0], curve]


@torch.no_grad()
def sample_dpmpp_3m_sde_gpu(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """`sample_dpmpp_3m_sde` with its noise drawn on the device of x."""
    noise_sampler = noise_sampler or _tree(x, sigmas, extra_args, cpu=False)
    return sample_dpmpp_3m_sde(
        *(model, x, sigmas, extra_args, callback, disable),
        *(eta, s_noise, noise_sampler),
    )


@torch.no_grad()
def sample_ddpm(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """DDPM: draws from the posterior q(x' | x, D) (Ho et al. 2020, equations 6 and 7)."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        alpha, alpha_next = run.path.alpha(sigma), run.path.alpha(sigma_next)
        keep = (sigma_next / sigma) ** 2 * alpha / alpha_next
        rest = alpha_next - keep * alpha
        std = sigma_next * (rest / alpha_next) ** 0.5
        x = x * keep + denoised * rest + noise(sigma, sigma_next) * std
    return x


@torch.no_grad()
def sample_lcm(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """Consistency models: D, then fresh noise (Song et al. 2023, algorithm 1; Luo et al. 2023)."""
    run = Run(model, x, sigmas, extra_args, callback, disable, keep_repeats=True)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        x = run.evaluate(x, i)
        if sigma_next > 0:
            x = x * run.path.alpha(sigma_next) + noise(sigma, sigma_next) * sigma_next
    return x


def _res_multistep(
    run: Run,
    x: torch.Tensor,
    noise: LevelNoise,
    eta: float,
    s_noise: float,
    start: Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """The exponential multistep method of order 2, each step taken down as eta says.

    `start` may replace the state that a step starts from, given its level and D.
    """
    old = None
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        step = run.path.ancestral(sigma, sigma_next, eta)
        state = x if start is None else start(x, sigma, denoised)
        if step.down == 0:
            x = denoised
        else:
            x = ddim_step(state, denoised, sigma, step.down)
            if old is not None:
                h = math.log(sigma / step.down)
                inverse_c2 = h / math.log(run.levels[i - 1] / sigma)
                x = x + (denoised - old) * (h * phi(2, -h) * inverse_c2)
        x = _add_noise(x, step, noise, (sigma, sigma_next), s_noise)
        old = denoised
    return x


@torch.no_grad()
def sample_res_multistep(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """RES, the refined exponential solver as a multistep method, order 2.

    Source: Zhang et al. 2023, "Improved Order Analysis and Design of Exponential Integrator for
    Diffusion Models Sampling", section 4.
    """
    run = Run(model, x, sigmas, extra_args, callback, disable)
    return _res_multistep(run, x, _noise(run, noise_sampler), 0.0, s_noise)


@torch.no_grad()
def sample_res_multistep_ancestral(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """`sample_res_multistep` with fresh noise in each step."""
    run = Run(model, x, sigmas, extra_args, callback, disable)
    return _res_multistep(run, x, _noise(run, noise_sampler), eta, s_noise)


@torch.no_grad()
def sample_res_multistep_cfg_pp(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """`sample_res_multistep` with CFG++; see `comfy.k_diffusion.cfg_pp`."""
    run = UncondRun(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    return _res_multistep(run, x, noise, 0.0, s_noise, run.with_uncond_noise)


@torch.no_grad()
def sample_res_multistep_ancestral_cfg_pp(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """`sample_res_multistep_ancestral` with CFG++; see `comfy.k_diffusion.cfg_pp`."""
    run = UncondRun(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    return _res_multistep(run, x, noise, eta, s_noise, run.with_uncond_noise)


@torch.no_grad()
def sample_euler_cfg_pp(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """DDIM with CFG++: alpha' D + s' (x - alpha D_uncond) / s (Chung et al. 2024, algorithm 2)."""
    run = UncondRun(model, x, sigmas, extra_args, callback, disable)
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        x = ddim_step(run.with_uncond_noise(x, sigma, denoised), denoised, sigma, sigma_next)
    return x


@torch.no_grad()
def sample_euler_ancestral_cfg_pp(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """`sample_euler_ancestral` with CFG++; see `comfy.k_diffusion.cfg_pp`."""
    run = UncondRun(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        step = run.path.ancestral(sigma, sigma_next, eta)
        denoised = run.evaluate(x, i)
        x = ddim_step(run.with_uncond_noise(x, sigma, denoised), denoised, sigma, step.down)
        x = _add_noise(x, step, noise, (sigma, sigma_next), s_noise)
    return x


@torch.no_grad()
def sample_dpmpp_2s_ancestral_cfg_pp(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
) -> torch.Tensor:
    """`sample_dpmpp_2s_ancestral` with CFG++; see `comfy.k_diffusion.cfg_pp`.

    Both stages keep the unconditional noise of the step's start.
    """
    run = UncondRun(model, x, sigmas, extra_args, callback, disable)
    noise = _noise(run, noise_sampler)
    for i, sigma, sigma_next in run:
        step = run.path.ancestral(sigma, sigma_next, eta)
        denoised = run.evaluate(x, i)
        x = run.with_uncond_noise(x, sigma, denoised)
        if step.down > 0:
            middle = run.path.between(sigma, step.down, 0.5)
            denoised = run.denoise(ddim_step(x, denoised, sigma, middle), middle)
        x = ddim_step(x, denoised, sigma, step.down)
        x = _add_noise(x, step, noise, (sigma, sigma_next), s_noise)
    return x


@torch.no_grad()
def sample_dpmpp_2m_cfg_pp(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
) -> torch.Tensor:
    """`sample_dpmpp_2m` with CFG++; see `comfy.k_diffusion.cfg_pp`."""
    run = UncondRun(model, x, sigmas, extra_args, callback, disable)
    old = None
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        x = run.with_uncond_noise(x, sigma, denoised)
        x = ddim_step(x, _extrapolated(run, i, denoised, old), sigma, sigma_next)
        old = denoised
    return x


def _gradient_estimation(
    run: Run,
    x: torch.Tensor,
    ge_gamma: float,
    start: Callable[[torch.Tensor, float, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    old = None
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        state = x if start is None else start(x, sigma, denoised)
        slope = to_d(state, sigma, denoised)
        x = ddim_step(state, denoised, sigma, sigma_next)
        if old is not None:
            x = x + (slope - old) * ((ge_gamma - 1) * (sigma_next - sigma))
        old = slope
    return x


@torch.no_grad()
def sample_gradient_estimation(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
) -> torch.Tensor:
    """Euler's method along gamma times the new slope, less (gamma - 1) times the last; order 1.

    Source: Permenter and Yuan 2023, "Interpreting and Improving Diffusion Models from an
    Optimization Perspective", algorithm 3.
    """
    run = Run(model, x, sigmas, extra_args, callback, disable)
    return _gradient_estimation(run, x, ge_gamma)


@torch.no_grad()
def sample_gradient_estimation_cfg_pp(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    ge_gamma: float = 2.0,
) -> torch.Tensor:
    """`sample_gradient_estimation` with CFG++; see `comfy.k_diffusion.cfg_pp`."""
    run = UncondRun(model, x, sigmas, extra_args, callback, disable)
    return _gradient_estimation(run, x, ge_gamma, run.with_uncond_noise)


@torch.no_grad()
def sample_er_sde(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    noise_scaler: NoiseScaler | None = None,
    max_stage: int = 3,
) -> torch.Tensor:
    """ER-SDE-Solver, up to order 3 (Cui et al. 2023); see `comfy.k_diffusion.er_sde`.

    Args:
        noise_scaler: phi of sigma / alpha (fp64 tensors); the identity makes it the probability
            flow, the square the usual reverse SDE.
        max_stage: 1 to 3, how many evaluations D is interpolated through.
    """
    run = Run(model, x, sigmas, extra_args, callback, disable, finite_snr=True)
    noise = _noise(run, noise_sampler)
    scaler = noise_scaler or default_noise_scaler
    levels: list[float] = []
    past: list[torch.Tensor] = []
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        alpha, alpha_next = run.path.alpha(sigma), run.path.alpha(sigma_next)
        levels = [*levels, sigma / alpha][-max_stage:]
        past = [*past, denoised][-max_stage:]
        step = er_sde_step(scaler, levels[-1], sigma_next / alpha_next)
        mean = x * (step.keep / alpha) + denoised * (1 - step.keep)
        for derivative, weight in zip(
            derivatives(levels, past), (step.slope, step.curve), strict=False
        ):
            mean = mean + derivative * weight
        if step.std > 0:
            mean = mean + noise(sigma, sigma_next) * (step.std * s_noise)
        x = mean * alpha_next
    return x


@torch.no_grad()
def sample_seeds_2(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    r: float = 0.5,
    solver_type: str = "phi_1",
) -> torch.Tensor:
    """SEEDS-2: two stages of an exponential integrator for the reverse SDE; order 2 at eta 0.

    Args:
        r: where the second stage lies, in lambda.
        solver_type: the weight of the second stage, "phi_1" (phi_1 / (2 r), as in DPM-Solver++)
            or "phi_2" (phi_2 / r, as in RES).

    Raises:
        ValueError: the solver type is neither.

    Source: Gonzalez et al. 2023, "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling
    from Diffusion Models", algorithm 2.
    """
    if solver_type not in ("phi_1", "phi_2"):
        raise ValueError(f"The solver types are 'phi_1' and 'phi_2', not {solver_type!r}.")
    run = Run(model, x, sigmas, extra_args, callback, disable, finite_snr=True)
    draw = _staged(run, _noise(run, noise_sampler), eta, s_noise)
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        middle = run.path.between(sigma, sigma_next, r)
        first, last = (run.path.sde(sigma, level, eta) for level in (middle, sigma_next))
        noises = draw(sigma, middle, sigma_next)
        staged = x * first.keep + denoised * first.gain + noises[0]
        difference = run.denoise(staged, middle) - denoised
        exact = last.alpha * last.h_eta * phi(2, -last.h_eta)
        weight = exact / r if solver_type == "phi_2" else last.gain / (2 * r)
        x = x * last.keep + denoised * last.gain + difference * weight + noises[1]
    return x


def _staged(
    run: Run, noise: LevelNoise, eta: float, s_noise: float
) -> Callable[..., list[torch.Tensor | float]]:
    """The SDE's noise at each of a step's stages: what has come so far, carried on, and new."""

    def draw(*levels: float) -> list[torch.Tensor | float]:
        total: torch.Tensor | float = 0.0
        totals = []
        for level, level_next in itertools.pairwise(levels):
            step = run.path.sde(level, level_next, eta)
            total = total * step.keep
            if step.std * s_noise > 0:
                total = total + noise(level, level_next) * (step.std * s_noise)
            totals.append(total)
        return totals

    return draw


@torch.no_grad()
def sample_seeds_3(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    r_1: float = 1 / 3,
    r_2: float = 2 / 3,
) -> torch.Tensor:
    """SEEDS-3: three stages of an exponential integrator for the reverse SDE; order 3 at eta 0.

    Args:
        r_1: where the second stage lies, in lambda.
        r_2: where the third stage lies.

    Source: Gonzalez et al. 2023, "SEEDS: Exponential SDE Solvers for Fast High-Quality Sampling
    from Diffusion Models", algorithm 4.
    """
    run = Run(model, x, sigmas, extra_args, callback, disable, finite_snr=True)
    draw = _staged(run, _noise(run, noise_sampler), eta, s_noise)
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        if sigma_next == 0:
            return denoised
        stages = [run.path.between(sigma, sigma_next, r) for r in (r_1, r_2, 1.0)]
        steps = [run.path.sde(sigma, level, eta) for level in stages]
        noises = draw(sigma, *stages)
        weights = [s.alpha * s.h_eta * phi(2, -s.h_eta) for s in steps]

        def stage(k: int) -> torch.Tensor:
            return x * steps[k].keep + denoised * steps[k].gain + noises[k]  # noqa: B023

        first = run.denoise(stage(0), stages[0]) - denoised
        second = run.denoise(stage(1) + first * (weights[1] * r_2 / r_1), stages[1]) - denoised
        x = stage(2) + second * (weights[2] / r_2)
    return x


@torch.no_grad()
def sample_exp_heun_2_x0(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    solver_type: str = "phi_2",
) -> torch.Tensor:
    """Exponential Heun in D, order 2: `sample_seeds_2` with its second stage at s' and no noise.

    Source: Hochbruck and Ostermann 2005, "Explicit Exponential Runge-Kutta Methods", equation 5.3.
    """
    return sample_seeds_2(
        *(model, x, sigmas, extra_args, callback, disable),
        eta=0.0,
        r=1.0,
        solver_type=solver_type,
    )


@torch.no_grad()
def sample_exp_heun_2_x0_sde(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    eta: float = 1.0,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    solver_type: str = "phi_2",
) -> torch.Tensor:
    """`sample_exp_heun_2_x0` for the reverse SDE."""
    return sample_seeds_2(
        *(model, x, sigmas, extra_args, callback, disable),
        *(eta, s_noise, noise_sampler, 1.0, solver_type),
    )


@torch.no_grad()
def sample_sa_solver(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    tau_func: Callable[[float], float] | None = None,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    use_pece: bool = False,
    simple_order_2: bool = False,
) -> torch.Tensor:
    """SA-Solver: stochastic Adams predictor and corrector (Xue et al. 2023, algorithm 1).

    Args:
        tau_func: the amount of noise at a level, 0 for none, 1 as the usual reverse SDE; by default
            1 between 20 % and 80 % of the model's time.
        predictor_order: evaluations that the predictor uses.
        corrector_order: evaluations that the corrector uses, the new one among them; 0 for none.
        use_pece: evaluate again after the correction.
        simple_order_2: steps that use two evaluations take the weights of DPM-Solver++(2M).
    """
    run = Run(model, x, sigmas, extra_args, callback, disable, finite_snr=True)
    noise, tau_of = _noise(run, noise_sampler), tau_func or _default_tau(run)
    past: list[sa_solver.Evaluation] = []
    before, taken, tau = x, (0.0, 0.0), 0.0
    drawn: torch.Tensor | float = 0.0
    for i, sigma, sigma_next in run:
        denoised = run.evaluate(x, i)
        past = [*past, (run.path.half_log_snr(sigma), denoised)]
        past = past[-max(predictor_order, corrector_order, 1) :]
        if i > 0 and corrector_order > 0:
            used = past[-corrector_order:]
            x = sa_solver.advance(run.path, before, taken, tau, used, simple_order_2) + drawn
            if use_pece:
                denoised = run.denoise(x, sigma)
                past[-1] = (past[-1][0], denoised)
        if sigma_next == 0:
            return denoised
        before, taken, tau = x, (sigma, sigma_next), tau_of(sigma_next)
        std = run.path.sde(sigma, sigma_next, tau**2).std * s_noise
        drawn = noise(sigma, sigma_next) * std if std > 0 else 0.0
        used = past[-predictor_order:]
        x = sa_solver.advance(run.path, x, taken, tau, used, simple_order_2) + drawn
    return x


def _default_tau(run: Run) -> Callable[[float], float]:
    sampling = run.model_sampling
    if sampling is None:
        return lambda sigma: 1.0
    return sa_solver.get_tau_interval_func(
        sampling.percent_to_sigma(0.2), sampling.percent_to_sigma(0.8)
    )


@torch.no_grad()
def sample_sa_solver_pece(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callback | None = None,
    disable: bool | None = None,
    tau_func: Callable[[float], float] | None = None,
    s_noise: float = 1.0,
    noise_sampler: Noise | None = None,
    predictor_order: int = 3,
    corrector_order: int = 4,
    simple_order_2: bool = False,
) -> torch.Tensor:
    """`sample_sa_solver` that evaluates again after each correction."""
    return sample_sa_solver(
        *(model, x, sigmas, extra_args, callback, disable, tau_func, s_noise, noise_sampler),
        *(predictor_order, corrector_order, True, simple_order_2),
    )

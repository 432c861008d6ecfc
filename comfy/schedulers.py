"""Schedulers: which noise levels a run of n steps visits. Each gives fp32, descending to 0.

A scheduler reads a model's sampling object: the table `sigmas` (ascending), `sigma_min`,
`sigma_max`, and the maps `timestep` and `sigma` between levels and the network's time.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy
import torch

from comfy.k_diffusion.schedules import append_zero, get_sigmas_exponential, get_sigmas_karras

# A lowest level below this is taken for the 0 that a run ends with.
ZERO_SIGMA = 1e-5
MOST_STEPS = 10_000_000
"""Ten times what the user interface can ask for; some schedulers take seconds for so many."""


def simple_scheduler(model_sampling: Any, steps: int) -> torch.Tensor:
    """Even strides through the table, from its upper end."""
    sigmas = model_sampling.sigmas
    last = len(sigmas) - 1
    return append_zero(sigmas[[last - i * len(sigmas) // steps for i in range(steps)]].cpu())


def ddim_scheduler(model_sampling: Any, steps: int) -> torch.Tensor:
    """Every s-th level from the table's second one upwards; may give more than `steps` levels.

    Source: Song et al. 2020 (DDIM), the linear choice of time steps, shifted by one.
    """
    sigmas = model_sampling.sigmas.cpu()
    ends_at_zero = abs(sigmas[1].item()) <= ZERO_SIGMA
    stride = max(len(sigmas) // (steps + 1 if ends_at_zero else steps), 1)
    chosen = sigmas[1::stride].flip(0)
    return chosen if ends_at_zero else append_zero(chosen)


def normal_scheduler(
    model_sampling: Any, steps: int, sgm: bool = False, floor: bool = False
) -> torch.Tensor:
    """Even steps of the network's time between the ends of the table.

    Args:
        model_sampling: the model's sampling object.
        steps: how many steps.
        sgm: leave out the lowest level (as in the generative-models code base) instead of visiting it.
        floor: round times down to whole ones.
    """
    start = float(model_sampling.timestep(model_sampling.sigma_max))
    end = float(model_sampling.timestep(model_sampling.sigma_min))
    lowest = float(model_sampling.sigma(torch.tensor(end)))
    ends_at_zero = not sgm and abs(lowest) <= ZERO_SIGMA
    times = torch.linspace(start, end, steps + 1 if sgm or ends_at_zero else steps)
    if sgm:
        times = times[:-1]
    sigmas = model_sampling.sigma(times.floor() if floor else times).float().cpu()
    return sigmas if ends_at_zero else append_zero(sigmas)


def beta_scheduler(
    model_sampling: Any, steps: int, alpha: float = 0.6, beta: float = 0.6
) -> torch.Tensor:
    """Table indices at quantiles of a Beta distribution; repeated ones are dropped.

    Source: Lee et al. 2024, "Beta Sampling is All You Need".
    """
    import scipy.special  # noqa: PLC0415 - large, and needed by few prompts

    sigmas = model_sampling.sigmas.cpu()
    quantiles = 1.0 - numpy.arange(steps) / steps
    times = numpy.rint(scipy.special.betaincinv(alpha, beta, quantiles) * (len(sigmas) - 1))
    return append_zero(sigmas[list(dict.fromkeys(times.astype(int).tolist()))])


def linear_quadratic_schedule(
    model_sampling: Any,
    steps: int,
    threshold_noise: float = 0.025,
    linear_steps: int | None = None,
) -> torch.Tensor:
    """A slow linear start, then a parabola that joins it smoothly and reaches 0.

    Args:
        model_sampling: the model's sampling object; only its `sigma_max` counts.
        steps: how many steps.
        threshold_noise: the part of the noise that the linear steps remove.
        linear_steps: how many of the steps are linear; half of them if not given.

    Source: Polyak et al. 2024 (Movie Gen), section 3.4.2.
    """
    sigma_max = float(model_sampling.sigma_max)
    if steps == 1:
        return torch.tensor([sigma_max, 0.0])
    linear = steps // 2 if linear_steps is None else linear_steps
    rest = steps - linear
    excess = linear - threshold_noise * steps
    square = excess / (linear * rest**2)
    slope = threshold_noise / linear - 2 * excess / rest**2
    removed = [threshold_noise * i / linear for i in range(linear)]
    removed += [square * i**2 + slope * i + square * linear**2 for i in range(linear, steps)]
    return append_zero((1.0 - torch.tensor(removed, dtype=torch.float64)) * sigma_max).float()


def kl_optimal_scheduler(n: int, sigma_min: float, sigma_max: float) -> torch.Tensor:
    """Even steps in atan(sigma) (Sabour et al. 2024, "Align Your Steps", theorem 3.1)."""
    ramp = torch.arange(n, dtype=torch.float32) / max(n - 1, 1)
    return append_zero((ramp * math.atan(sigma_min) + (1 - ramp) * math.atan(sigma_max)).tan())


class SchedulerHandler(NamedTuple):
    """How to call a scheduler.

    With `use_ms` as handler(model_sampling, steps), else as
    handler(n=steps, sigma_min=..., sigma_max=...).
    """

    handler: Callable[..., torch.Tensor]
    use_ms: bool = True


def _sgm_uniform(model_sampling: Any, steps: int) -> torch.Tensor:
    return normal_scheduler(model_sampling, steps, sgm=True)


# In the order of the user interface. Custom nodes add entries to both.
SCHEDULER_HANDLERS = {
    "simple": SchedulerHandler(simple_scheduler),
    "sgm_uniform": SchedulerHandler(_sgm_uniform),
    "karras": SchedulerHandler(get_sigmas_karras, use_ms=False),
    "exponential": SchedulerHandler(get_sigmas_exponential, use_ms=False),
    "ddim_uniform": SchedulerHandler(ddim_scheduler),
    "beta": SchedulerHandler(beta_scheduler),
    "normal": SchedulerHandler(normal_scheduler),
    "linear_quadratic": SchedulerHandler(linear_quadratic_schedule),
    "kl_optimal": SchedulerHandler(kl_optimal_scheduler, use_ms=False),
}
SCHEDULER_NAMES = list(SCHEDULER_HANDLERS)


def calculate_sigmas(model_sampling: Any, scheduler_name: str, steps: int) -> torch.Tensor:
    """The noise levels of a run: fp32 on the CPU, descending, the last one 0.

    Raises:
        ValueError: no scheduler has this name, or there would be more than `MOST_STEPS`.
    """
    if steps > MOST_STEPS:
        raise ValueError(
            f"A schedule of {steps:,} steps is asked for, which would fill the memory; the most is "
            f"{MOST_STEPS:,}. A tiny denoise does that: take a larger one, or 0."
        )
    handler = SCHEDULER_HANDLERS.get(scheduler_name)
    if handler is None:
        known = ", ".join(SCHEDULER_HANDLERS)
        raise ValueError(f"There is no scheduler {scheduler_name!r}; known are {known}.")
    if handler.use_ms:
        return handler.handler(model_sampling, steps)
    return handler.handler(
        n=steps,
        sigma_min=float(model_sampling.sigma_min),
        sigma_max=float(model_sampling.sigma_max),
    )

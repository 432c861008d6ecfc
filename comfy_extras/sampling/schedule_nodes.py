"""Nodes that make SIGMAS: the noise levels that a run visits, fp32 on the CPU, with a final 0."""

from __future__ import annotations

from typing import Any

import torch

import comfy.samplers
from comfy.k_diffusion import schedules
from comfy_api.latest import io

CATEGORY = "sampling/custom_sampling/schedulers"
TURBO_LEVELS = 10
"""SD Turbo was distilled to the time steps 99, 199 ... 999."""

_MOST_STEPS = 10000
_HIGHEST_SIGMA = 14.614642
_LOWEST_SIGMA = 0.0291675


def steps_input(default: int = 20, most: int = _MOST_STEPS) -> Any:
    """The input for a number of steps."""
    return io.Int.Input("steps", default=default, min=1, max=most)


def denoise_input() -> Any:
    """The input for the part of a schedule that is run."""
    return io.Float.Input("denoise", default=1.0, min=0.0, max=1.0, step=0.01)


def number_input(
    name: str, default: float, most: float, least: float = 0.0, step: float = 0.01
) -> Any:
    """An input for a number that the page shall not round."""
    return io.Float.Input(name, default=default, min=least, max=most, step=step, round=False)


def _bounds() -> list[Any]:
    return [
        number_input("sigma_max", _HIGHEST_SIGMA, 5000.0),
        number_input("sigma_min", _LOWEST_SIGMA, 5000.0),
    ]


def above_zero(node: str, **numbers: float) -> None:
    """Refuse numbers that their inputs take, but for which there are no levels.

    Args:
        node: For the message.
        numbers: By the input's name.

    Raises:
        ValueError: One is 0.
    """
    for name, value in numbers.items():
        if value <= 0:
            raise ValueError(
                f"{node} has no noise levels for {name} = {value}: choose more than 0."
            )


def schema(name: str, inputs: list[Any]) -> Any:
    """The schema of a scheduler."""
    return io.Schema(node_id=name, category=CATEGORY, inputs=inputs, outputs=[io.Sigmas.Output()])


def last_steps(total: Any, steps: int, denoise: float) -> torch.Tensor:
    """The end of a longer schedule, of which `denoise` is the part that is run.

    Args:
        total: Makes a schedule of so many steps: called with a number, gives [steps + 1].
        steps: How many are run.
        denoise: 0 to 1; none are run at 0.

    Returns:
        [steps + 1], or fewer if the schedule is shorter; [0] at denoise 0.
    """
    if denoise <= 0.0:
        return torch.empty(0)
    sigmas: torch.Tensor = total(steps if denoise >= 1.0 else int(steps / denoise))
    return sigmas[-(steps + 1) :]


class BasicScheduler(io.ComfyNode):
    """A schedule by its name, for a model."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        names = comfy.samplers.SCHEDULER_NAMES
        return schema(
            "BasicScheduler",
            [
                io.Model.Input("model"),
                io.Combo.Input("scheduler", options=names),
                steps_input(),
                denoise_input(),
            ],
        )

    @classmethod
    def execute(cls, model: Any, scheduler: str, steps: int, denoise: float) -> Any:
        """Make it; with `denoise` below 1 it is the end of a longer one."""
        sampling = model.get_model_object("model_sampling")

        def total(count: int) -> torch.Tensor:
            return comfy.samplers.calculate_sigmas(sampling, scheduler, count).cpu()

        return io.NodeOutput(last_steps(total, steps, denoise))

    get_sigmas = execute


class KarrasScheduler(io.ComfyNode):
    """Even steps in sigma^(1/rho)."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [steps_input(), *_bounds(), number_input("rho", 7.0, 100.0)]
        return schema("KarrasScheduler", inputs)

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float, rho: float) -> Any:
        """See `comfy.k_diffusion.schedules.get_sigmas_karras`."""
        above_zero("KarrasScheduler", rho=rho)
        return io.NodeOutput(schedules.get_sigmas_karras(steps, sigma_min, sigma_max, rho))

    get_sigmas = execute


class ExponentialScheduler(io.ComfyNode):
    """Even steps in log sigma."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return schema("ExponentialScheduler", [steps_input(), *_bounds()])

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float) -> Any:
        """See `comfy.k_diffusion.schedules.get_sigmas_exponential`."""
        above_zero("ExponentialScheduler", sigma_max=sigma_max, sigma_min=sigma_min)
        return io.NodeOutput(schedules.get_sigmas_exponential(steps, sigma_min, sigma_max))

    get_sigmas = execute


class PolyexponentialScheduler(io.ComfyNode):
    """Steps in log sigma that follow a power of an even ramp."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [steps_input(), *_bounds(), number_input("rho", 1.0, 100.0)]
        return schema("PolyexponentialScheduler", inputs)

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float, rho: float) -> Any:
        """See `comfy.k_diffusion.schedules.get_sigmas_polyexponential`."""
        above_zero("PolyexponentialScheduler", sigma_max=sigma_max, sigma_min=sigma_min)
        return io.NodeOutput(schedules.get_sigmas_polyexponential(steps, sigma_min, sigma_max, rho))

    get_sigmas = execute


class LaplaceScheduler(io.ComfyNode):
    """Log sigma at even quantiles of a Laplace distribution."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        shape = [
            number_input("mu", 0.0, 10.0, least=-10.0, step=0.1),
            number_input("beta", 0.5, 10.0, step=0.1),
        ]
        return schema("LaplaceScheduler", [steps_input(), *_bounds(), *shape])

    @classmethod
    def execute(cls, steps: int, sigma_max: float, sigma_min: float, mu: float, beta: float) -> Any:
        """See `comfy.k_diffusion.schedules.get_sigmas_laplace`."""
        above_zero("LaplaceScheduler", beta=beta)
        return io.NodeOutput(schedules.get_sigmas_laplace(steps, sigma_min, sigma_max, mu, beta))

    get_sigmas = execute


class VPScheduler(io.ComfyNode):
    """Even steps in the time of the continuous variance preserving process."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return schema(
            "VPScheduler",
            [
                steps_input(),
                number_input("beta_d", 19.9, 5000.0),
                number_input("beta_min", 0.1, 5000.0),
                number_input("eps_s", 0.001, 1.0, step=0.0001),
            ],
        )

    @classmethod
    def execute(cls, steps: int, beta_d: float, beta_min: float, eps_s: float) -> Any:
        """See `comfy.k_diffusion.schedules.get_sigmas_vp`; ValueError if a level is infinite."""
        sigmas = schedules.get_sigmas_vp(steps, beta_d, beta_min, eps_s)
        if not sigmas.isfinite().all():
            raise ValueError(
                f"VPScheduler begins at an infinite noise level for beta_d = {beta_d} and "
                f"beta_min = {beta_min}: choose less."
            )
        return io.NodeOutput(sigmas)

    get_sigmas = execute


class BetaSamplingScheduler(io.ComfyNode):
    """A model's levels at quantiles of a Beta distribution."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        shape = [number_input("alpha", 0.6, 50.0), number_input("beta", 0.6, 50.0)]
        inputs = [io.Model.Input("model"), steps_input(), *shape]
        return schema("BetaSamplingScheduler", inputs)

    @classmethod
    def execute(cls, model: Any, steps: int, alpha: float, beta: float) -> Any:
        """See `comfy.schedulers.beta_scheduler`."""
        above_zero("BetaSamplingScheduler", alpha=alpha, beta=beta)
        sampling = model.get_model_object("model_sampling")
        return io.NodeOutput(comfy.samplers.beta_scheduler(sampling, steps, alpha, beta))

    get_sigmas = execute


class SDTurboScheduler(io.ComfyNode):
    """The time steps that SD Turbo and SDXL Turbo were distilled to, from the highest on."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        part = io.Float.Input("denoise", default=1.0, min=0, max=1.0, step=0.01)
        inputs = [io.Model.Input("model"), steps_input(1, most=TURBO_LEVELS), part]
        return schema("SDTurboScheduler", inputs)

    @classmethod
    def execute(cls, model: Any, steps: int, denoise: float) -> Any:
        """The levels of time steps 999, 899 ...; with `denoise` below 1 the first ones are left out.

        Source: Sauer et al. 2023, "Adversarial Diffusion Distillation".
        """
        sampling = model.get_model_object("model_sampling")
        first = TURBO_LEVELS - int(TURBO_LEVELS * denoise)
        visited = range(first, min(first + steps, TURBO_LEVELS))
        times = torch.tensor([999.0 - 100.0 * number for number in visited])
        return io.NodeOutput(schedules.append_zero(sampling.sigma(times).float().cpu()))

    get_sigmas = execute


NODES = [
    BasicScheduler,
    KarrasScheduler,
    ExponentialScheduler,
    PolyexponentialScheduler,
    LaplaceScheduler,
    VPScheduler,
    BetaSamplingScheduler,
    SDTurboScheduler,
]

"""Nodes that make a SAMPLER, by name or with options of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import comfy.samplers
from comfy.k_diffusion.sa_solver import get_tau_interval_func
from comfy_api.latest import io
from comfy_extras.guidance.patching import percent_input
from comfy_extras.sampling.schedule_nodes import number_input

_CATEGORY = "sampling/custom_sampling/samplers"


def _eta(default: float = 1.0, most: float = 100.0) -> Any:
    return number_input("eta", default, most)


def _s_noise(most: float = 100.0) -> Any:
    return number_input("s_noise", 1.0, most)


def _noise_device() -> Any:
    return io.Combo.Input("noise_device", options=["gpu", "cpu"])


def schema(name: str, inputs: list[Any], display_name: str | None = None) -> Any:
    """The schema of a node that makes a sampler."""
    return io.Schema(
        node_id=name,
        display_name=display_name,
        category=_CATEGORY,
        inputs=inputs,
        outputs=[io.Sampler.Output()],
    )


def _drawn_on(noise_device: str, name: str, options: dict[str, Any]) -> Any:
    """The variant of a sampler that draws its noise on "gpu" or "cpu"."""
    variant = name if noise_device == "cpu" else f"{name}_gpu"
    return io.NodeOutput(comfy.samplers.ksampler(variant, options))


class KSamplerSelect(io.ComfyNode):
    """A sampler by its name."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        names = comfy.samplers.SAMPLER_NAMES
        return schema("KSamplerSelect", [io.Combo.Input("sampler_name", options=names)])

    @classmethod
    def execute(cls, sampler_name: str) -> Any:
        """See `comfy.samplers.sampler_object`."""
        return io.NodeOutput(comfy.samplers.sampler_object(sampler_name))

    get_sampler = execute


class _Ancestral(io.ComfyNode):
    """A sampler that adds fresh noise in each step.

    Attributes:
        SAMPLER: Its name in `comfy.samplers`.
    """

    SAMPLER = ""

    @classmethod
    def execute(cls, eta: float, s_noise: float) -> Any:
        """Make it; 0 for `eta` adds no noise, `s_noise` is a factor of it."""
        options = {"eta": eta, "s_noise": s_noise}
        return io.NodeOutput(comfy.samplers.ksampler(cls.SAMPLER, options))

    get_sampler = execute


class SamplerEulerAncestral(_Ancestral):
    """Euler steps with fresh noise."""

    SAMPLER = "euler_ancestral"

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return schema("SamplerEulerAncestral", [_eta(), _s_noise()])


class SamplerEulerAncestralCFGPP(_Ancestral):
    """Euler steps with fresh noise, guided as CFG++."""

    SAMPLER = "euler_ancestral_cfg_pp"

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [_eta(most=1.0), _s_noise(10.0)]
        return schema("SamplerEulerAncestralCFGPP", inputs, "SamplerEulerAncestralCFG++")


class SamplerLMS(io.ComfyNode):
    """Linear multistep."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return schema("SamplerLMS", [io.Int.Input("order", default=4, min=1, max=100)])

    @classmethod
    def execute(cls, order: int) -> Any:
        """See `sample_lms`."""
        return io.NodeOutput(comfy.samplers.ksampler("lms", {"order": order}))

    get_sampler = execute


class SamplerDPMPP_3M_SDE(io.ComfyNode):
    """DPM-Solver++(3M) SDE."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return schema("SamplerDPMPP_3M_SDE", [_eta(), _s_noise(), _noise_device()])

    @classmethod
    def execute(cls, eta: float, s_noise: float, noise_device: str) -> Any:
        """See `sample_dpmpp_3m_sde`."""
        options = {"eta": eta, "s_noise": s_noise}
        return _drawn_on(noise_device, "dpmpp_3m_sde", options)

    get_sampler = execute


class SamplerDPMPP_2M_SDE(io.ComfyNode):
    """DPM-Solver++(2M) SDE."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        solver = io.Combo.Input("solver_type", options=["midpoint", "heun"])
        return schema("SamplerDPMPP_2M_SDE", [solver, _eta(), _s_noise(), _noise_device()])

    @classmethod
    def execute(cls, solver_type: str, eta: float, s_noise: float, noise_device: str) -> Any:
        """See `sample_dpmpp_2m_sde`."""
        options = {"eta": eta, "s_noise": s_noise, "solver_type": solver_type}
        return _drawn_on(noise_device, "dpmpp_2m_sde", options)

    get_sampler = execute


class SamplerDPMPP_SDE(io.ComfyNode):
    """DPM-Solver++ SDE with an evaluation within each step."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [_eta(), _s_noise(), number_input("r", 0.5, 100.0), _noise_device()]
        return schema("SamplerDPMPP_SDE", inputs)

    @classmethod
    def execute(cls, eta: float, s_noise: float, r: float, noise_device: str) -> Any:
        """See `sample_dpmpp_sde`."""
        options = {"eta": eta, "s_noise": s_noise, "r": r}
        return _drawn_on(noise_device, "dpmpp_sde", options)

    get_sampler = execute


class SamplerDPMPP_2S_Ancestral(_Ancestral):
    """DPM-Solver++(2S) with fresh noise."""

    SAMPLER = "dpmpp_2s_ancestral"

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return schema("SamplerDPMPP_2S_Ancestral", [_eta(), _s_noise()])


class SamplerDPMAdaptative(io.ComfyNode):
    """DPM-Solver that chooses its steps by their error."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        defaults = {
            "rtol": 0.05,
            "atol": 0.0078,
            "h_init": 0.05,
            "pcoeff": 0.0,
            "icoeff": 1.0,
            "dcoeff": 0.0,
            "accept_safety": 0.81,
            "eta": 0.0,
            "s_noise": 1.0,
        }
        numbers = [number_input(name, default, 100.0) for name, default in defaults.items()]
        order = io.Int.Input("order", default=3, min=2, max=3)
        return schema("SamplerDPMAdaptative", [order, *numbers])

    @classmethod
    def execute(
        cls,
        order: int,
        rtol: float,
        atol: float,
        h_init: float,
        pcoeff: float,
        icoeff: float,
        dcoeff: float,
        accept_safety: float,
        eta: float,
        s_noise: float,
    ) -> Any:
        """See `sample_dpm_adaptive`."""
        options = {
            "order": order,
            "rtol": rtol,
            "atol": atol,
            "h_init": h_init,
            "pcoeff": pcoeff,
            "icoeff": icoeff,
            "dcoeff": dcoeff,
            "accept_safety": accept_safety,
            "eta": eta,
            "s_noise": s_noise,
        }
        return io.NodeOutput(comfy.samplers.ksampler("dpm_adaptive", options))

    get_sampler = execute


def power_noise_scaler(eta: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """phi(l) = l^(1 + eta): the probability flow at 0, the usual reverse SDE at 1.

    Source: Cui et al. 2023, "Extended Reverse-Time SDE", section 3.3.
    """

    def scaler(level: torch.Tensor) -> torch.Tensor:
        return level ** (1.0 + eta)

    return scaler


class SamplerER_SDE(io.ComfyNode):
    """ER-SDE-Solver."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        kinds = ["ER-SDE", "Reverse-time SDE", "ODE"]
        inputs = [
            io.Combo.Input("solver_type", options=kinds),
            io.Int.Input("max_stage", default=3, min=1, max=3),
            _eta(),
            _s_noise(),
        ]
        return schema("SamplerER_SDE", inputs)

    @classmethod
    def execute(cls, solver_type: str, max_stage: int, eta: float, s_noise: float) -> Any:
        """See `sample_er_sde`.

        Args:
            solver_type: "ER-SDE" has a noise of its own; "ODE" has none.
            eta: The noise of "Reverse-time SDE", which is an ODE at 0.
        """
        options: dict[str, Any] = {"max_stage": max_stage, "s_noise": s_noise}
        if solver_type != "ER-SDE":
            power = 0.0 if solver_type == "ODE" else eta
            options["noise_scaler"] = power_noise_scaler(power)
            # Rounding would leave a trace of noise.
            options["s_noise"] = s_noise if power > 0 else 0.0
        return io.NodeOutput(comfy.samplers.ksampler("er_sde", options))

    get_sampler = execute


class SamplerSASolver(io.ComfyNode):
    """SA-Solver: stochastic Adams."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Model.Input("model"),
            _eta(most=10.0),
            percent_input("sde_start_percent", 0.2),
            percent_input("sde_end_percent", 0.8),
            _s_noise(),
            io.Int.Input("predictor_order", default=3, min=1, max=6),
            io.Int.Input("corrector_order", default=4, min=0, max=6),
            io.Boolean.Input("use_pece"),
            io.Boolean.Input("simple_order_2"),
        ]
        return schema("SamplerSASolver", inputs)

    @classmethod
    def execute(
        cls,
        model: Any,
        eta: float,
        sde_start_percent: float,
        sde_end_percent: float,
        s_noise: float,
        predictor_order: int,
        corrector_order: int,
        use_pece: bool,
        simple_order_2: bool,
    ) -> Any:
        """See `sample_sa_solver`; its noise is `eta` between both parts of the model's time."""
        sampling = model.get_model_object("model_sampling")
        start = sampling.percent_to_sigma(sde_start_percent)
        end = sampling.percent_to_sigma(sde_end_percent)
        options = {
            "tau_func": get_tau_interval_func(start, end, eta),
            "s_noise": s_noise,
            "predictor_order": predictor_order,
            "corrector_order": corrector_order,
            "use_pece": use_pece,
            "simple_order_2": simple_order_2,
        }
        return io.NodeOutput(comfy.samplers.ksampler("sa_solver", options))

    get_sampler = execute


class SamplerSEEDS2(io.ComfyNode):
    """SEEDS-2: exponential solver of the reverse SDE."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Combo.Input("solver_type", options=["phi_1", "phi_2"]),
            _eta(),
            _s_noise(),
            number_input("r", 0.5, 1.0, least=0.01),
        ]
        return schema("SamplerSEEDS2", inputs)

    @classmethod
    def execute(cls, solver_type: str, eta: float, s_noise: float, r: float) -> Any:
        """See `sample_seeds_2`."""
        options = {"solver_type": solver_type, "eta": eta, "s_noise": s_noise, "r": r}
        return io.NodeOutput(comfy.samplers.ksampler("seeds_2", options))

    get_sampler = execute


NODES = [
    KSamplerSelect,
    SamplerEulerAncestral,
    SamplerEulerAncestralCFGPP,
    SamplerLMS,
    SamplerDPMPP_3M_SDE,
    SamplerDPMPP_2M_SDE,
    SamplerDPMPP_SDE,
    SamplerDPMPP_2S_Ancestral,
    SamplerDPMAdaptative,
    SamplerER_SDE,
    SamplerSASolver,
    SamplerSEEDS2,
]

"""What a model's network predicts, which noise levels its time means, and how it is guided."""

from __future__ import annotations

from typing import Any

import torch

import comfy.latent_formats
import comfy.model_sampling
import node_helpers
from comfy.model_sampling import rescale_zero_terminal_snr_sigmas, reshape_sigma
from comfy_extras.sampling.schedule_nodes import above_zero
from node_helpers import MAX_RESOLUTION

__all__ = ["LCM", "ModelSamplingDiscreteDistilled", "rescale_zero_terminal_snr_sigmas"]

_FEW_TOKENS, _MANY_TOKENS = 256, 4096
# Pixels of a token's side: 8 in a position of the latent, and 2 positions.
_TOKEN_SIDE = 16


def _number(default: float, most: float = 100.0, step: float = 0.01) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": 0.0, "max": most, "step": step}


def _level(default: float) -> tuple[str, dict[str, Any]]:
    name, options = _number(default, 1000.0, 0.001)
    return name, {**options, "round": False}


class LCM(comfy.model_sampling.EPS):
    """A latent consistency model: the network's D and the noisy latent, weighted by time.

    With s the data's deviation .5 and t ten times the time step, D' is
    t / sqrt(t^2 + s^2) D + s^2 / (t^2 + s^2) x.

    Source: Luo et al. 2023, "Latent Consistency Models", section 3 and its code's time scaling.
    """

    consistency_sigma_data = 0.5
    timestep_scaling = 10.0

    def calculate_denoised(
        self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor
    ) -> torch.Tensor:
        """Weigh; shapes as in `comfy.predictions`."""
        denoised = super().calculate_denoised(sigma, model_output, model_input)
        time = self.timestep(sigma) * self.timestep_scaling  # type: ignore[attr-defined]
        time = reshape_sigma(time.to(denoised.dtype), denoised.ndim)
        total = time**2 + self.consistency_sigma_data**2
        keep = self.consistency_sigma_data**2 / total
        return denoised * (time / total**0.5) + model_input * keep


class ModelSamplingDiscreteDistilled(comfy.model_sampling.ModelSamplingDiscrete):
    """A chain of which a student learnt every n-th time step.

    Attributes:
        original_timesteps: How many the student learnt.
        skip_steps: n.
    """

    original_timesteps = 50

    def __init__(self, model_config: Any = None, zsnr: bool | None = None) -> None:
        super().__init__(model_config, zsnr=zsnr)
        self.skip_steps = len(self.sigmas) // self.original_timesteps
        self.set_sigmas(self.sigmas[self.skip_steps - 1 :: self.skip_steps].clone())

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """The time step, of the whole chain, of the nearest level that was learnt."""
        return super().timestep(sigma) * self.skip_steps + (self.skip_steps - 1)

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """The level at a time step of the whole chain, by interpolation of log sigma."""
        learnt = (timestep.float() - (self.skip_steps - 1)) / self.skip_steps
        return super().sigma(learnt)

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after this part (0 .. 1) of the whole chain."""
        if percent <= 0.0:
            return comfy.model_sampling.BEFORE_ALL_SIGMAS
        if percent >= 1.0:
            return 0.0
        last = self.original_timesteps * self.skip_steps - 1
        return self.sigma(torch.tensor((1.0 - percent) * last)).item()


def _combined(levels: type, prediction: type) -> Any:
    """A class of both halves of a sampling object."""
    return type(f"{levels.__name__}{prediction.__name__}", (levels, prediction), {})


def _with_sampling(model: Any, levels: type, prediction: type, **settings: Any) -> Any:
    """A clone of a model with another sampling object; `settings` are for its parameters."""
    patched = model.clone()
    sampling = _combined(levels, prediction)(model.model.model_config)
    if settings:
        sampling.set_parameters(**settings)
    patched.add_object_patch("model_sampling", sampling)
    return patched


class _Patching:
    """A node that gives a patched clone of a model."""

    RETURN_TYPES = ("MODEL",)
    FUNCTION = "patch"
    CATEGORY = "advanced/model"


class ModelSamplingDiscrete(_Patching):
    """Says what a network of a discrete chain predicts."""

    _PREDICTIONS = (
        ("eps", comfy.model_sampling.EPS),
        ("v_prediction", comfy.model_sampling.V_PREDICTION),
        ("lcm", LCM),
        ("x0", comfy.model_sampling.X0),
        ("img_to_img", comfy.model_sampling.IMG_TO_IMG),
    )

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "model": ("MODEL",),
                "sampling": ([name for name, _ in cls._PREDICTIONS],),
                "zsnr": ("BOOLEAN", {"default": False}),
            }
        }

    def patch(self, model: Any, sampling: str, zsnr: bool) -> tuple[Any]:
        """Set it on a clone; `zsnr` stretches the chain to a signal to noise ratio of zero."""
        prediction = dict(self._PREDICTIONS)[sampling]
        levels = comfy.model_sampling.ModelSamplingDiscrete
        if sampling == "lcm":
            levels = ModelSamplingDiscreteDistilled
        patched = model.clone()
        made = _combined(levels, prediction)(model.model.model_config, zsnr=zsnr)
        patched.add_object_patch("model_sampling", made)
        return (patched,)


class ModelSamplingContinuousEDM(_Patching):
    """Gives a model any noise level between two bounds."""

    _EDM_SIGMA_DATA = 0.5
    _KINDS = ("v_prediction", "edm", "edm_playground_v2.5", "eps", "cosmos_rflow")

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "model": ("MODEL",),
                "sampling": (list(cls._KINDS),),
                "sigma_max": _level(120.0),
                "sigma_min": _level(0.002),
            }
        }

    def patch(self, model: Any, sampling: str, sigma_max: float, sigma_min: float) -> tuple[Any]:
        """Set levels and prediction on a clone; "edm_playground_v2.5" sets the latents', too."""
        above_zero("ModelSamplingContinuousEDM", sigma_max=sigma_max, sigma_min=sigma_min)
        levels: type = comfy.model_sampling.ModelSamplingContinuousEDM
        is_edm = sampling.startswith("edm")
        if is_edm:
            prediction: type = comfy.model_sampling.EDM
        elif sampling == "cosmos_rflow":
            levels = comfy.model_sampling.ModelSamplingCosmosRFlow
            prediction = comfy.model_sampling.COSMOS_RFLOW
        elif sampling == "eps":
            prediction = comfy.model_sampling.EPS
        else:
            prediction = comfy.model_sampling.V_PREDICTION
        patched = _with_sampling(
            *(model, levels, prediction),
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            sigma_data=self._EDM_SIGMA_DATA if is_edm else 1.0,
        )
        if sampling == "edm_playground_v2.5":
            latents = comfy.latent_formats.SDXL_Playground_2_5()
            patched.add_object_patch("latent_format", latents)
        return (patched,)


class ModelSamplingContinuousV(_Patching):
    """Gives a v-prediction model of angles any noise level between two bounds."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "model": ("MODEL",),
                "sampling": (["v_prediction"],),
                "sigma_max": _level(500.0),
                "sigma_min": _level(0.03),
            }
        }

    def patch(self, model: Any, sampling: str, sigma_max: float, sigma_min: float) -> tuple[Any]:
        """Set them on a clone."""
        above_zero("ModelSamplingContinuousV", sigma_max=sigma_max, sigma_min=sigma_min)
        levels = comfy.model_sampling.ModelSamplingContinuousV
        prediction = comfy.model_sampling.V_PREDICTION
        bounds = {"sigma_min": sigma_min, "sigma_max": sigma_max, "sigma_data": 1.0}
        return (_with_sampling(model, levels, prediction, **bounds),)


class ModelSamplingStableCascade(_Patching):
    """Shifts the noise levels of Stable Cascade."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"model": ("MODEL",), "shift": _number(2.0)}}

    def patch(self, model: Any, shift: float) -> tuple[Any]:
        """Set the shift on a clone."""
        above_zero("ModelSamplingStableCascade", shift=shift)
        levels = comfy.model_sampling.StableCascadeSampling
        return (_with_sampling(model, levels, comfy.model_sampling.EPS, shift=shift),)


class ModelSamplingSD3(_Patching):
    """Shifts the noise levels of a flow model whose network counts time to 1000."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"model": ("MODEL",), "shift": _number(3.0)}}

    def patch(self, model: Any, shift: float, multiplier: float = 1000) -> tuple[Any]:
        """Set the shift on a clone; `multiplier` is the network's time at pure noise."""
        above_zero(type(self).__name__, shift=shift)
        levels = comfy.model_sampling.ModelSamplingDiscreteFlow
        settings = {"shift": shift, "multiplier": multiplier}
        return (_with_sampling(model, levels, comfy.model_sampling.CONST, **settings),)


class ModelSamplingAuraFlow(ModelSamplingSD3):
    """Shifts the noise levels of a flow model whose network counts time to 1."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"model": ("MODEL",), "shift": _number(1.73)}}

    FUNCTION = "patch_aura"

    def patch_aura(self, model: Any, shift: float) -> tuple[Any]:
        """Set the shift on a clone."""
        return self.patch(model, shift, multiplier=1.0)


class ModelSamplingFlux(_Patching):
    """Shifts the noise levels of a flow model by the size of the picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        side = {"default": 1024, "min": 16, "max": MAX_RESOLUTION, "step": 8}
        return {
            "required": {
                "model": ("MODEL",),
                "max_shift": _number(1.15),
                "base_shift": _number(0.5),
                "width": ("INT", dict(side)),
                "height": ("INT", dict(side)),
            }
        }

    def patch(
        self, model: Any, max_shift: float, base_shift: float, width: int, height: int
    ) -> tuple[Any]:
        """Set the shift on a clone: linear in the tokens, 256 to 4096 of them at both shifts."""
        tokens = width * height / _TOKEN_SIDE**2
        part = (tokens - _FEW_TOKENS) / (_MANY_TOKENS - _FEW_TOKENS)
        shift = base_shift + (max_shift - base_shift) * part
        levels = comfy.model_sampling.ModelSamplingFlux
        return (_with_sampling(model, levels, comfy.model_sampling.CONST, shift=shift),)


class RescaleCFG(_Patching):
    """Guidance whose result keeps the spread of the positive prompt's prediction."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"model": ("MODEL",), "multiplier": _number(0.7, 1.0)}}

    def patch(self, model: Any, multiplier: float) -> tuple[Any]:
        """Replace the formula of guidance on a clone; a multiplier of 0 leaves the usual one.

        In v = (x / (sigma^2 + 1) - D) sqrt(sigma^2 + 1) / sigma, guided v are scaled to the
        standard deviation of v under the positive prompt, and mixed with the unscaled ones.

        Source: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed",
        equations 14 to 16.
        """

        def rescaled(args: dict[str, Any]) -> torch.Tensor:
            x = args["input"]
            sigma = reshape_sigma(args["sigma"], x.ndim)
            root = (sigma**2 + 1.0) ** 0.5
            base = x / root**2
            positive, negative = (
                (base - args[name]) * (root / sigma)
                for name in ("cond_denoised", "uncond_denoised")
            )
            guided = negative + (positive - negative) * args["cond_scale"]
            axes = tuple(range(1, x.ndim))
            ratio = positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True)
            mixed = guided * (multiplier * ratio + (1.0 - multiplier))
            return x - (base - mixed * (sigma / root))

        patched = model.clone()
        patched.set_model_sampler_cfg_function(rescaled)
        return (patched,)


class ModelComputeDtype(_Patching):
    """Sets in which dtype a model computes."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = ["default", "fp32", "fp16", "bf16"]
        return {"required": {"model": ("MODEL",), "dtype": (names,)}}

    CATEGORY = "advanced/debug/model"

    def patch(self, model: Any, dtype: str) -> tuple[Any]:
        """Set it on a clone; "default" is what was chosen when the model was loaded."""
        patched = model.clone()
        patched.set_model_compute_dtype(node_helpers.string_to_torch_dtype(dtype))
        return (patched,)


NODE_CLASS_MAPPINGS = {
    "ModelSamplingDiscrete": ModelSamplingDiscrete,
    "ModelSamplingContinuousEDM": ModelSamplingContinuousEDM,
    "ModelSamplingContinuousV": ModelSamplingContinuousV,
    "ModelSamplingStableCascade": ModelSamplingStableCascade,
    "ModelSamplingSD3": ModelSamplingSD3,
    "ModelSamplingAuraFlow": ModelSamplingAuraFlow,
    "ModelSamplingFlux": ModelSamplingFlux,
    "RescaleCFG": RescaleCFG,
    "ModelComputeDtype": ModelComputeDtype,
}

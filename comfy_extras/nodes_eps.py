"""Predicted noise made smaller or larger."""

from __future__ import annotations

from typing import Any

import torch

from comfy.model_sampling import CONST, reshape_sigma
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema

_CATEGORY = "model_patches/unet"


def _number(name: str, default: float, least: float, most: float) -> Any:
    display = io.NumberDisplay.number
    return io.Float.Input(
        name, default=default, min=least, max=most, step=0.001, display_mode=display
    )


class EpsilonScaling(io.ComfyNode):
    """Divides the predicted noise, against the drift between training and sampling."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [_number("scaling_factor", 1.005, 0.5, 1.5)]
        return patch_schema("Epsilon Scaling", _CATEGORY, inputs)

    @classmethod
    def execute(cls, model: Any, scaling_factor: float) -> Any:
        """Patch a clone: D' = x - (x - D) / factor.

        Source: Ning et al. 2024, "Elucidating the Exposure Bias in Diffusion Models", section 4.
        """

        def scale(args: dict[str, Any]) -> torch.Tensor:
            x: torch.Tensor = args["input"]
            return x - (x - args["denoised"]) / scaling_factor

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(scale)
        return io.NodeOutput(patched)


def rescaled(
    x: torch.Tensor,
    denoised: torch.Tensor,
    sigma: torch.Tensor,
    k: float,
    spread: float,
    flow: bool,
) -> torch.Tensor:
    """Sample a sharper or flatter distribution: the score times r.

    Data of deviation `spread` give states of variance a^2 spread^2 + sigma^2, and a^2 spread^2 / k +
    sigma^2 once the data's variance is divided by k. The score's factor r is their ratio, for a = 1,
    or a = 1 - sigma for flow.

    Source: Xu et al. 2025, "Temporal Score Rescaling for Temperature Sampling", equation 8.

    Args:
        x: [B, C, ...], the state.
        denoised: D, of the same shape.
        sigma: [B].
        k: Above 1 sharper, below 1 flatter.
        spread: Of the data.
        flow: Whether the state is sigma n + (1 - sigma) L.
    """
    sigma = reshape_sigma(sigma, x.ndim)
    scale = 1.0 - sigma if flow else torch.ones_like(sigma)
    signal, noise = (scale * spread) ** 2, sigma**2
    ratio = (signal + noise) / (signal / k + noise)
    # r - 1 over a, written so that it is finite where a is 0.
    excess = scale * spread**2 * (1.0 - 1.0 / k) / (signal / k + noise)
    return denoised * ratio - x * excess


class TemporalScoreRescaling(io.ComfyNode):
    """Samples a sharper or flatter distribution than the model learnt."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [_number("tsr_k", 0.95, 0.01, 100.0), _number("tsr_sigma", 1.0, 0.01, 100.0)]
        return patch_schema(
            *("TemporalScoreRescaling", _CATEGORY, inputs, "TSR - Temporal Score Rescaling"),
            output="patched_model",
        )

    @classmethod
    def execute(cls, model: Any, tsr_k: float, tsr_sigma: float) -> Any:
        """Patch a clone; see `rescaled`."""
        sampling = model.get_model_object("model_sampling")
        flow = isinstance(sampling, CONST)

        def rescale(args: dict[str, Any]) -> torch.Tensor:
            about = (args["input"], args["denoised"], args["sigma"])
            return rescaled(*about, tsr_k, tsr_sigma, flow)

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(rescale)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(EpsilonScaling, TemporalScoreRescaling)

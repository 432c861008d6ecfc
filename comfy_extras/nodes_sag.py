"""Guidance away from what a UNet makes of a picture blurred where it looks most."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from comfy.ldm.modules.attention import optimized_attention
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import denoised_again, patch_schema
from comfy_extras.pictures import filters

_BLUR_RADIUS = 4
_UNCOND = 1


def blurred(x: torch.Tensor, sigma: float) -> torch.Tensor:
    """Blur [B, C, H, W] by a Gauss of this deviation, cut off at 4 pixels; edges are mirrored."""
    if sigma <= 0:
        return x
    return filters.blurred(x, _BLUR_RADIUS, sigma / _BLUR_RADIUS)


class SeenPlaces:
    """Stands in for the middle's self-attention, and notes how much each place is looked at.

    Attributes:
        weights: [B, 1, h, w] for the negative prompt, 1 in the mean; None before the first pass.
    """

    def __init__(self) -> None:
        self.weights: torch.Tensor | None = None

    def __call__(
        self, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra_options: dict[str, Any]
    ) -> torch.Tensor:
        """Attend as usual."""
        heads = extra_options["n_heads"]
        parts = extra_options["cond_or_uncond"]
        if _UNCOND in parts:
            place = parts.index(_UNCOND)
            queries, keys = (
                one.chunk(len(parts))[place].unflatten(-1, (heads, -1)).transpose(1, 2).float()
                for one in (q, k)
            )
            scores = (queries @ keys.mT / queries.shape[-1] ** 0.5).softmax(-1)
            seen = scores.mean(1).sum(1)
            shape = extra_options["activations_shape"][-2:]
            self.weights = seen.unflatten(-1, tuple(shape)).unsqueeze(1)
        precision = extra_options.get("attn_precision")
        return optimized_attention(q, k, v, heads, attn_precision=precision)


class SelfAttentionGuidance(io.ComfyNode):
    """Self-attention guidance."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Float.Input("scale", default=0.5, min=-2.0, max=5.0, step=0.01),
            io.Float.Input("blur_sigma", default=2.0, min=0.0, max=10.0, step=0.1),
        ]
        return patch_schema(
            *("SelfAttentionGuidance", "_for_testing", inputs, "Self-Attention Guidance"),
            is_experimental=True,
        )

    @classmethod
    def execute(cls, model: Any, scale: float, blur_sigma: float) -> Any:
        """Patch a clone.

        The negative prediction is blurred where the middle of the UNet looks more than in the mean,
        its noise is put back, and it is denoised again: D + scale (blurred - D_again).

        Source: Hong et al. 2023, "Improving Sample Quality of Diffusion Models Using Self-Attention
        Guidance", section 5, with noise written as x - D.
        """
        seen = SeenPlaces()

        def guide(args: dict[str, Any]) -> torch.Tensor:
            result: torch.Tensor = args["denoised"]
            negative, x = args["uncond_denoised"], args["input"]
            if scale == 0 or seen.weights is None or args["uncond"] is None:
                return result
            looked_at = functional.interpolate(
                (seen.weights > 1.0).to(negative.dtype), negative.shape[-2:], mode="nearest"
            )
            degraded = torch.lerp(negative, blurred(negative, blur_sigma), looked_at)
            noisy = degraded + (x - negative)
            again = denoised_again(args, args["uncond"], noisy, args["model_options"])
            return result + (degraded - again) * scale

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(guide, disable_cfg1_optimization=True)
        patched.set_model_attn1_replace(seen, "middle", 0, 0)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(SelfAttentionGuidance)

"""Guidance away from what a UNet makes without self-attention in its middle."""

from __future__ import annotations

from typing import Any

import torch

from comfy.model_options import set_model_options_patch_replace
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import denoised_again, patch_schema


def _own_value(q: Any, k: Any, v: torch.Tensor, extra_options: Any, mask: Any = None) -> Any:
    """Self-attention in which each token looks at itself alone."""
    return v


class PerturbedAttentionGuidance(io.ComfyNode):
    """Perturbed-attention guidance."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        scale = io.Float.Input("scale", default=3.0, min=0.0, max=100.0, step=0.01, round=0.01)
        return patch_schema("PerturbedAttentionGuidance", "model_patches/unet", [scale])

    @classmethod
    def execute(cls, model: Any, scale: float) -> Any:
        """Patch a clone: D + scale (D_pos - D_perturbed); at scale 0 no further pass is made.

        Source: Ahn et al. 2024, "Self-Rectifying Diffusion Sampling with Perturbed-Attention
        Guidance", equation 15.
        """

        def guide(args: dict[str, Any]) -> torch.Tensor:
            result: torch.Tensor = args["denoised"]
            if scale == 0:
                return result
            options = set_model_options_patch_replace(
                dict(args["model_options"]), _own_value, "attn1", "middle", 0
            )
            perturbed = denoised_again(args, args["cond"], args["input"], options)
            return result + (args["cond_denoised"] - perturbed) * scale

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(guide)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(PerturbedAttentionGuidance)

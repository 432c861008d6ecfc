"""Guidance whose two predictions are brought to a common scale."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema, projected

_CATEGORY = "advanced/guidance"


class CFGZeroStar(io.ComfyNode):
    """Scales the negative prediction to fit the positive one before guidance."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return patch_schema("CFGZeroStar", _CATEGORY, [], output="patched_model")

    @classmethod
    def execute(cls, model: Any) -> Any:
        """Replace the result of guidance on a clone.

        With v = x - D, which a velocity is but for a factor, guided is
        a v_neg + s (v_pos - a v_neg), where a v_neg is v_pos projected on v_neg.

        Source: Fan et al. 2025, "CFG-Zero*", equations 8 and 9.
        """

        def guide(args: dict[str, Any]) -> torch.Tensor:
            x: torch.Tensor = args["input"]
            positive, negative = x - args["cond_denoised"], x - args["uncond_denoised"]
            base = projected(positive, negative)
            return x - torch.lerp(base, positive, args["cond_scale"])

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(guide)
        return io.NodeOutput(patched)

    patch = execute


class CFGNorm(io.ComfyNode):
    """Keeps guidance from making a prediction larger than that of the positive prompt."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        strength = io.Float.Input("strength", default=1.0, min=0.0, max=100.0, step=0.01)
        return patch_schema(
            "CFGNorm", _CATEGORY, [strength], output="patched_model", is_experimental=True
        )

    @classmethod
    def execute(cls, model: Any, strength: float) -> Any:
        """Scale the result on a clone, position by position, and by `strength`.

        Where the length over the channels is above that of the positive prediction it is cut to it.
        Source: the pipelines of Qwen-Image, "true cfg" with a rescaled norm.
        """

        def limit(args: dict[str, Any]) -> torch.Tensor:
            result: torch.Tensor = args["denoised"]
            lengths = [
                torch.linalg.vector_norm(one, dim=1, keepdim=True)
                for one in (args["cond_denoised"], result)
            ]
            ratio = lengths[0] / lengths[1].clamp(min=1e-8)
            return result * ratio.clamp(max=1.0) * strength

        patched = model.clone()
        patched.set_model_sampler_post_cfg_function(limit)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(CFGZeroStar, CFGNorm)

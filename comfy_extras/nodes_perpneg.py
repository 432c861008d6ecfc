"""Negative prompts that take away only what is not of the positive one."""

from __future__ import annotations

from typing import Any

import torch

import comfy.sampler_helpers
import comfy.samplers
from comfy.conditioning import process_conds
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import denoised_again, patch_schema, projected
from comfy_extras.sampling.guider_nodes import cfg_input

_CATEGORY = "_for_testing"


def perp_neg(
    positive: torch.Tensor,
    negative: torch.Tensor,
    empty: torch.Tensor,
    neg_scale: float,
    scale: float,
) -> torch.Tensor:
    """Guide: D_e + s (p - w n'), p and n the predictions less D_e, n' what of n is across p.

    Source: Armandpour et al. 2023, "Re-imagine the Negative Prompt Algorithm: Perp-Neg", section 4.

    Args:
        positive: D of the positive prompt, [B, C, ...]; so are the next two.
        negative: Of the negative prompt.
        empty: Of an empty prompt.
        neg_scale: w.
        scale: s.
    """
    towards, away = positive - empty, negative - empty
    across = away - projected(away, towards)
    return empty + (towards - across * neg_scale) * scale


def _neg_scale() -> Any:
    return io.Float.Input("neg_scale", default=1.0, min=0.0, max=100.0, step=0.01)


class PerpNeg(io.ComfyNode):
    """Deprecated: a model whose negative prompts are Perp-Neg."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [io.Conditioning.Input("empty_conditioning"), _neg_scale()]
        return patch_schema(
            *("PerpNeg", _CATEGORY, inputs, "Perp-Neg (DEPRECATED by PerpNegGuider)"),
            is_deprecated=True,
            is_experimental=True,
        )

    @classmethod
    def execute(cls, model: Any, empty_conditioning: Any, neg_scale: float) -> Any:
        """Replace the formula of guidance on a clone."""
        converted = comfy.sampler_helpers.convert_cond(empty_conditioning)

        def guide(args: dict[str, Any]) -> torch.Tensor:
            x: torch.Tensor = args["input"]
            prepared = process_conds(
                args["model"], x, {"negative": [dict(one) for one in converted]}, x.device
            )
            empty = denoised_again(args, prepared["negative"], x, args["model_options"])
            both = args["cond_denoised"], args["uncond_denoised"]
            return x - perp_neg(*both, empty, neg_scale, args["cond_scale"])

        patched = model.clone()
        patched.set_model_sampler_cfg_function(guide)
        return io.NodeOutput(patched)

    patch = execute


class Guider_PerpNeg(comfy.samplers.CFGGuider):
    """Perp-Neg with three prompts.

    Attributes:
        neg_scale: Weight of the negative prompt.
    """

    neg_scale: float = 1.0

    def set_conds(self, positive: Any, negative: Any, empty_negative_prompt: Any) -> None:  # type: ignore[override]  # three prompts
        """Set the prompts."""
        empty = {"empty_negative_prompt": empty_negative_prompt}
        self.inner_set_conds({"positive": positive, "negative": negative, **empty})

    def set_cfg(self, cfg: float, neg_scale: float = 1.0) -> None:
        """Set the scales."""
        self.cfg, self.neg_scale = cfg, neg_scale

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
        seed: int | None = None,
    ) -> torch.Tensor:
        """Denoise [B, C, ...] at sigmas [B]; functions that run after guidance run, too."""
        names = ("positive", "negative", "empty_negative_prompt")
        conds = [self.conds.get(name) for name in names]
        found = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        result = perp_neg(found[0], found[1], found[2], self.neg_scale, self.cfg)
        about = {
            "cond": conds[0],
            "uncond": conds[1],
            "empty_cond": conds[2],
            "cond_denoised": found[0],
            "uncond_denoised": found[1],
            "empty_cond_denoised": found[2],
            "cond_scale": self.cfg,
            "model": self.inner_model,
            "sigma": timestep,
            "model_options": model_options,
            "input": x,
        }
        for function in model_options.get("sampler_post_cfg_function", ()):
            result = function({**about, "denoised": result})
        return result


class PerpNegGuider(io.ComfyNode):
    """Perp-Neg between three prompts."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="PerpNegGuider",
            category=_CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Conditioning.Input("empty_conditioning"),
                cfg_input(),
                _neg_scale(),
            ],
            outputs=[io.Guider.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(
        cls,
        model: Any,
        positive: Any,
        negative: Any,
        empty_conditioning: Any,
        cfg: float,
        neg_scale: float,
    ) -> Any:
        """See `Guider_PerpNeg`."""
        guider = Guider_PerpNeg(model)
        guider.set_conds(positive, negative, empty_conditioning)
        guider.set_cfg(cfg, neg_scale)
        return io.NodeOutput(guider)

    get_guider = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(PerpNeg, PerpNegGuider)

"""Deep shrink: a UNet sees less of a large picture while its composition is found."""

from __future__ import annotations

from typing import Any

import torch

import comfy.utils
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import Window, patch_schema, percent_input

_METHODS = ["bicubic", "nearest-exact", "bilinear", "area", "bislerp"]


class PatchModelAddDownscale(io.ComfyNode):
    """Makes features smaller from one input block on, for the first part of a run.

    Source: Kohya's "Deep Shrink" of 2023, as its description says.
    """

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Int.Input("block_number", default=3, min=1, max=32, step=1),
            io.Float.Input("downscale_factor", default=2.0, min=0.1, max=9.0, step=0.001),
            percent_input("start_percent", 0.0),
            percent_input("end_percent", 0.35),
            io.Boolean.Input("downscale_after_skip", default=True),
            io.Combo.Input("downscale_method", options=_METHODS),
            io.Combo.Input("upscale_method", options=_METHODS),
        ]
        name = "PatchModelAddDownscale (Kohya Deep Shrink)"
        return patch_schema("PatchModelAddDownscale", "model_patches/unet", inputs, name)

    @classmethod
    def execute(
        cls,
        model: Any,
        block_number: int,
        downscale_factor: float,
        start_percent: float,
        end_percent: float,
        downscale_after_skip: bool,
        downscale_method: str,
        upscale_method: str,
    ) -> Any:
        """Patch a clone.

        Args:
            block_number: The input block whose result is made smaller.
            downscale_factor: By how much, along both sides.
            start_percent: The part of the model's time at which that begins; with `end_percent`.
            downscale_after_skip: The skip keeps its size, only what goes down is smaller.
            downscale_method: See `comfy.utils.common_upscale`, as for `upscale_method`.
        """
        window = Window.of(model, start_percent, end_percent)

        def shrink(h: torch.Tensor, transformer_options: dict[str, Any]) -> torch.Tensor:
            if tuple(transformer_options["block"]) != ("input", block_number):
                return h
            if not window.holds(transformer_options["sigmas"]):
                return h
            rows, columns = (max(round(side / downscale_factor), 1) for side in h.shape[-2:])
            return comfy.utils.common_upscale(h, columns, rows, downscale_method, "disabled")

        def grow(
            h: torch.Tensor, hsp: torch.Tensor, transformer_options: dict[str, Any]
        ) -> tuple[torch.Tensor, torch.Tensor]:
            rows, columns = hsp.shape[-2:]
            if h.shape[-2:] != hsp.shape[-2:]:
                h = comfy.utils.common_upscale(h, columns, rows, upscale_method, "disabled")
            return h, hsp

        patched = model.clone()
        if downscale_after_skip:
            patched.set_model_input_block_patch_after_skip(shrink)
        else:
            patched.set_model_input_block_patch(shrink)
        patched.set_model_output_block_patch(grow)
        return io.NodeOutput(patched)

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(PatchModelAddDownscale)

"""Guidance with a scale of its own for coarse and for fine structures."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema
from comfy_extras.guidance.spectrum import scale_frequencies


class FreSca(io.ComfyNode):
    """Scales low and high frequencies of guidance."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Float.Input("scale_low", default=1.0, min=0, max=10, step=0.01),
            io.Float.Input("scale_high", default=1.25, min=0, max=10, step=0.01),
            io.Int.Input("freq_cutoff", default=20, min=1, max=10000, step=1),
        ]
        return patch_schema("FreSca", "_for_testing", inputs, is_experimental=True)

    @classmethod
    def execute(cls, model: Any, scale_low: float, scale_high: float, freq_cutoff: int) -> Any:
        """Patch a clone: the difference of both predictions is scaled.

        Source: Huang et al. 2025, "FreSca: Scaling in Frequency Space", section 4.
        """

        def scale(args: dict[str, Any]) -> list[torch.Tensor]:
            positive, negative, *others = args["conds_out"]
            if args["conds"][1] is None:
                return [positive, negative, *others]
            scaled = scale_frequencies(positive - negative, freq_cutoff, scale_low, scale_high)
            return [negative + scaled, negative, *others]

        patched = model.clone()
        patched.set_model_sampler_pre_cfg_function(scale)
        return io.NodeOutput(patched)


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(FreSca)

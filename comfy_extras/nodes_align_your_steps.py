"""Noise levels optimised for a family of models."""

from __future__ import annotations

from typing import Any

import numpy
import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.sampling.schedule_nodes import denoise_input, schema, steps_input

LEVELS = {
    "SD1": [14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029],
    "SDXL": [14.615, 6.315, 3.771, 2.181, 1.342, 0.862, 0.555, 0.380, 0.234, 0.113, 0.029],
    "SVD": [700.00, 54.5, 15.886, 7.977, 4.248, 1.789, 0.981, 0.403, 0.173, 0.034, 0.002],
}
"""Runs of ten steps, as Sabour et al. 2024, "Align Your Steps", published them."""


def aligned_sigmas(model_type: str, steps: int) -> torch.Tensor:
    """The published levels for a number of steps, by interpolation of log sigma; ends at 0.

    Args:
        model_type: One of `LEVELS`.
        steps: How many; [steps + 1] levels are returned, fp32.
    """
    known = numpy.log(LEVELS[model_type])
    places = numpy.linspace(0, len(known) - 1, steps + 1)
    levels = numpy.exp(numpy.interp(places, numpy.arange(len(known)), known))
    levels[-1] = 0.0
    return torch.from_numpy(levels).float()


class AlignYourStepsScheduler(io.ComfyNode):
    """The noise levels of Align Your Steps."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        kinds = io.Combo.Input("model_type", options=list(LEVELS))
        return schema("AlignYourStepsScheduler", [kinds, steps_input(10), denoise_input()])

    @classmethod
    def execute(cls, model_type: str, steps: int, denoise: float) -> Any:
        """The last part of the levels of `steps`: `denoise` says how many of them are run."""
        count = round(steps * min(denoise, 1.0))
        sigmas = aligned_sigmas(model_type, steps)
        return io.NodeOutput(sigmas[-(count + 1) :] if count else torch.empty(0))

    get_sigmas = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(AlignYourStepsScheduler)

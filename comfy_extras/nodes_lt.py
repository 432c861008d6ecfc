"""LTX-Video: the noise levels of its runs, for a number of tokens."""

from __future__ import annotations

import math
from typing import Any

import torch

from comfy.model_sampling import flux_time_shift
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.sampling.schedule_nodes import schema, steps_input

_FEW_TOKENS, _MANY_TOKENS = 1024, 4096


def _shift_input(name: str, default: float) -> Any:
    return io.Float.Input(name, default=default, min=0.0, max=100.0, step=0.01)


def _stretched(sigmas: torch.Tensor, terminal: float) -> torch.Tensor:
    """Let the last level before 0 be `terminal`, and the first stay; what lies between follows."""
    lowest = float(sigmas[-2])
    # A run of one step has no level that could move.
    if lowest == 1.0:
        return sigmas
    levels = 1.0 - (1.0 - sigmas[:-1]) * (1.0 - terminal) / (1.0 - lowest)
    return torch.cat([levels, sigmas[-1:]])


class LTXVScheduler(io.ComfyNode):
    """Even times, shifted towards noise the more tokens there are."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            steps_input(),
            _shift_input("max_shift", 2.05),
            _shift_input("base_shift", 0.95),
            io.Boolean.Input("stretch", default=True),
            io.Float.Input("terminal", default=0.1, min=0.0, max=0.99, step=0.01),
            io.Latent.Input("latent", optional=True),
        ]
        return schema("LTXVScheduler", inputs)

    @classmethod
    def execute(
        cls,
        steps: int,
        max_shift: float,
        base_shift: float,
        stretch: bool,
        terminal: float,
        latent: dict[str, Any] | None = None,
    ) -> Any:
        """Make them: [steps + 1] from 1 to 0, fp32 on the CPU.

        The shift is a line through `base_shift` at 1024 tokens and `max_shift` at 4096, as
        published with the model (Lightricks, LTX-Video).

        Args:
            steps: Of the run.
            max_shift: At 4096 tokens.
            base_shift: At 1024 tokens.
            stretch: Move the levels so that the last one before 0 is `terminal`.
            terminal: See `stretch`.
            latent: Its positions are the tokens; None means 4096.
        """
        tokens = _MANY_TOKENS if latent is None else math.prod(latent["samples"].shape[2:])
        share = (tokens - _FEW_TOKENS) / (_MANY_TOKENS - _FEW_TOKENS)
        shift = base_shift + (max_shift - base_shift) * share
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        sigmas = flux_time_shift(shift, 1.0, times)
        return io.NodeOutput((_stretched(sigmas, terminal) if stretch else sigmas).float())

    get_sigmas = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(LTXVScheduler)

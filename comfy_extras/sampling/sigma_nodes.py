"""Nodes that change SIGMAS, cut them, or read them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.sampling.schedule_nodes import denoise_input, number_input

_CATEGORY = "sampling/custom_sampling/sigmas"
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# A flipped schedule begins with this instead of 0, at which networks have no time step.
_FIRST_SIGMA = 0.0001

_CURVES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "linear": lambda part: part,
    "cosine": lambda part: (part * (math.pi / 2)).sin(),
    "sine": lambda part: 1.0 - (part * (math.pi / 2)).cos(),
}
"""How far the way to the next level is gone after a part (0 to 1) of the steps between."""


def _halves(name: str, inputs: list[Any]) -> Any:
    return io.Schema(
        node_id=name,
        category=_CATEGORY,
        inputs=[io.Sigmas.Input("sigmas"), *inputs],
        outputs=[
            io.Sigmas.Output(display_name="high_sigmas"),
            io.Sigmas.Output(display_name="low_sigmas"),
        ],
    )


def _changed(name: str, inputs: list[Any]) -> Any:
    return io.Schema(
        node_id=name,
        category=_CATEGORY,
        inputs=[io.Sigmas.Input("sigmas"), *inputs],
        outputs=[io.Sigmas.Output()],
    )


def split(sigmas: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The schedule of the steps before one, and of those from it on; they share its level."""
    return sigmas[: step + 1], sigmas[step:]


class SplitSigmas(io.ComfyNode):
    """Cuts a schedule at a step."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return _halves("SplitSigmas", [io.Int.Input("step", default=0, min=0, max=10000)])

    @classmethod
    def execute(cls, sigmas: torch.Tensor, step: int) -> Any:
        """See `split`."""
        return io.NodeOutput(*split(sigmas, step))

    get_sigmas = execute


class SplitSigmasDenoise(io.ComfyNode):
    """Cuts a schedule so that its second half is a part of all steps."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return _halves("SplitSigmasDenoise", [denoise_input()])

    @classmethod
    def execute(cls, sigmas: torch.Tensor, denoise: float) -> Any:
        """Cut before the last `denoise` (0 to 1) of the steps, rounded."""
        steps = max(len(sigmas) - 1, 0)
        return io.NodeOutput(*split(sigmas, steps - round(steps * denoise)))

    get_sigmas = execute


class FlipSigmas(io.ComfyNode):
    """Turns a schedule round: from a picture to its noise."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return _changed("FlipSigmas", [])

    @classmethod
    def execute(cls, sigmas: torch.Tensor) -> Any:
        """Ascending; a first level of 0 becomes 0.0001."""
        flipped = sigmas.flip(0)
        if len(flipped) and flipped[0] == 0:
            flipped[0] = _FIRST_SIGMA
        return io.NodeOutput(flipped)

    get_sigmas = execute


class SetFirstSigma(io.ComfyNode):
    """Lets a schedule begin at another level."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return _changed("SetFirstSigma", [number_input("sigma", 136.0, 20000.0, step=0.001)])

    @classmethod
    def execute(cls, sigmas: torch.Tensor, sigma: float) -> Any:
        """Replace the first level."""
        changed = sigmas.clone()
        changed[:1] = sigma
        return io.NodeOutput(changed)

    set_first_sigma = execute


class ExtendIntermediateSigmas(io.ComfyNode):
    """Divides the steps of a range of levels into smaller ones."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return _changed(
            "ExtendIntermediateSigmas",
            [
                io.Int.Input("steps", default=2, min=1, max=100),
                number_input("start_at_sigma", -1.0, 20000.0, least=-1.0),
                number_input("end_at_sigma", 12.0, 20000.0),
                io.Combo.Input("spacing", options=list(_CURVES)),
            ],
        )

    @classmethod
    def execute(
        cls,
        sigmas: torch.Tensor,
        steps: int,
        start_at_sigma: float,
        end_at_sigma: float,
        spacing: str,
    ) -> Any:
        """Divide.

        Args:
            sigmas: [n], descending.
            steps: Into how many each step that begins in the range is divided.
            start_at_sigma: The highest level of the range; below 0 there is no limit.
            end_at_sigma: The lowest one.
            spacing: One of `_CURVES`.
        """
        highest = math.inf if start_at_sigma < 0 else start_at_sigma
        parts = _CURVES[spacing](torch.arange(steps, device=sigmas.device) / steps)
        starts, ends = sigmas[:-1, None], sigmas[1:, None]
        levels = torch.lerp(starts, ends, parts.to(sigmas))
        is_kept = ((starts >= end_at_sigma) & (starts <= highest)).expand_as(levels).clone()
        is_kept[:, 0] = True
        return io.NodeOutput(torch.cat([levels[is_kept], sigmas[-1:]]))

    extend = execute


class SamplingPercentToSigma(io.ComfyNode):
    """The level that a model has reached after a part of its time."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="SamplingPercentToSigma",
            category=_CATEGORY,
            inputs=[
                io.Model.Input("model"),
                io.Float.Input("sampling_percent", default=0.0, min=0.0, max=1.0, step=0.0001),
                io.Boolean.Input(
                    "return_actual_sigma",
                    default=False,
                    tooltip="Give the model's highest and lowest level at 0 and 1, instead of "
                    "numbers that stand for before the first and after the last step.",
                ),
            ],
            outputs=[io.Float.Output(display_name="sigma_value")],
        )

    @classmethod
    def execute(cls, model: Any, sampling_percent: float, return_actual_sigma: bool) -> Any:
        """The level; at 0 and 1 one that lies outside all others, unless asked for the actual."""
        sampling = model.get_model_object("model_sampling")
        if return_actual_sigma and sampling_percent in (0.0, 1.0):
            is_first = sampling_percent == 0.0
            return io.NodeOutput(float(sampling.sigma_max if is_first else sampling.sigma_min))
        return io.NodeOutput(float(sampling.percent_to_sigma(sampling_percent)))

    get_sigma = execute


class ManualSigmas(io.ComfyNode):
    """Levels that are written down."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="ManualSigmas",
            category="_for_testing/custom_sampling",
            inputs=[io.String.Input("sigmas", default="1, 0.5")],
            outputs=[io.Sigmas.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, sigmas: str) -> Any:
        """All numbers in the text, in their order."""
        return io.NodeOutput(torch.tensor([float(one) for one in _NUMBER.findall(sigmas)]))

    get_sigmas = execute


NODES = [
    SplitSigmas,
    SplitSigmasDenoise,
    FlipSigmas,
    SetFirstSigma,
    ExtendIntermediateSigmas,
    SamplingPercentToSigma,
    ManualSigmas,
]

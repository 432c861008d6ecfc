"""What nodes that patch a model share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import comfy.samplers
from comfy_api.latest import io


def patch_schema(
    name: str,
    category: str,
    inputs: list[Any],
    display_name: str | None = None,
    output: str | None = None,
    **flags: Any,
) -> Any:
    """The schema of a node with a model on both sides.

    Args:
        name: The node id.
        category: Its place in the menu.
        inputs: After the model.
        display_name: Shown instead of the node id.
        output: Name of the output, if it has one.
        flags: Such as `is_experimental`.
    """
    return io.Schema(
        node_id=name,
        display_name=display_name,
        category=category,
        inputs=[io.Model.Input("model"), *inputs],
        outputs=[io.Model.Output(display_name=output)],
        **flags,
    )


def percent_input(name: str, default: float, step: float = 0.001) -> Any:
    """An input for a part of a model's time."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step)


@dataclass(frozen=True)
class Window:
    """A part of a model's time, as noise levels.

    Attributes:
        highest: The level at which it begins.
        lowest: The level at which it ends.
    """

    highest: float
    lowest: float

    @classmethod
    def of(cls, model: Any, start_percent: float, end_percent: float) -> Window:
        """The window between two parts (0 to 1) of a patcher's time."""
        sampling = model.get_model_object("model_sampling")
        to_sigma = sampling.percent_to_sigma
        return cls(float(to_sigma(start_percent)), float(to_sigma(end_percent)))

    def holds(self, sigma: torch.Tensor) -> bool:
        """Whether a level [B], of which the first counts, lies in it; so do both ends."""
        return self.lowest <= sigma.flatten()[0].item() <= self.highest


def denoised_again(args: dict[str, Any], cond: Any, x: torch.Tensor, options: Any) -> torch.Tensor:
    """One more pass of the network, from within a function that runs after guidance.

    Args:
        args: What that function got.
        cond: Prepared conditions.
        x: [B, C, ...], the noisy latent.
        options: Model options of this pass.

    Returns:
        D, of x's shape.
    """
    (denoised,) = comfy.samplers.calc_cond_batch(args["model"], [cond], x, args["sigma"], options)
    return denoised


def projected(what: torch.Tensor, onto: torch.Tensor) -> torch.Tensor:
    """The part of each row of `what` that is parallel to that of `onto`; shapes [B, ...]."""
    flat, axis = what.flatten(1), onto.flatten(1)
    along = (flat * axis).sum(1, keepdim=True) / axis.square().sum(1, keepdim=True).clamp(min=1e-12)
    return (axis * along).reshape_as(what)

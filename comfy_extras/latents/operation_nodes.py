"""Nodes of operations: functions from latent to latent, applied once or at each step.

An operation is called as ``operation(latent=samples)`` and gives samples of the same shape.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.latents.operations import sharpened_directions, tone_mapped

Operation = Callable[..., torch.Tensor]

_CATEGORY = "latent/advanced/operations"


def _schema(node_id: str, inputs: list[Any], output: Any) -> io.Schema:
    return io.Schema(
        node_id=node_id,
        category=_CATEGORY,
        is_experimental=True,
        inputs=inputs,
        outputs=[output],
    )


class LatentApplyOperation(io.ComfyNode):
    """Applies an operation to a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [io.Latent.Input("samples"), io.LatentOperation.Input("operation")]
        return _schema("LatentApplyOperation", inputs, io.Latent.Output())

    @classmethod
    def execute(cls, samples: dict[str, Any], operation: Operation) -> io.NodeOutput:
        """Once."""
        return io.NodeOutput({**samples, "samples": operation(latent=samples["samples"])})

    op = execute


class LatentApplyOperationCFG(io.ComfyNode):
    """Applies an operation to the guidance of each step."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [io.Model.Input("model"), io.LatentOperation.Input("operation")]
        return _schema("LatentApplyOperationCFG", inputs, io.Model.Output())

    @classmethod
    def execute(cls, model: Any, operation: Operation) -> io.NodeOutput:
        """To what the positive prompt adds to the negative; without one, to the prediction."""
        patched = model.clone()
        patched.set_model_sampler_pre_cfg_function(
            functools.partial(_with_operation, operation=operation)
        )
        return io.NodeOutput(patched)

    op = execute


def _with_operation(args: dict[str, Any], operation: Operation) -> list[torch.Tensor]:
    predictions = list(args["conds_out"])
    if len(predictions) == 2:
        positive, negative = predictions
        return [negative + operation(latent=positive - negative), negative]
    return [operation(latent=predictions[0]), *predictions[1:]]


class LatentOperationTonemapReinhard(io.ComfyNode):
    """Compresses long channel vectors."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        factor = io.Float.Input("multiplier", default=1.0, min=0.0, max=100.0, step=0.01)
        return _schema("LatentOperationTonemapReinhard", [factor], io.LatentOperation.Output())

    @classmethod
    def execute(cls, multiplier: float) -> io.NodeOutput:
        """See `comfy_extras.latents.operations.tone_mapped`."""

        def operation(latent: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return tone_mapped(latent, multiplier)

        return io.NodeOutput(operation)

    op = execute


class LatentOperationSharpen(io.ComfyNode):
    """Sharpens a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Int.Input("sharpen_radius", default=9, min=1, max=31, step=1),
            io.Float.Input("sigma", default=1.0, min=0.1, max=10.0, step=0.1),
            io.Float.Input("alpha", default=0.1, min=0.0, max=5.0, step=0.01),
        ]
        return _schema("LatentOperationSharpen", inputs, io.LatentOperation.Output())

    @classmethod
    def execute(cls, sharpen_radius: int, sigma: float, alpha: float) -> io.NodeOutput:
        """See `comfy_extras.latents.operations.sharpened_directions`."""

        def operation(latent: torch.Tensor, **kwargs: Any) -> torch.Tensor:
            return sharpened_directions(latent, sharpen_radius, sigma, alpha)

        return io.NodeOutput(operation)

    op = execute

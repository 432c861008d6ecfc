"""Nodes that add, mix, join and cut latents; the second takes the size of the first."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.latents import operations
from comfy_extras.latents.operations import reshape_latent_to
from node_helpers import MAX_RESOLUTION

Latent = dict[str, Any]

_CATEGORY = "latent/advanced"


def _pair() -> list[Any]:
    return [io.Latent.Input("samples1"), io.Latent.Input("samples2")]


def _schema(node_id: str, inputs: list[Any]) -> io.Schema:
    return io.Schema(
        node_id=node_id, category=_CATEGORY, inputs=inputs, outputs=[io.Latent.Output()]
    )


class LatentAdd(io.ComfyNode):
    """Adds two latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _schema("LatentAdd", _pair())

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent) -> io.NodeOutput:
        """samples1 + samples2."""
        first = samples1["samples"]
        second = reshape_latent_to(first.shape, samples2["samples"])
        return io.NodeOutput({**samples1, "samples": first + second})

    op = execute


class LatentSubtract(io.ComfyNode):
    """Takes one latent from another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _schema("LatentSubtract", _pair())

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent) -> io.NodeOutput:
        """samples1 - samples2."""
        first = samples1["samples"]
        second = reshape_latent_to(first.shape, samples2["samples"])
        return io.NodeOutput({**samples1, "samples": first - second})

    op = execute


class LatentMultiply(io.ComfyNode):
    """Scales the values of a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        factor = io.Float.Input("multiplier", default=1.0, min=-10.0, max=10.0, step=0.01)
        return _schema("LatentMultiply", [io.Latent.Input("samples"), factor])

    @classmethod
    def execute(cls, samples: Latent, multiplier: float) -> io.NodeOutput:
        """samples * multiplier."""
        return io.NodeOutput({**samples, "samples": samples["samples"] * multiplier})

    op = execute


class LatentInterpolate(io.ComfyNode):
    """Mixes two latents, directions and lengths by themselves."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        ratio = io.Float.Input("ratio", default=1.0, min=0.0, max=1.0, step=0.01)
        return _schema("LatentInterpolate", [*_pair(), ratio])

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent, ratio: float) -> io.NodeOutput:
        """See `comfy_extras.latents.operations.interpolated`."""
        first = samples1["samples"]
        second = reshape_latent_to(first.shape, samples2["samples"])
        return io.NodeOutput({**samples1, "samples": operations.interpolated(first, second, ratio)})

    op = execute


class LatentConcat(io.ComfyNode):
    """Puts two latents beside each other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        sides = io.Combo.Input("dim", options=["x", "-x", "y", "-y", "t", "-t"])
        return _schema("LatentConcat", [*_pair(), sides])

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent, dim: str) -> io.NodeOutput:
        """See `comfy_extras.latents.operations.joined`."""
        both = operations.joined(samples1["samples"], samples2["samples"], dim)
        return io.NodeOutput({**samples1, "samples": both})

    op = execute


class LatentCut(io.ComfyNode):
    """Takes a part of a latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        most = MAX_RESOLUTION
        return _schema(
            "LatentCut",
            [
                io.Latent.Input("samples"),
                io.Combo.Input("dim", options=["x", "y", "t"]),
                io.Int.Input("index", default=0, min=-most, max=most, step=1),
                io.Int.Input("amount", default=1, min=1, max=most, step=1),
            ],
        )

    @classmethod
    def execute(cls, samples: Latent, dim: str, index: int, amount: int) -> io.NodeOutput:
        """See `comfy_extras.latents.operations.cut`."""
        part = operations.cut(samples["samples"], dim, index, amount)
        return io.NodeOutput({**samples, "samples": part})

    op = execute


class LatentCutToBatch(io.ComfyNode):
    """Cuts a latent into slices, which become a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _schema(
            "LatentCutToBatch",
            [
                io.Latent.Input("samples"),
                io.Combo.Input("dim", options=["t", "x", "y"]),
                io.Int.Input("slice_size", default=1, min=1, max=MAX_RESOLUTION, step=1),
            ],
        )

    @classmethod
    def execute(cls, samples: Latent, dim: str, slice_size: int) -> io.NodeOutput:
        """See `comfy_extras.latents.operations.cut_to_batch`."""
        slices = operations.cut_to_batch(samples["samples"], dim, slice_size)
        # Numbers are those of the rows that were cut.
        rest = {key: value for key, value in samples.items() if key != "batch_index"}
        return io.NodeOutput({**rest, "samples": slices})

    op = execute

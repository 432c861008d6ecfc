"""Nodes that join batches of latents, number their rows, and replace frames of videos."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.latents.operations import reshape_latent_to, with_frames
from node_helpers import MAX_RESOLUTION

Latent = dict[str, Any]


def _numbers(latent: Latent) -> list[int]:
    """Which row of a larger batch each one is."""
    return list(latent.get("batch_index") or range(latent["samples"].shape[0]))


def gathered(latents: list[Latent]) -> Latent:
    """One batch of many; all take the size of the first.

    Numbers of rows are joined; a mask, and whatever else there is, is that of the first latent.
    """
    first = latents[0]["samples"]
    parts = [reshape_latent_to(first.shape, one["samples"], False).to(first) for one in latents]
    numbers = [number for one in latents for number in _numbers(one)]
    return {**latents[0], "samples": torch.cat(parts), "batch_index": numbers}


class LatentBatch(io.ComfyNode):
    """Joins two batches."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="LatentBatch",
            category="latent/batch",
            is_deprecated=True,
            inputs=[io.Latent.Input("samples1"), io.Latent.Input("samples2")],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples1: Latent, samples2: Latent) -> io.NodeOutput:
        """See `gathered`."""
        return io.NodeOutput(gathered([samples1, samples2]))

    batch = execute


class LatentBatchSeedBehavior(io.ComfyNode):
    """Says whether the rows of a batch get noise of their own, or all the same."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="LatentBatchSeedBehavior",
            category="latent/advanced",
            inputs=[
                io.Latent.Input("samples"),
                io.Combo.Input("seed_behavior", options=["random", "fixed"], default="fixed"),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls, samples: Latent, seed_behavior: str) -> io.NodeOutput:
        """ "random" drops the numbers of the rows, "fixed" gives all that of the first."""
        if seed_behavior == "fixed":
            numbers = _numbers(samples)
            return io.NodeOutput({**samples, "batch_index": numbers[:1] * len(numbers)})
        rest = {key: value for key, value in samples.items() if key != "batch_index"}
        return io.NodeOutput(rest)

    op = execute


class ReplaceVideoLatentFrames(io.ComfyNode):
    """Puts frames of one video into another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        most = MAX_RESOLUTION
        return io.Schema(
            node_id="ReplaceVideoLatentFrames",
            category="latent/batch",
            description="A negative index counts from the end of the destination.",
            inputs=[
                io.Latent.Input("destination"),
                io.Latent.Input("source", optional=True),
                io.Int.Input("index", default=0, min=-most, max=most, step=1),
            ],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls, destination: Latent, index: int, source: Latent | None = None
    ) -> io.NodeOutput:
        """See `comfy_extras.latents.operations.with_frames`."""
        if source is None:
            return io.NodeOutput(destination)
        replaced = with_frames(destination["samples"], source["samples"], index)
        return io.NodeOutput({**destination, "samples": replaced})

    op = execute

"""Nodes that repeat pictures, take some of them, measure them, add noise to them."""

from __future__ import annotations

import torch

from comfy_api.latest import io
from comfy_extras import node_texts
from comfy_extras.pictures.geometry import with_noise

_MOST = 4096


class RepeatImageBatch(io.ComfyNode):
    """Repeats a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="RepeatImageBatch",
            category="image/batch",
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("amount", default=1, min=1, max=_MOST),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, amount: int) -> io.NodeOutput:
        """The whole batch, `amount` times in a row."""
        return io.NodeOutput(image.repeat((amount, 1, 1, 1)))

    repeat = execute


class ImageFromBatch(io.ComfyNode):
    """Some pictures of a batch."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageFromBatch",
            category="image/batch",
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("batch_index", default=0, min=0, max=_MOST - 1),
                io.Int.Input("length", default=1, min=1, max=_MOST),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, batch_index: int, length: int) -> io.NodeOutput:
        """From `batch_index` on, or the last one; at most `length`."""
        first = min(batch_index, image.shape[0] - 1)
        return io.NodeOutput(image[first : first + length].clone())

    frombatch = execute


class ImageAddNoise(io.ComfyNode):
    """Adds normal noise to a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageAddNoise",
            category="image",
            inputs=[
                io.Image.Input("image"),
                io.Int.Input("seed", default=0, min=0, max=2**64 - 1, control_after_generate=True),
                io.Float.Input("strength", default=0.5, min=0.0, max=1.0, step=0.01),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, seed: int, strength: float) -> io.NodeOutput:
        """See `comfy_extras.pictures.geometry.with_noise`."""
        return io.NodeOutput(with_noise(image, seed, strength))

    repeat = execute


class GetImageSize(io.ComfyNode):
    """Measures a batch, and shows its size at the node."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="GetImageSize",
            display_name="Get Image Size",
            category="image",
            description="Gives the width and the height in pixels, and the number of images.",
            inputs=[io.Image.Input("image")],
            outputs=[
                io.Int.Output(display_name="width"),
                io.Int.Output(display_name="height"),
                io.Int.Output(display_name="batch_size"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        """Width, height, number."""
        count, height, width = image.shape[:3]
        text = f"{width} x {height} pixels, batch of {count}"
        node_texts.send(text, cls.hidden.unique_id)
        return io.NodeOutput(width, height, count)

    get_size = execute

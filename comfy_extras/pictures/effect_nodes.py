"""Nodes that blend, blur, sharpen pictures and reduce their colours."""

from __future__ import annotations

from typing import Any

import torch

import comfy.utils
from comfy_api.latest import io
from comfy_extras.pictures import filters
from comfy_extras.pictures.blending import MODES, blended
from comfy_extras.pictures.geometry import scaled
from comfy_extras.pictures.quantizing import DITHERS, quantized
from node_helpers import image_alpha_fix

_CATEGORY = "image/postprocessing"


def _radius(name: str) -> io.Int.Input:
    return io.Int.Input(name, default=1, min=1, max=31, step=1)


def _schema(node_id: str, inputs: list[Any]) -> io.Schema:
    """A node that gives a picture."""
    return io.Schema(
        node_id=node_id, category=_CATEGORY, inputs=inputs, outputs=[io.Image.Output()]
    )


class Blend(io.ComfyNode):
    """Mixes two pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Image.Input("image1"),
            io.Image.Input("image2"),
            io.Float.Input("blend_factor", default=0.5, min=0.0, max=1.0, step=0.01),
            io.Combo.Input("blend_mode", options=list(MODES)),
        ]
        return _schema("ImageBlend", inputs)

    @classmethod
    def execute(
        cls, image1: torch.Tensor, image2: torch.Tensor, blend_factor: float, blend_mode: str
    ) -> io.NodeOutput:
        """The second takes size and batch of the first, unless that is one picture for all.

        See `comfy_extras.pictures.blending.blended`.
        """
        under, over = image_alpha_fix(image1, image2.to(image1))
        if over.shape[1:3] != under.shape[1:3]:
            over = scaled(over, under.shape[2], under.shape[1], "bicubic", "center")
        if under.shape[0] > 1:
            over = comfy.utils.repeat_to_batch_size(over, under.shape[0])
        return io.NodeOutput(blended(under, over, blend_mode, blend_factor))

    blend_images = execute


class Blur(io.ComfyNode):
    """Blurs a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Image.Input("image"),
            _radius("blur_radius"),
            io.Float.Input("sigma", default=1.0, min=0.1, max=10.0, step=0.1),
        ]
        return _schema("ImageBlur", inputs)

    @classmethod
    def execute(cls, image: torch.Tensor, blur_radius: int, sigma: float) -> io.NodeOutput:
        """See `comfy_extras.pictures.filters.blurred`."""
        planes = filters.blurred(image.movedim(-1, 1), blur_radius, sigma)
        return io.NodeOutput(planes.movedim(1, -1))

    blur = execute


class Quantize(io.ComfyNode):
    """Reduces a picture to few colours."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Image.Input("image"),
            io.Int.Input("colors", default=256, min=1, max=256, step=1),
            io.Combo.Input("dither", options=list(DITHERS)),
        ]
        return _schema("ImageQuantize", inputs)

    @classmethod
    def execute(cls, image: torch.Tensor, colors: int, dither: str) -> io.NodeOutput:
        """See `comfy_extras.pictures.quantizing.quantized`."""
        return io.NodeOutput(quantized(image, colors, dither))

    quantize = execute


class Sharpen(io.ComfyNode):
    """Sharpens a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Image.Input("image"),
            _radius("sharpen_radius"),
            io.Float.Input("sigma", default=1.0, min=0.1, max=10.0, step=0.01),
            io.Float.Input("alpha", default=1.0, min=0.0, max=5.0, step=0.01),
        ]
        return _schema("ImageSharpen", inputs)

    @classmethod
    def execute(
        cls, image: torch.Tensor, sharpen_radius: int, sigma: float, alpha: float
    ) -> io.NodeOutput:
        """See `comfy_extras.pictures.filters.sharpened`; 0 to 1."""
        planes = filters.sharpened(image.movedim(-1, 1), sharpen_radius, sigma, alpha)
        return io.NodeOutput(planes.movedim(1, -1).clamp(0.0, 1.0))

    sharpen = execute

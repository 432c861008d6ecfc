"""Nodes that cut, turn, scale, pad and join pictures."""

from __future__ import annotations

import torch

from comfy_api.latest import io
from comfy_extras.pictures import geometry
from comfy_extras.pictures.stitching import COLOURS, DIRECTIONS, stitch
from node_helpers import MAX_RESOLUTION

_TRANSFORM = "image/transform"
_GROUNDS = {"white": 1.0, "black": 0.0}


def _pixels(name: str, default: int = 512, least: int = 1) -> io.Int.Input:
    return io.Int.Input(name, default=default, min=least, max=MAX_RESOLUTION, step=1)


class ImageCrop(io.ComfyNode):
    """Cuts a rectangle out of a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageCrop",
            display_name="Image Crop",
            category=_TRANSFORM,
            inputs=[
                io.Image.Input("image"),
                _pixels("width"),
                _pixels("height"),
                _pixels("x", 0, 0),
                _pixels("y", 0, 0),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, width: int, height: int, x: int, y: int) -> io.NodeOutput:
        """See `comfy_extras.pictures.geometry.cut`."""
        return io.NodeOutput(geometry.cut(image, x, y, width, height))

    crop = execute


class ImageStitch(io.ComfyNode):
    """Puts two pictures beside each other."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageStitch",
            display_name="Image Stitch",
            category=_TRANSFORM,
            description="Puts image2 at one side of image1; without image2, image1 stays as it is.",
            inputs=[
                io.Image.Input("image1"),
                io.Combo.Input("direction", options=list(DIRECTIONS), default="right"),
                io.Boolean.Input("match_image_size", default=True),
                io.Int.Input("spacing_width", default=0, min=0, max=1024, step=2),
                io.Combo.Input("spacing_color", options=list(COLOURS), default="white"),
                io.Image.Input("image2", optional=True),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        image1: torch.Tensor,
        direction: str,
        match_image_size: bool,
        spacing_width: int,
        spacing_color: str,
        image2: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """See `comfy_extras.pictures.stitching.stitch`."""
        if image2 is None:
            return io.NodeOutput(image1)
        how = (direction, match_image_size, spacing_width, spacing_color)
        return io.NodeOutput(stitch(image1, image2, *how))

    stitch = execute


class ResizeAndPadImage(io.ComfyNode):
    """Fits a picture into a size and fills what is left over."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        methods = ["area", "bicubic", "nearest-exact", "bilinear", "lanczos"]
        return io.Schema(
            node_id="ResizeAndPadImage",
            category=_TRANSFORM,
            inputs=[
                io.Image.Input("image"),
                _pixels("target_width"),
                _pixels("target_height"),
                io.Combo.Input("padding_color", options=list(_GROUNDS)),
                io.Combo.Input("interpolation", options=methods),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        target_width: int,
        target_height: int,
        padding_color: str,
        interpolation: str,
    ) -> io.NodeOutput:
        """See `comfy_extras.pictures.geometry.padded_to`."""
        ground = _GROUNDS[padding_color]
        return io.NodeOutput(
            geometry.padded_to(image, target_width, target_height, ground, interpolation)
        )

    resize_and_pad = execute


class ImageRotate(io.ComfyNode):
    """Turns a picture clockwise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageRotate",
            category=_TRANSFORM,
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("rotation", options=list(geometry.TURNS)),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, rotation: str) -> io.NodeOutput:
        """See `comfy_extras.pictures.geometry.turned`."""
        return io.NodeOutput(geometry.turned(image, rotation))

    rotate = execute


class ImageFlip(io.ComfyNode):
    """Mirrors a picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        ways = ["x-axis: vertically", "y-axis: horizontally"]
        return io.Schema(
            node_id="ImageFlip",
            category=_TRANSFORM,
            inputs=[io.Image.Input("image"), io.Combo.Input("flip_method", options=ways)],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, flip_method: str) -> io.NodeOutput:
        """See `comfy_extras.pictures.geometry.mirrored`."""
        return io.NodeOutput(geometry.mirrored(image, flip_method))

    flip = execute


class ImageScaleToMaxDimension(io.ComfyNode):
    """Scales a picture until its longer side has a length."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        # "bilinear" stands twice in ComfyUI's list, too.
        methods = ["area", "lanczos", "bilinear", "nearest-exact", "bilinear", "bicubic"]
        return io.Schema(
            node_id="ImageScaleToMaxDimension",
            category="image/upscaling",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=methods),
                _pixels("largest_size", 512, 0),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, upscale_method: str, largest_size: int) -> io.NodeOutput:
        """See `comfy_extras.pictures.geometry.to_longest`."""
        return io.NodeOutput(geometry.to_longest(image, largest_size, upscale_method))

    upscale = execute

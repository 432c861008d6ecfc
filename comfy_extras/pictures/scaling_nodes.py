"""Nodes that scale pictures and masks to an area, or in one of many ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.pictures.geometry import scaled, total_pixels_size
from node_helpers import MAX_RESOLUTION

_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]
_CROPS = ["disabled", "center"]

Size = tuple[int, int]
"""Width and height in pixels."""


class ImageScaleToTotalPixels(io.ComfyNode):
    """Scales a picture to an area."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageScaleToTotalPixels",
            category="image/upscaling",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("upscale_method", options=list(_METHODS)),
                _megapixels(),
                io.Int.Input("resolution_steps", default=1, min=1, max=256),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        image: torch.Tensor,
        upscale_method: str,
        megapixels: float,
        resolution_steps: int = 1,
    ) -> io.NodeOutput:
        """See `comfy_extras.pictures.geometry.total_pixels_size`."""
        rows, columns = image.shape[1:3]
        width, height = total_pixels_size(columns, rows, megapixels, resolution_steps)
        return io.NodeOutput(scaled(image, width, height, upscale_method))

    upscale = execute


def _megapixels() -> io.Float.Input:
    return io.Float.Input("megapixels", default=1.0, min=0.01, max=16.0, step=0.01)


def _pixels(name: str) -> io.Int.Input:
    return io.Int.Input(name, default=512, min=0, max=MAX_RESOLUTION, step=1)


def _crop() -> io.Combo.Input:
    return io.Combo.Input("crop", options=list(_CROPS), default="center")


def _times(size: Size, factor: float) -> Size:
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _dimensions(size: Size, given: dict[str, Any]) -> Size:
    """A side of 0 follows from the other at the same aspect."""
    width, height = given["width"], given["height"]
    if width == 0 and height == 0:
        return size
    if width == 0:
        return _times(size, height / size[1])[0], height
    return width, height or _times(size, width / size[0])[1]


def _to_match(size: Size, given: dict[str, Any]) -> Size:
    match = given["match"]
    # A picture's channels come last; a mask has none.
    rows, columns = match.shape[1:3] if match.ndim > 3 else match.shape[-2:]
    return columns, rows


_WAYS: dict[str, Callable[[Size, dict[str, Any]], Size]] = {
    "scale by multiplier": lambda size, given: _times(size, given["multiplier"]),
    "scale dimensions": _dimensions,
    "scale longer dimension": lambda size, given: _times(size, given["longer_size"] / max(size)),
    "scale shorter dimension": lambda size, given: _times(size, given["shorter_size"] / min(size)),
    "scale width": lambda size, given: _dimensions(size, {**given, "height": 0}),
    "scale height": lambda size, given: _dimensions(size, {**given, "width": 0}),
    "scale total pixels": lambda size, given: total_pixels_size(*size, given["megapixels"], 1),
    "match size": _to_match,
}


def _options() -> list[Any]:
    """What each of the ways asks for."""
    option = io.DynamicCombo.Option
    factor = io.Float.Input("multiplier", default=1.0, min=0.01, max=8.0, step=0.01)
    match = io.MultiType.Input("match", [io.Image, io.Mask])
    return [
        option("scale by multiplier", [factor]),
        option("scale dimensions", [_pixels("width"), _pixels("height"), _crop()]),
        option("scale longer dimension", [_pixels("longer_size")]),
        option("scale shorter dimension", [_pixels("shorter_size")]),
        option("scale width", [_pixels("width")]),
        option("scale height", [_pixels("height")]),
        option("scale total pixels", [_megapixels()]),
        option("match size", [match, _crop()]),
    ]


class ResizeImageMaskNode(io.ComfyNode):
    """Scales a picture or a mask in one of many ways."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        template = io.MatchType.Template("input_type", [io.Image, io.Mask])
        return io.Schema(
            node_id="ResizeImageMaskNode",
            display_name="Resize Image/Mask",
            category="transform",
            inputs=[
                io.MatchType.Input("input", template=template),
                io.DynamicCombo.Input("resize_type", options=_options()),
                io.Combo.Input("scale_method", options=list(_METHODS), default="area"),
            ],
            outputs=[io.MatchType.Output(template=template, display_name="resized")],
        )

    @classmethod
    def execute(
        cls, input: torch.Tensor, resize_type: dict[str, Any], scale_method: str
    ) -> io.NodeOutput:
        """A picture has four axes, a mask three; both keep their kind."""
        is_mask = input.ndim < 4
        image = input.reshape(-1, *input.shape[-2:], 1) if is_mask else input
        rows, columns = image.shape[1:3]
        way = resize_type["resize_type"]
        width, height = _WAYS[way]((columns, rows), resize_type)
        result = scaled(image, width, height, scale_method, resize_type.get("crop", "disabled"))
        return io.NodeOutput(result[..., 0] if is_mask else result)

"""Masks: made, changed, compared, and used to lay one thing over another."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io, ui
from comfy_extras.extension import Extension
from comfy_extras.masks.compositing import composite as composite
from comfy_extras.masks.shapes import OPERATIONS, as_batch, combine, feather, grow, where_colour
from node_helpers import MAX_RESOLUTION, image_alpha_fix

_CHANNELS = ("red", "green", "blue", "alpha")


def _place(name: str, step: int = 1) -> io.Int.Input:
    return io.Int.Input(name, default=0, min=0, max=MAX_RESOLUTION, step=step)


def _size(name: str) -> io.Int.Input:
    return io.Int.Input(name, default=512, min=1, max=MAX_RESOLUTION, step=1)


def _part(name: str, default: float) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=0.01)


def _laying(kind: Any, step: int) -> list[Any]:
    """What both compositing nodes ask for."""
    return [
        kind.Input("destination"),
        kind.Input("source"),
        _place("x", step),
        _place("y", step),
        io.Boolean.Input("resize_source", default=False),
        io.Mask.Input("mask", optional=True),
    ]


def _mask_schema(node_id: str, inputs: list[Any], display_name: str | None = None) -> io.Schema:
    """A node that gives a mask."""
    return io.Schema(
        node_id=node_id,
        display_name=display_name,
        category="mask",
        inputs=inputs,
        outputs=[io.Mask.Output()],
    )


class LatentCompositeMasked(io.ComfyNode):
    """Lays one latent over another through a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="LatentCompositeMasked",
            category="latent",
            inputs=_laying(io.Latent, 8),
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(
        cls,
        destination: dict[str, Any],
        source: dict[str, Any],
        x: int,
        y: int,
        resize_source: bool,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """Place and mask are in pixels, eight to an element."""
        laid = composite(destination["samples"], source["samples"], x, y, mask, 8, resize_source)
        return io.NodeOutput({**destination, "samples": laid})

    composite = execute


class ImageCompositeMasked(io.ComfyNode):
    """Lays one picture over another through a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageCompositeMasked",
            category="image",
            inputs=_laying(io.Image, 1),
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls,
        destination: torch.Tensor,
        source: torch.Tensor,
        x: int,
        y: int,
        resize_source: bool,
        mask: torch.Tensor | None = None,
    ) -> io.NodeOutput:
        """The result has the channels of `destination`."""
        under, over = image_alpha_fix(destination, source)
        planes = [image.movedim(-1, 1) for image in (under, over)]
        laid = composite(planes[0], planes[1], x, y, mask, 1, resize_source)
        return io.NodeOutput(laid.movedim(1, -1))

    composite = execute


class MaskToImage(io.ComfyNode):
    """A mask as a grey picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="MaskToImage",
            display_name="Convert Mask to Image",
            category="mask",
            inputs=[io.Mask.Input("mask")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, mask: torch.Tensor) -> io.NodeOutput:
        """Three equal channels."""
        return io.NodeOutput(as_batch(mask)[..., None].expand(-1, -1, -1, 3))

    mask_to_image = execute


class ImageToMask(io.ComfyNode):
    """One channel of a picture as a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _mask_schema(
            "ImageToMask",
            [io.Image.Input("image"), io.Combo.Input("channel", options=list(_CHANNELS))],
            "Convert Image to Mask",
        )

    @classmethod
    def execute(cls, image: torch.Tensor, channel: str) -> io.NodeOutput:
        """Raise ValueError if the picture lacks the channel."""
        number = _CHANNELS.index(channel)
        if number >= image.shape[-1]:
            raise ValueError(
                f"The picture has {image.shape[-1]} channels and none for {channel}. Choose "
                "another channel, or give a picture that has this one."
            )
        return io.NodeOutput(image[..., number])

    image_to_mask = execute


class ImageColorToMask(io.ComfyNode):
    """Where a picture has one colour."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Image.Input("image"),
            io.Int.Input(
                "color",
                default=0,
                min=0,
                max=0xFFFFFF,
                step=1,
                display_mode=io.NumberDisplay.number,
            ),
        ]
        return _mask_schema("ImageColorToMask", inputs)

    @classmethod
    def execute(cls, image: torch.Tensor, color: int) -> io.NodeOutput:
        """The colour is 0xRRGGBB."""
        return io.NodeOutput(where_colour(image, color))

    image_to_mask = execute


class SolidMask(io.ComfyNode):
    """A mask of one value."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _mask_schema("SolidMask", [_part("value", 1.0), _size("width"), _size("height")])

    @classmethod
    def execute(cls, value: float, width: int, height: int) -> io.NodeOutput:
        """Fill (1, height, width)."""
        return io.NodeOutput(torch.full((1, height, width), value, dtype=torch.float32))

    solid = execute


class InvertMask(io.ComfyNode):
    """The rest of a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _mask_schema("InvertMask", [io.Mask.Input("mask")])

    @classmethod
    def execute(cls, mask: torch.Tensor) -> io.NodeOutput:
        """1 - mask."""
        return io.NodeOutput(1.0 - mask)

    invert = execute


class CropMask(io.ComfyNode):
    """A rectangle of a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Mask.Input("mask"),
            _place("x"),
            _place("y"),
            _size("width"),
            _size("height"),
        ]
        return _mask_schema("CropMask", inputs)

    @classmethod
    def execute(cls, mask: torch.Tensor, x: int, y: int, width: int, height: int) -> io.NodeOutput:
        """What lies outside of the mask is left out."""
        return io.NodeOutput(as_batch(mask)[:, y : y + height, x : x + width])

    crop = execute


class MaskComposite(io.ComfyNode):
    """Combines two masks."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Mask.Input("destination"),
            io.Mask.Input("source"),
            _place("x"),
            _place("y"),
            io.Combo.Input("operation", options=list(OPERATIONS)),
        ]
        return _mask_schema("MaskComposite", inputs)

    @classmethod
    def execute(
        cls, destination: torch.Tensor, source: torch.Tensor, x: int, y: int, operation: str
    ) -> io.NodeOutput:
        """See `comfy_extras.masks.shapes.combine`."""
        return io.NodeOutput(combine(destination, source, x, y, operation))

    combine = execute


class FeatherMask(io.ComfyNode):
    """Fades a mask out towards its edges."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        edges = [_place(edge) for edge in ("left", "top", "right", "bottom")]
        return _mask_schema("FeatherMask", [io.Mask.Input("mask"), *edges])

    @classmethod
    def execute(
        cls, mask: torch.Tensor, left: int, top: int, right: int, bottom: int
    ) -> io.NodeOutput:
        """See `comfy_extras.masks.shapes.feather`."""
        return io.NodeOutput(feather(mask, left, top, right, bottom))

    feather = execute


class GrowMask(io.ComfyNode):
    """Makes a mask larger or smaller all round."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        inputs = [
            io.Mask.Input("mask"),
            io.Int.Input("expand", default=0, min=-MAX_RESOLUTION, max=MAX_RESOLUTION, step=1),
            io.Boolean.Input("tapered_corners", default=True),
        ]
        return _mask_schema("GrowMask", inputs, "Grow Mask")

    @classmethod
    def execute(cls, mask: torch.Tensor, expand: int, tapered_corners: bool) -> io.NodeOutput:
        """See `comfy_extras.masks.shapes.grow`."""
        return io.NodeOutput(grow(mask, expand, tapered_corners))

    expand_mask = execute


class ThresholdMask(io.ComfyNode):
    """Makes a mask hard."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _mask_schema("ThresholdMask", [io.Mask.Input("mask"), _part("value", 0.5)])

    @classmethod
    def execute(cls, mask: torch.Tensor, value: float) -> io.NodeOutput:
        """1 above `value`, else 0."""
        return io.NodeOutput((mask > value).float())

    image_to_mask = execute


class MaskPreview(io.ComfyNode):
    """Shows a mask on the page."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="MaskPreview",
            display_name="Preview Mask",
            category="mask",
            description="Shows the mask without keeping it.",
            inputs=[io.Mask.Input("mask")],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, mask: torch.Tensor) -> io.NodeOutput:
        """Write it into the temporary folder."""
        return io.NodeOutput(ui=ui.PreviewMask(mask))


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(
        LatentCompositeMasked,
        ImageCompositeMasked,
        MaskToImage,
        ImageToMask,
        ImageColorToMask,
        SolidMask,
        InvertMask,
        CropMask,
        MaskComposite,
        FeatherMask,
        GrowMask,
        ThresholdMask,
        MaskPreview,
    )

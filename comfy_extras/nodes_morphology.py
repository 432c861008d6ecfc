"""Grey morphology of pictures, and their brightness apart from their colours."""

from __future__ import annotations

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.pictures import yuv
from comfy_extras.pictures.filters import MORPHOLOGY


class ImageMorphology(io.ComfyNode):
    """Makes bright or dark parts larger or smaller, or shows what that changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="Morphology",
            display_name="ImageMorphology",
            category="image/postprocessing",
            inputs=[
                io.Image.Input("image"),
                io.Combo.Input("operation", options=list(MORPHOLOGY)),
                io.Int.Input("kernel_size", default=3, min=3, max=999, step=1),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor, operation: str, kernel_size: int) -> io.NodeOutput:
        """In a square of `kernel_size` pixels."""
        planes = MORPHOLOGY[operation](image.movedim(-1, 1), kernel_size)
        return io.NodeOutput(planes.movedim(1, -1))

    process = execute


class ImageRGBToYUV(io.ComfyNode):
    """Takes brightness and colours apart."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageRGBToYUV",
            category="image/batch",
            inputs=[io.Image.Input("image")],
            outputs=[io.Image.Output(display_name=name) for name in "YUV"],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> io.NodeOutput:
        """Each as a picture of three equal channels; U and V lie around 0."""
        parts = yuv.from_rgb(image).split(1, dim=-1)
        return io.NodeOutput(*(part.expand(*part.shape[:-1], 3) for part in parts))


class ImageYUVToRGB(io.ComfyNode):
    """Puts brightness and colours together."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="ImageYUVToRGB",
            category="image/batch",
            inputs=[io.Image.Input(name) for name in "YUV"],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, Y: torch.Tensor, U: torch.Tensor, V: torch.Tensor) -> io.NodeOutput:
        """Of each, the mean of its channels counts."""
        parts = torch.cat([part.mean(dim=-1, keepdim=True) for part in (Y, U, V)], dim=-1)
        return io.NodeOutput(yuv.to_rgb(parts))


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(ImageMorphology, ImageRGBToYUV, ImageYUVToRGB)

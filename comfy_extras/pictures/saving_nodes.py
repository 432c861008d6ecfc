"""Nodes that write animations and vector pictures into the output folder."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io, ui
from comfy_extras.pictures import svg as svg_files

_EFFORTS = {"default": 4, "fastest": 0, "slowest": 6}


def _shared() -> list[Any]:
    """What both animations ask for."""
    return [
        io.Image.Input("images"),
        io.String.Input("filename_prefix", default="ComfyUI"),
        io.Float.Input("fps", default=6.0, min=0.01, max=1000.0, step=0.01),
    ]


class SaveAnimatedWEBP(io.ComfyNode):
    """Writes a batch as one animation."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SaveAnimatedWEBP",
            category="image/animation",
            inputs=[
                *_shared(),
                io.Boolean.Input("lossless", default=True),
                io.Int.Input("quality", default=80, min=0, max=100),
                io.Combo.Input("method", options=list(_EFFORTS)),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        filename_prefix: str,
        fps: float,
        lossless: bool,
        quality: int,
        method: str,
    ) -> io.NodeOutput:
        """`fps` pictures a second; `method` trades time for size."""
        saved = ui.ImageSaveHelper.get_save_animated_webp_ui(
            images=images,
            filename_prefix=filename_prefix,
            cls=cls,
            fps=fps,
            lossless=lossless,
            quality=quality,
            method=_EFFORTS[method],
        )
        return io.NodeOutput(ui=saved)

    save_images = execute


class SaveAnimatedPNG(io.ComfyNode):
    """Writes a batch as one animation, without loss."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SaveAnimatedPNG",
            category="image/animation",
            inputs=[*_shared(), io.Int.Input("compress_level", default=4, min=0, max=9)],
            is_output_node=True,
        )

    @classmethod
    def execute(
        cls, images: torch.Tensor, filename_prefix: str, fps: float, compress_level: int
    ) -> io.NodeOutput:
        """`fps` pictures a second."""
        saved = ui.ImageSaveHelper.get_save_animated_png_ui(
            images=images,
            filename_prefix=filename_prefix,
            cls=cls,
            fps=fps,
            compress_level=compress_level,
        )
        return io.NodeOutput(ui=saved)

    save_images = execute


class SaveSVGNode(io.ComfyNode):
    """Writes vector pictures."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SaveSVGNode",
            category="image/save",
            description="Saves vector pictures to the output folder, with the workflow inside.",
            inputs=[
                io.SVG.Input("svg"),
                io.String.Input("filename_prefix", default="svg/ComfyUI"),
            ],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, svg: svg_files.SVG, filename_prefix: str) -> io.NodeOutput:
        """See `comfy_extras.pictures.svg.save`."""
        hidden = cls.hidden
        records = svg_files.save(svg, filename_prefix, hidden.prompt, hidden.extra_pnginfo)
        return io.NodeOutput(ui={"images": records})

    save_svg = execute

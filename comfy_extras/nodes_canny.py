"""Edges of pictures, as control nets want them."""

from __future__ import annotations

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.pictures.canny import canny


def _threshold(name: str, default: float) -> io.Float.Input:
    return io.Float.Input(name, default=default, min=0.01, max=0.99, step=0.01)


class Canny(io.ComfyNode):
    """White lines where brightness changes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="Canny",
            category="image/preprocessors",
            inputs=[
                io.Image.Input("image"),
                _threshold("low_threshold", 0.4),
                _threshold("high_threshold", 0.8),
            ],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(
        cls, image: torch.Tensor, low_threshold: float, high_threshold: float
    ) -> io.NodeOutput:
        """Three equal channels; see `comfy_extras.pictures.canny`."""
        lines = canny(image, low_threshold, high_threshold)
        return io.NodeOutput(lines[..., None].repeat(1, 1, 1, 3))

    detect_edge = execute


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(Canny)

"""Pictures after they were made: effects, sizes, batches."""

from __future__ import annotations

from comfy_extras.extension import Extension
from comfy_extras.pictures.effect_nodes import Blend, Blur, Quantize, Sharpen
from comfy_extras.pictures.gathering_nodes import (
    BatchImagesNode,
    BatchLatentsNode,
    BatchMasksNode,
)
from comfy_extras.pictures.scaling_nodes import ImageScaleToTotalPixels, ResizeImageMaskNode


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(
        Blend,
        Blur,
        Quantize,
        Sharpen,
        ImageScaleToTotalPixels,
        ResizeImageMaskNode,
        BatchImagesNode,
        BatchMasksNode,
        BatchLatentsNode,
    )

"""Pictures: cut, turned, scaled, joined, measured, and written as animations."""

from __future__ import annotations

from comfy_extras.extension import Extension
from comfy_extras.pictures.batch_nodes import (
    GetImageSize,
    ImageAddNoise,
    ImageFromBatch,
    RepeatImageBatch,
)
from comfy_extras.pictures.saving_nodes import SaveAnimatedPNG, SaveAnimatedWEBP, SaveSVGNode
from comfy_extras.pictures.svg import SVG as SVG
from comfy_extras.pictures.transform_nodes import (
    ImageCrop,
    ImageFlip,
    ImageRotate,
    ImageScaleToMaxDimension,
    ImageStitch,
    ResizeAndPadImage,
)


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(
        ImageCrop,
        RepeatImageBatch,
        ImageFromBatch,
        ImageAddNoise,
        SaveAnimatedWEBP,
        SaveAnimatedPNG,
        SaveSVGNode,
        ImageStitch,
        ResizeAndPadImage,
        GetImageSize,
        ImageRotate,
        ImageFlip,
        ImageScaleToMaxDimension,
    )

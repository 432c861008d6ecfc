"""Chroma Radiance, whose latents are pixels."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras import empty_latents
from comfy_extras.extension import Extension


class EmptyChromaRadianceLatentImage(io.ComfyNode):
    """A latent without a picture."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return empty_latents.schema("EmptyChromaRadianceLatentImage", "latent/chroma_radiance")

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> Any:
        """Zeros [batch_size, 3, height, width]."""
        return io.NodeOutput(empty_latents.empty(width, height, batch_size, channels=3, pixels=1))

    generate = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(EmptyChromaRadianceLatentImage)

"""What the upscaler of Stable Diffusion 2 is told: the small picture, and how noisy it is."""

from __future__ import annotations

from typing import Any

import torch

import comfy.utils
from comfy_api.latest import io
from comfy_extras.extension import Extension
from node_helpers import conditioning_set_values

_LATENT_PIXELS = 4
_CHANNELS = 4


class SD_4XUpscale_Conditioning(io.ComfyNode):
    """Puts a picture into both conditionings, and makes the latent of the large one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SD_4XUpscale_Conditioning",
            category="conditioning/upscale_diffusion",
            inputs=[
                io.Image.Input("images"),
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Float.Input("scale_ratio", default=4.0, min=0.0, max=10.0, step=0.01),
                io.Float.Input("noise_augmentation", default=0.0, min=0.0, max=1.0, step=0.001),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(
        cls,
        images: torch.Tensor,
        positive: list[Any],
        negative: list[Any],
        scale_ratio: float,
        noise_augmentation: float,
    ) -> io.NodeOutput:
        """The result is `scale_ratio` times as large; the picture is given at a fourth of that."""
        sides = [max(1, round(side * scale_ratio) // _LATENT_PIXELS) for side in images.shape[1:3]]
        planes = images[..., :3].movedim(-1, 1) * 2.0 - 1.0
        small = comfy.utils.common_upscale(planes, sides[1], sides[0], "bilinear", "center")
        told = {"concat_image": small, "noise_augmentation": noise_augmentation}
        latent = torch.zeros((images.shape[0], _CHANNELS, *sides))
        return io.NodeOutput(
            conditioning_set_values(positive, told),
            conditioning_set_values(negative, told),
            {"samples": latent},
        )

    encode = execute


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(SD_4XUpscale_Conditioning)

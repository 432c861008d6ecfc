"""InstructPix2Pix: a picture that is edited as a prompt says."""

from __future__ import annotations

from typing import Any

import torch

import node_helpers
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.pictures.geometry import middle

_LATENT_PIXELS = 8


class InstructPixToPixConditioning(io.ComfyNode):
    """Gives both prompts a picture to edit."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="InstructPixToPixConditioning",
            category="conditioning/instructpix2pix",
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.Vae.Input("vae"),
                io.Image.Input("pixels"),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
                io.Latent.Output(display_name="latent"),
            ],
        )

    @classmethod
    def execute(cls, positive: Any, negative: Any, pixels: torch.Tensor, vae: Any) -> Any:
        """Encode [B, H, W, C], cut to multiples of 8, for both prompts; the latent is empty."""
        rows, columns = (middle(side, _LATENT_PIXELS) for side in pixels.shape[1:3])
        encoded = vae.encode(pixels[:, rows, columns, :3])
        told = {"concat_latent_image": encoded}
        both = [node_helpers.conditioning_set_values(one, told) for one in (positive, negative)]
        return io.NodeOutput(*both, {"samples": torch.zeros_like(encoded)})

    encode = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(InstructPixToPixConditioning)

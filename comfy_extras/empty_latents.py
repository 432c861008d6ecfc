"""Latents without a picture, for models whose latents are not those of Stable Diffusion."""

from __future__ import annotations

from typing import Any

import torch

import comfy.model_management
from comfy_api.latest import io
from node_helpers import MAX_RESOLUTION


def schema(name: str, category: str, display_name: str | None = None) -> Any:
    """The schema of a node that makes them."""
    return io.Schema(
        node_id=name,
        display_name=display_name,
        category=category,
        inputs=[
            io.Int.Input("width", default=1024, min=16, max=MAX_RESOLUTION, step=16),
            io.Int.Input("height", default=1024, min=16, max=MAX_RESOLUTION, step=16),
            io.Int.Input("batch_size", default=1, min=1, max=4096),
        ],
        outputs=[io.Latent.Output()],
    )


def empty(width: int, height: int, batch_size: int, channels: int, pixels: int) -> dict[str, Any]:
    """Zeros [batch_size, channels, height / pixels, width / pixels], sizes rounded down."""
    shape = (batch_size, channels, height // pixels, width // pixels)
    device = comfy.model_management.intermediate_device()
    return {"samples": torch.zeros(shape, device=device)}

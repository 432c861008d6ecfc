"""Narrow models: the structure of a family with a few thousand weights, for fast tests."""

from __future__ import annotations

from typing import Any

import torch

from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

NARROW_SD15: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 0],
    "transformer_depth_output": [1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
}
"""Numbers that shapes tell, as `comfy.model_detection` names them."""

NARROW_SD20: dict[str, Any] = {
    **NARROW_SD15,
    "model_channels": 64,
    "use_linear_in_transformer": True,
}

NARROW_SDXL: dict[str, Any] = {
    **NARROW_SD20,
    "transformer_depth": [0, 2],
    "transformer_depth_output": [0, 0, 2, 2],
    "transformer_depth_middle": 2,
    "context_dim": 64 + 128,
    "adm_in_channels": 128 + 6 * 256,
    "num_classes": "sequential",
}


def unet_on_meta(numbers: dict[str, Any], prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a UNet with these numbers, without bytes."""
    head_width = {"num_head_channels": 32, "num_heads": -1}
    adm = {"num_classes": "sequential"} if numbers.get("adm_in_channels") else {}
    given = {key: value for key, value in numbers.items() if key != "image_size"}
    network = UNetModel(**{**given, **head_width, **adm}, device="meta")
    return {prefix + key: tensor for key, tensor in network.state_dict().items()}

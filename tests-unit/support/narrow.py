"""Narrow models: the structure of a family with a few thousand weights, for fast tests."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import comfy.ops
from comfy.clip_model import CLIPTextModel
from comfy.clip_vision import CLIPVisionNetwork
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.open_clip_keys import to_open_clip
from support import narrow_clip
from support.layouts import write_weights
from support.raw_files import Spec

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


NARROW_VAE: dict[str, Any] = {
    "z_channels": 4,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "resolution": 256,
    "double_z": True,
    "dropout": 0.0,
}
"""An autoencoder with 8 pixels per position of the latent, as all of the family have."""


def vae_on_meta(prefix: str = "first_stage_model.") -> dict[str, torch.Tensor]:
    """The tensors of an autoencoder, without bytes."""
    network = AutoencoderKL(4, NARROW_VAE, device="meta")
    return {prefix + key: tensor for key, tensor in network.state_dict().items()}


def clip_on_meta(width: int, prefix: str, projection: int | None = None) -> dict[str, torch.Tensor]:
    """The tensors of a text encoder of two layers, under transformers' names, without bytes."""
    numbers = {**narrow_clip.config(width, 2, projection), "vocab_size": 49408}
    network = CLIPTextModel(numbers, None, "meta", comfy.ops.disable_weight_init)
    return {prefix + key: tensor for key, tensor in network.state_dict().items()}


UNET_PREFIX = "model.diffusion_model."


def checkpoint_on_meta(family: str) -> dict[str, torch.Tensor]:
    """The tensors of a narrow checkpoint, without bytes.

    Args:
        family: "SD15", "SD15-inpaint", "SD20", "SD21UnclipL", "SD21UnclipH", "SDXL" or
            "SDXLRefiner".
    """
    if family.startswith("SD21Unclip"):
        return unclip_on_meta(768 if family == "SD21UnclipL" else 32)
    if family.startswith("SD15"):
        numbers = {**NARROW_SD15, "in_channels": 9 if family == "SD15-inpaint" else 4}
        text = clip_on_meta(64, "cond_stage_model.transformer.")
    elif family == "SD20":
        numbers, text = NARROW_SD20, open_clip_on_meta(64, "cond_stage_model.model.")
    elif family == "SDXL":
        numbers = NARROW_SDXL
        text = clip_on_meta(64, "conditioner.embedders.0.transformer.")
        text |= open_clip_on_meta(128, "conditioner.embedders.1.model.")
    else:
        numbers = {**NARROW_SDXL, "context_dim": 128, "adm_in_channels": 128 + 5 * 256}
        text = open_clip_on_meta(128, "conditioner.embedders.0.model.")
    return {**unet_on_meta(numbers, UNET_PREFIX), **text, **vae_on_meta()}


def unclip_on_meta(embedded: int) -> dict[str, torch.Tensor]:
    """The tensors of a checkpoint of SD 2.1 unCLIP, its pictures embedded to so many numbers."""
    numbers = {**NARROW_SD20, "adm_in_channels": 2 * embedded, "num_classes": "sequential"}
    vision = to_open_clip(vision_on_meta(embedded), "", "embedder.model.visual.")
    statistics = {
        f"noise_augmentor.data_{name}": torch.empty(embedded, device="meta")
        for name in ("mean", "std")
    }
    text = open_clip_on_meta(64, "cond_stage_model.model.")
    return {**unet_on_meta(numbers, UNET_PREFIX), **text, **vae_on_meta(), **vision, **statistics}


def vision_on_meta(projection: int) -> dict[str, torch.Tensor]:
    """The tensors of a picture encoder of two layers, under transformers' names, without bytes."""
    numbers = {
        **narrow_clip.config(64, 2, projection),
        "patch_size": 14,
        "positions": 1 + (56 // 14) ** 2,
    }
    network = CLIPVisionNetwork(numbers, None, "meta", comfy.ops.disable_weight_init)
    state: dict[str, torch.Tensor] = network.state_dict()
    return state


def open_clip_on_meta(width: int, prefix: str) -> dict[str, torch.Tensor]:
    """The tensors of a text encoder of two layers, under open_clip's names, without bytes."""
    return to_open_clip(clip_on_meta(width, "", projection=width), "", prefix)


def write_checkpoint(
    path: Path,
    family: str = "SD15",
    encoding: str = "F16",
    *,
    without: tuple[str, ...] = (),
    seed: int = 0,
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write a narrow checkpoint whose network answers with finite numbers.

    Args:
        path: Where.
        family: See `checkpoint_on_meta`.
        encoding: Dtype of all weights.
        without: Prefixes of what is left out.
        seed: Of the values.
        metadata: For the header.
    """
    state = checkpoint_on_meta(family)
    specs = [
        Spec(key, encoding, tuple(tensor.shape))
        for key, tensor in state.items()
        if not key.startswith(without)
    ]
    return write_weights(path, specs, metadata=metadata, seed=seed)

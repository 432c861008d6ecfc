"""CLIP text encoders of few numbers, whose vocabulary is CLIP's own."""

from __future__ import annotations

from typing import Any

import torch

import comfy.ops
from comfy.clip_model import CLIP_L, CLIPTextModel


def config(
    width: int = 32, layers: int = 3, projection: int | None = None, activation: str = "quick_gelu"
) -> dict[str, Any]:
    """The configuration that is derived from `weights` of the same arguments."""
    return {
        **CLIP_L,
        "hidden_size": width,
        "intermediate_size": 2 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": max(width // 64, 1),
        "hidden_act": activation,
        "projection_dim": projection,
    }


def weights(
    width: int = 32, layers: int = 3, projection: int | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Random weights, named as by the transformers library, with which tokens differ well."""
    network = CLIPTextModel(
        config(width, layers, projection), None, "meta", comfy.ops.disable_weight_init
    )
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for key, like in network.state_dict().items():
        mean = 1.0 if "norm" in key and key.endswith("weight") else 0.0
        made[key] = mean + 0.2 * torch.randn(like.shape, generator=generator)
    return made


def open_clip_names(sd: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights as open_clip names them: query, key and value in one, projection turned."""
    renames = {
        "text_model.embeddings.token_embedding": "token_embedding",
        "text_model.embeddings.position_embedding.weight": "positional_embedding",
        "text_model.encoder.layers": "transformer.resblocks",
        "text_model.final_layer_norm": "ln_final",
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    made: dict[str, torch.Tensor] = {"logit_scale": torch.tensor(4.6)}
    for key, tensor in sd.items():
        if key == "text_projection.weight":
            made["text_projection"] = tensor.t().contiguous()
        elif "q_proj" in key:
            parts = [sd[key.replace("q_proj", f"{part}_proj")] for part in "qkv"]
            name = key.replace("text_model.encoder.layers", "transformer.resblocks")
            made[name.replace("self_attn.q_proj.", "attn.in_proj_")] = torch.cat(parts)
        elif "k_proj" not in key and "v_proj" not in key:
            name = key
            for old, new in renames.items():
                name = name.replace(old, new)
            made[name] = tensor
    return made

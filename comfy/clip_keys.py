"""State dicts of CLIP text encoders: one naming, and what their shapes say of the network.

The naming is that of the transformers library: ``text_model.encoder.layers.0...`` and
``text_projection.weight``. Entries are renamed, cut or transposed as views; no byte is read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch

import comfy.utils

# Surplus of files: an index that counts up, and a number that only training needs.
_UNUSED = re.compile(r"(^|\.)(position_ids|logit_scale)$")
_INNER = ("embeddings.", "encoder.layers.", "final_layer_norm.")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")
_WIDEST_OF_OPENAI = 768
_WIDTH_OF_H = 1024
_COLLECTED = re.compile(r"\w+\.transformer\.text_model\.")

ACTIVATION_OF: Mapping[str, str] = {"clip_l": "quick_gelu", "clip_h": "gelu", "clip_g": "gelu"}
"""By name, as a narrow model's width does not tell it."""


def clip_text_keys(sd: Mapping[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """Give the weights of one text encoder the names of the transformers library.

    Accepts what follows `prefix` in checkpoints: ``transformer.text_model...``, the same without
    ``text_model.`` or ``transformer.``, open_clip's names with or without ``model.``.

    Args:
        sd: Left as it is.
        prefix: Of the encoder; the rest of `sd` is ignored.

    Returns:
        A new dict. ``position_ids`` and ``logit_scale``, which no network reads, are left out.
    """
    own = {key[len(prefix) :]: tensor for key, tensor in sd.items() if key.startswith(prefix)}
    used = {key: tensor for key, tensor in own.items() if not _UNUSED.search(key)}
    if any("transformer.resblocks." in key for key in used):
        bare = {key.removeprefix("model."): tensor for key, tensor in used.items()}
        return comfy.utils.clip_text_transformers_convert(bare, "", "")
    return {_named(key.removeprefix("transformer.")): tensor for key, tensor in used.items()}


def _named(key: str) -> str:
    return f"text_model.{key}" if key.startswith(_INNER) else key


def checkpoint_text_encoders(
    sd: Mapping[str, torch.Tensor], prefixes: Mapping[str, str]
) -> dict[str, torch.Tensor]:
    """Collect the text encoders of a checkpoint under the keys of `comfy.sd1_clip`'s models.

    Args:
        sd: The whole checkpoint; left as it is.
        prefixes: Prefix of each encoder in it, to the encoder's name:
            ``{"cond_stage_model.": "clip_l"}``.

    Returns:
        ``{"clip_l.transformer.text_model...": tensor}``, no entry where nothing has the prefix.
    """
    return {
        f"{name}.transformer.{key}": tensor
        for prefix, name in prefixes.items()
        for key, tensor in clip_text_keys(sd, prefix).items()
    }


def clip_config_from_state_dict(
    sd: Mapping[str, torch.Tensor], prefix: str = "", hidden_act: str | None = None
) -> dict[str, Any] | None:
    """Derive a text encoder's configuration from the shapes of its weights.

    Args:
        sd: Named as `clip_text_keys` names them, behind `prefix`.
        prefix: Before ``text_model.``.
        hidden_act: "quick_gelu" or "gelu"; shapes do not tell it. None takes quick_gelu, as
            OpenAI's encoders have, up to a width of 768, and gelu, as open_clip's, above.

    Returns:
        Keys as in transformers' ``CLIPTextConfig``; ``projection_dim`` is None where the file has
        no projection. None if there is no text encoder.
    """
    tokens = sd.get(f"{prefix}text_model.embeddings.token_embedding.weight")
    positions = sd.get(f"{prefix}text_model.embeddings.position_embedding.weight")
    mlp = sd.get(f"{prefix}text_model.encoder.layers.0.mlp.fc1.weight")
    if tokens is None or positions is None or mlp is None:
        return None
    width = tokens.shape[1]
    layers = {
        int(match[1])
        for key in sd
        if key.startswith(prefix) and (match := _LAYER.match(key, len(prefix)))
    }
    projection = sd.get(f"{prefix}text_projection.weight")
    if hidden_act is None:
        hidden_act = "quick_gelu" if width <= _WIDEST_OF_OPENAI else "gelu"
    return {
        "vocab_size": tokens.shape[0],
        "hidden_size": width,
        "intermediate_size": mlp.shape[0],
        "num_hidden_layers": max(layers) + 1,
        "num_attention_heads": max(width // 64, 1),
        "max_position_embeddings": positions.shape[0],
        "hidden_act": hidden_act,
        "projection_dim": None if projection is None else projection.shape[0],
    }


def encoder_configs(sd: Mapping[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
    """Derive the configuration of each encoder that `checkpoint_text_encoders` collected.

    Returns:
        ``{"clip_l": config}``; the activation is the one of the encoder's name.
    """
    names = {key.partition(".transformer.text_model.")[0] for key in sd if _COLLECTED.match(key)}
    configs: dict[str, dict[str, Any]] = {}
    for name in sorted(names):
        config = clip_config_from_state_dict(sd, f"{name}.transformer.", ACTIVATION_OF.get(name))
        if config is not None:
            configs[name] = config
    return configs


def encoder_name(config: Mapping[str, Any]) -> str:
    """Which encoder a file of its own holds, by its width: clip_l, clip_h or clip_g."""
    width = config["hidden_size"]
    if width <= _WIDEST_OF_OPENAI:
        return "clip_l"
    return "clip_h" if width <= _WIDTH_OF_H else "clip_g"

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
_INNER = ("embeddings.", "encoder.", "final_layer_norm.")
_LAYER = re.compile(r"text_model\.encoder\.layers\.(\d+)\.")
_WIDEST_OF_OPENAI = 768


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
    named = {_bare(key): tensor for key, tensor in own.items() if not _UNUSED.search(key)}
    if any(".resblocks." in key for key in named):
        return comfy.utils.clip_text_transformers_convert(named, "", "")
    return {
        f"text_model.{key}" if key.startswith(_INNER) else key: tensor
        for key, tensor in named.items()
    }


def _bare(key: str) -> str:
    """Without the name of the module that a checkpoint wraps its encoder in."""
    if key.startswith("transformer.") and not key.startswith("transformer.resblocks."):
        return key[len("transformer.") :]
    return key.removeprefix("model.")


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

"""Giving CLIP's encoders back the names of open_clip, for checkpoints that have them so."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch

_LAYER = re.compile(r"(?:text|vision)_model\.encoder\.layers\.(\d+)\.(.+)\.(weight|bias)$")
_INSIDE = {
    "layer_norm1": "ln_1",
    "layer_norm2": "ln_2",
    "mlp.fc1": "mlp.c_fc",
    "mlp.fc2": "mlp.c_proj",
    "self_attn.out_proj": "attn.out_proj",
}
VISION_NAMES: Mapping[str, str] = {
    "class_embedding": "vision_model.embeddings.class_embedding",
    "conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "ln_post.weight": "vision_model.post_layernorm.weight",
    "ln_post.bias": "vision_model.post_layernorm.bias",
}
"""open_clip's names of a picture encoder's tensors outside of the layers, to transformers'."""

_TOP = {
    **{theirs: own for own, theirs in VISION_NAMES.items()},
    "text_model.embeddings.position_embedding.weight": "positional_embedding",
    "text_model.embeddings.token_embedding.weight": "token_embedding.weight",
    "text_model.final_layer_norm.weight": "ln_final.weight",
    "text_model.final_layer_norm.bias": "ln_final.bias",
}
_PROJECTIONS = {"text_projection.weight": "text_projection", "visual_projection.weight": "proj"}


def to_open_clip(
    state_dict: Mapping[str, torch.Tensor], prefix: str, new_prefix: str
) -> dict[str, torch.Tensor]:
    """Rename one encoder, of text or of pictures, from transformers' names.

    For text it is the inverse of `clip_text_transformers_convert`.

    Args:
        state_dict: Left as it is.
        prefix: Of the encoder; what has another is left out.
        new_prefix: Of the result.

    Returns:
        Query, key and value of a layer are one matrix, new in memory; the projection is a
        transposed view; all else is shared.
    """
    renamed: dict[str, torch.Tensor] = {}
    fused: dict[str, dict[str, torch.Tensor]] = {}
    for full, tensor in state_dict.items():
        if not full.startswith(prefix):
            continue
        key = full[len(prefix) :]
        layer = _LAYER.match(key)
        if key in _PROJECTIONS:
            renamed[new_prefix + _PROJECTIONS[key]] = tensor.t()
        elif layer is None:
            renamed[new_prefix + _TOP.get(key, key)] = tensor
        elif layer[2] in _INSIDE:
            block = f"{new_prefix}transformer.resblocks.{layer[1]}"
            renamed[f"{block}.{_INSIDE[layer[2]]}.{layer[3]}"] = tensor
        else:
            target = f"{new_prefix}transformer.resblocks.{layer[1]}.attn.in_proj_{layer[3]}"
            fused.setdefault(target, {})[layer[2].removeprefix("self_attn.")[0]] = tensor
    for target, parts in fused.items():
        renamed[target] = torch.cat([parts[name] for name in "qkv"])
    return renamed

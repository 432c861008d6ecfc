"""State dicts: prefixes, renames, counts, the dtypes in them. Moves entries, never bytes.

What these functions change they change in place and return; a tensor whose bytes are in a file
stays there, except where a dtype is changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, MutableMapping
from typing import Any, TypeVar

import torch

_Dict = TypeVar("_Dict", bound=MutableMapping[str, Any])

# open_clip's module -> transformers' module, inside a layer
_OPEN_CLIP_LAYER = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
    "attn.out_proj": "self_attn.out_proj",
}
_OPEN_CLIP_TOP = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_TEXT_LAYERS = 32


def calculate_parameters(sd: Mapping[str, torch.Tensor], prefix: str = "") -> int:
    """Count the elements of all tensors whose key starts with `prefix`."""
    return sum(tensor.nelement() for key, tensor in sd.items() if key.startswith(prefix))


def weight_dtype(sd: Mapping[str, torch.Tensor], prefix: str = "") -> torch.dtype | None:
    """Find the dtype that most elements under `prefix` have; None if there are no tensors."""
    elements: Counter[torch.dtype] = Counter()
    for key, tensor in sd.items():
        if key.startswith(prefix):
            elements[tensor.dtype] += tensor.numel()
    return max(elements, key=elements.__getitem__, default=None)


def state_dict_key_replace(state_dict: _Dict, keys_to_replace: Mapping[str, str]) -> _Dict:
    """Rename whole keys, old to new, in place."""
    for old, new in keys_to_replace.items():
        if old in state_dict:
            state_dict[new] = state_dict.pop(old)
    return state_dict


def state_dict_prefix_replace(
    state_dict: _Dict, replace_prefix: Mapping[str, str], filter_keys: bool = False
) -> _Dict | dict[str, Any]:
    """Exchange prefixes of keys, old for new, one after the other.

    Args:
        state_dict: Changed in place.
        replace_prefix: Old prefix to new prefix.
        filter_keys: Move the renamed entries out of `state_dict` into a dict of their own.

    Returns:
        `state_dict`, or the dict with only the renamed entries.
    """
    target: _Dict | dict[str, Any] = {} if filter_keys else state_dict
    for old, new in replace_prefix.items():
        for key in [key for key in state_dict if key.startswith(old)]:
            target[new + key[len(old) :]] = state_dict.pop(key)
    return target


def convert_sd_to(state_dict: _Dict, dtype: torch.dtype) -> _Dict:
    """Cast every tensor to `dtype`, in place."""
    for key in list(state_dict):
        state_dict[key] = state_dict[key].to(dtype)
    return state_dict


def transformers_convert(sd: _Dict, prefix_from: str, prefix_to: str, number: int) -> _Dict:
    """Rename a CLIP tower from open_clip's keys to those of the transformers library, in place.

    Args:
        sd: State dict; the fused query-key-value matrices are cut into three views.
        prefix_from: Before ``transformer.resblocks`` and the embeddings.
        prefix_to: Before ``encoder.layers`` and the embeddings.
        number: How many layers to look for.
    """
    state_dict_key_replace(
        sd, {prefix_from + old: prefix_to + new for old, new in _OPEN_CLIP_TOP.items()}
    )
    for index in range(number):
        source = f"{prefix_from}transformer.resblocks.{index}."
        layer = f"{prefix_to}encoder.layers.{index}."
        for kind in ("weight", "bias"):
            for old, new in _OPEN_CLIP_LAYER.items():
                state_dict_key_replace(sd, {f"{source}{old}.{kind}": f"{layer}{new}.{kind}"})
            fused = sd.pop(f"{source}attn.in_proj_{kind}", None)
            if fused is not None:
                for name, part in zip("qkv", fused.chunk(3), strict=True):
                    sd[f"{layer}self_attn.{name}_proj.{kind}"] = part
    return sd


def clip_text_transformers_convert(sd: _Dict, prefix_from: str, prefix_to: str) -> _Dict:
    """Rename a whole CLIP text encoder from open_clip's keys to those of transformers, in place.

    open_clip multiplies by its projection from the right, so a bare ``text_projection`` is
    transposed; one with ``.weight`` is a linear layer's already.
    """
    transformers_convert(sd, prefix_from, f"{prefix_to}text_model.", _TEXT_LAYERS)
    target = f"{prefix_to}text_projection.weight"
    state_dict_key_replace(sd, {f"{prefix_from}text_projection.weight": target})
    bare = sd.pop(f"{prefix_from}text_projection", None)
    if bare is not None:
        sd[target] = bare.t()
    return sd

"""Which text encoder a state dict is, and which text side of a family several of them make.

A row of `ENCODERS` for each, asked in order. A new encoder is a row here, a file under
``text_encoders``, and a branch of `target_of`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from comfy import sd1_clip, sdxl_clip
from comfy.clip_keys import clip_text_keys
from comfy.file_kinds import UndetectedModel, explain
from comfy.supported_models_base import ClipTarget
from comfy.text_encoders import sd2_clip

StateDict = Mapping[str, torch.Tensor]


class TEModel(enum.Enum):
    """Text encoders that are known; only the CLIPs can be run yet."""

    CLIP_L = 1
    CLIP_H = 2
    CLIP_G = 3
    T5_XXL = 4
    T5_XL = 5
    T5_BASE = 6
    QWEN25 = 7
    QWEN3 = 8
    MISTRAL = 9
    LLAMA = 10


CLIP_NAMES: Mapping[TEModel, str] = {
    TEModel.CLIP_L: "clip_l",
    TEModel.CLIP_H: "clip_h",
    TEModel.CLIP_G: "clip_g",
}


@dataclass(frozen=True)
class EncoderKind:
    """A row of the table.

    Attributes:
        model: Which.
        mark: A key that it has, and none above it.
        width: Of the mark's last axis; None for any.
    """

    model: TEModel
    mark: str
    width: int | None = None


_CLIP = "text_model.encoder.layers.{}.mlp.fc1.weight"
_T5 = "encoder.block.23.layer.1.DenseReluDense.wi_1.weight"

ENCODERS: tuple[EncoderKind, ...] = (
    EncoderKind(TEModel.CLIP_G, _CLIP.format(30)),
    EncoderKind(TEModel.CLIP_H, _CLIP.format(22)),
    EncoderKind(TEModel.CLIP_L, _CLIP.format(0)),
    EncoderKind(TEModel.T5_XXL, _T5, 4096),
    EncoderKind(TEModel.T5_XL, _T5, 2048),
    EncoderKind(TEModel.T5_XXL, "encoder.block.23.layer.1.DenseReluDense.wi.weight"),
    EncoderKind(TEModel.T5_BASE, "encoder.block.0.layer.0.SelfAttention.k.weight"),
    EncoderKind(TEModel.QWEN25, "model.layers.0.self_attn.k_proj.bias"),
    EncoderKind(TEModel.QWEN3, "model.layers.0.self_attn.q_norm.weight"),
    EncoderKind(TEModel.MISTRAL, "model.layers.0.post_attention_layernorm.weight", 5120),
    EncoderKind(TEModel.LLAMA, "model.layers.0.post_attention_layernorm.weight"),
)


def detect_te_model(sd: StateDict) -> TEModel | None:
    """Find which text encoder this is; None if it is none that is known.

    Args:
        sd: Named as `comfy.clip_keys.clip_text_keys` names CLIPs, the others as published.
    """
    for row in ENCODERS:
        tensor = sd.get(row.mark)
        if tensor is not None and row.width in (None, tensor.shape[-1]):
            return row.model
    return None


def recognised(sd: StateDict, origin: str) -> tuple[TEModel, StateDict]:
    """Name the weights of one file as the networks do, and say which encoder they are.

    Raises:
        UndetectedModel: If they are none, or one that cannot be run yet.
    """
    named = clip_text_keys(sd)
    found = detect_te_model(named)
    if found is not None and found in CLIP_NAMES:
        return found, named
    found = detect_te_model(sd)
    if found is None:
        raise UndetectedModel(explain(sd, origin, "a text encoder"))
    raise UndetectedModel(f"{origin}: not supported yet: the text encoder {found.name}")


def without_doubles(found: Sequence[tuple[TEModel, StateDict]]) -> list[tuple[TEModel, StateDict]]:
    """Of two narrow CLIPs that their depth does not tell apart, take the wider one for bigG."""
    if [model for model, _ in found] != [TEModel.CLIP_L, TEModel.CLIP_L]:
        return list(found)
    small, big = sorted((sd for _, sd in found), key=_width)
    return [(TEModel.CLIP_L, small), (TEModel.CLIP_G, big)]


def _width(sd: StateDict) -> int:
    return sd["text_model.embeddings.token_embedding.weight"].shape[1]


# Which encoders make which text side. One alone is that of its family, whatever was asked for.
_TARGETS: Mapping[frozenset[TEModel], Callable[[], ClipTarget]] = {
    frozenset({TEModel.CLIP_L}): lambda: ClipTarget(sd1_clip.SD1Tokenizer, sd1_clip.SD1ClipModel),
    frozenset({TEModel.CLIP_H}): lambda: ClipTarget(sd2_clip.SD2Tokenizer, sd2_clip.SD2ClipModel),
    frozenset({TEModel.CLIP_G}): lambda: ClipTarget(
        sdxl_clip.SDXLRefinerTokenizer, sdxl_clip.SDXLRefinerClipModel
    ),
    frozenset({TEModel.CLIP_L, TEModel.CLIP_G}): lambda: ClipTarget(
        sdxl_clip.SDXLTokenizer, sdxl_clip.SDXLClipModel
    ),
}


# Families that read the same CLIPs in another way than SD 1, 2 and XL.
_OTHER_READERS = ("STABLE_CASCADE", "SD3", "FLUX", "HIDREAM", "HUNYUAN_DIT", "HUNYUAN_VIDEO")


def target_of(models: Sequence[TEModel], clip_type: str = "STABLE_DIFFUSION") -> ClipTarget:
    """Find the text side that these encoders make.

    Args:
        models: In any order.
        clip_type: Name of the family that they are for.

    Raises:
        UndetectedModel: If they make none.
    """
    if clip_type in _OTHER_READERS:
        raise UndetectedModel(f"not supported yet: the text side of {clip_type}")
    make = _TARGETS.get(frozenset(models)) if len(set(models)) == len(models) else None
    if make is None:
        names = ", ".join(model.name for model in models)
        raise UndetectedModel(
            f"no supported model is conditioned on these text encoders together: {names}"
        )
    return make()


def collected(found: Sequence[tuple[TEModel, StateDict]]) -> dict[str, torch.Tensor]:
    """Join encoders under the keys of their text side: ``clip_l.transformer.text_model...``."""
    return {
        f"{CLIP_NAMES[model]}.transformer.{key}": tensor
        for model, sd in found
        for key, tensor in sd.items()
    }

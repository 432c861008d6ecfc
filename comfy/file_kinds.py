"""What a weight file is, if it is no model that can be loaded here: for errors that help.

A row each: what the file is called, by which keys it is known, and who loads it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_EMBEDDING_TENSORS = 3


class UndetectedModel(RuntimeError):
    """A file holds no model that can be loaded here; the message says what it looks like."""


@contextlib.contextmanager
def named_by_path(path: str) -> Iterator[None]:
    """Put a file's path before what an `UndetectedModel` inside says, which stays of its kind."""
    try:
        yield
    except UndetectedModel as err:
        raise type(err)(f"{path}: {err}") from err


@dataclass(frozen=True)
class FileKind:
    """A row of the table.

    Attributes:
        name: With its article.
        is_known_by: Given all keys.
        advice: Half a sentence: how to use such a file.
    """

    name: str
    is_known_by: Callable[[Collection[str]], bool]
    advice: str


def _any_contains(*parts: str) -> Callable[[Collection[str]], bool]:
    return lambda keys: any(part in key for key in keys for part in parts)


def _any_starts(*heads: str) -> Callable[[Collection[str]], bool]:
    return lambda keys: any(key.startswith(heads) for key in keys)


def _has(*names: str) -> Callable[[Collection[str]], bool]:
    return lambda keys: any(name in keys for name in names)


def _is_embedding(keys: Collection[str]) -> bool:
    if "emb_params" in keys or "string_to_param" in keys:
        return True
    return 0 < len(keys) <= _EMBEDDING_TENSORS and all("." not in key for key in keys)


_LORA_PARTS = (
    ".lora_up.",
    ".lora_down.",
    ".lora_A",
    ".lora_B",
    ".lora.up.",
    "_lora.up.",
    ".lora_linear_layer.",
    ".hada_w1_",
    ".lokr_w1",
    ".oft_blocks",
    ".oft_diag",
    ".boft_blocks",
)

KINDS: tuple[FileKind, ...] = (
    FileKind("a LoRA", _any_contains(*_LORA_PARTS), "load it with LoraLoader (models/loras)"),
    FileKind(
        "a ControlNet",
        lambda keys: (
            _has("zero_convs.0.0.weight", "controlnet_cond_embedding.conv_in.weight")(keys)
            or _any_starts("control_model.", "lora_controlnet", "controlnet_blocks.")(keys)
        ),
        "load it with ControlNetLoader (models/controlnet)",
    ),
    FileKind(
        "a GLIGEN",
        lambda keys: _any_contains("position_net.")(keys) and _any_contains(".fuser.")(keys),
        "load it with GLIGENLoader (models/gligen)",
    ),
    FileKind(
        "a TAESD autoencoder",
        lambda keys: _has("3.conv.0.weight")(keys) or _any_starts("taesd_decoder.")(keys),
        "put it into models/vae_approx, for previews or for VAELoader",
    ),
    FileKind(
        "a checkpoint",
        _any_starts("model.diffusion_model."),
        "load it with CheckpointLoaderSimple (models/checkpoints)",
    ),
    FileKind(
        "a VAE",
        _has(
            "decoder.conv_in.weight",
            "first_stage_model.decoder.conv_in.weight",
            "decoder.middle.0.residual.0.gamma",
        ),
        "load it with VAELoader (models/vae)",
    ),
    FileKind(
        "a CLIP vision encoder",
        _any_starts("vision_model.", "visual."),
        "load it with CLIPVisionLoader (models/clip_vision)",
    ),
    FileKind(
        "a style model",
        _has("style_embedding", "redux_up.weight"),
        "load it with StyleModelLoader (models/style_models)",
    ),
    FileKind(
        "a text encoder",
        _any_starts(
            "text_model.encoder.",
            "transformer.resblocks.",
            "encoder.block.",
            "model.layers.",
            "cond_stage_model.",
            "conditioner.embedders.",
            "text_encoders.",
        ),
        "load it with CLIPLoader (models/text_encoders)",
    ),
    FileKind(
        "an upscaler",
        _has("model.0.weight", "conv_first.weight", "body.0.rdb1.conv1.weight"),
        "load it with UpscaleModelLoader (models/upscale_models)",
    ),
    FileKind(
        "a textual inversion embedding",
        _is_embedding,
        "put it into models/embeddings and write embedding:NAME in a prompt",
    ),
)


def kind_of(keys: Collection[str]) -> FileKind | None:
    """Find what a file is by its keys; None if it is like nothing known."""
    return next((kind for kind in KINDS if kind.is_known_by(keys)), None)


def explain(state_dict: Mapping[str, Any], path: str, wanted: str) -> str:
    """Say what a file is that should have been a `wanted`, and how to use it.

    Args:
        state_dict: Its content.
        path: For the message; may be empty if there is no file.
        wanted: With its article, as ``"a checkpoint"``.
    """
    name = path or "the state dict"
    kind = kind_of(state_dict.keys())
    if kind is not None and kind.name != wanted:
        return f"{name} is not {wanted} but looks like {kind.name}: {kind.advice}."
    if not state_dict:
        return f"{name} is not {wanted}: it holds no tensors."
    sample = ", ".join(f"'{key}'" for key in list(state_dict)[:3])
    return (
        f"{name} is not {wanted} that is known here. It holds {len(state_dict)} entries, the "
        f"first are {sample}."
    )

"""Quantised checkpoints: finding their marks, and bringing older forms to the present one.

The present form: beside ``<layer>.weight`` lie ``<layer>.weight_scale``, perhaps
``<layer>.input_scale``, and ``<layer>.comfy_quant``, the bytes of a JSON object that says how the
layer is stored. Moves entries; reads no weight, only scalars.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Any

import torch

MARKER = ".comfy_quant"
METADATA_KEY = "_quantization_metadata"
_OLD_MARKER = "scaled_fp8"
_OLD_WEIGHT_SCALE = ".scale_weight"
_OLD_INPUT_SCALE = ".scale_input"
# The old marker's own dtype names the format; a plain number means the usual one.
_FORMATS = {torch.float8_e5m2: "float8_e5m2"}
_USUAL_FORMAT = "float8_e4m3fn"


def detect_layer_quantization(state_dict: Iterable[str], prefix: str) -> dict[str, bool] | None:
    """Say whether any layer under `prefix` carries a marker.

    Returns:
        The quantisation settings of a model whose layers differ, or None.
    """
    if any(key.startswith(prefix) and key.endswith(MARKER) for key in state_dict):
        return {"mixed_ops": True}
    return None


def _encode(settings: Mapping[str, Any]) -> torch.Tensor:
    return torch.tensor(list(json.dumps(settings).encode()), dtype=torch.uint8)


def _is_one(scale: torch.Tensor) -> bool:
    return scale.numel() == 1 and scale.item() == 1.0


def _rename_scales(
    state_dict: MutableMapping[str, torch.Tensor], prefix: str
) -> dict[str, dict[str, Any]]:
    """Turn the older keys under `prefix` into present ones; returns the layers' settings."""
    marker = state_dict.pop(prefix + _OLD_MARKER)
    settings: dict[str, Any] = {"format": _FORMATS.get(marker.dtype, _USUAL_FORMAT)}
    if marker.nelement() == 2:
        settings["full_precision_matrix_mult"] = True
    layers: dict[str, dict[str, Any]] = {}
    for key in [key for key in state_dict if key.startswith(prefix)]:
        if key.endswith(_OLD_WEIGHT_SCALE):
            layer = key.removesuffix(_OLD_WEIGHT_SCALE)
            state_dict[f"{layer}.weight_scale"] = state_dict.pop(key)
            layers[layer] = dict(settings)
        elif key.endswith(_OLD_INPUT_SCALE):
            scale = state_dict.pop(key)
            if not _is_one(scale):
                state_dict[f"{key.removesuffix(_OLD_INPUT_SCALE)}.input_scale"] = scale
    return layers


def convert_old_quants(
    state_dict: MutableMapping[str, torch.Tensor],
    model_prefix: str = "",
    metadata: dict[str, str] | None = None,
) -> tuple[MutableMapping[str, torch.Tensor], dict[str, str]]:
    """Give every quantised layer its marker, from the file's metadata or from older keys.

    Args:
        state_dict: Changed in place.
        model_prefix: Where in a checkpoint the older keys are looked for.
        metadata: Of the file; its layer list, if there is one, is taken instead of older keys.

    Returns:
        `state_dict` and the metadata (empty if None was given).
    """
    metadata = {} if metadata is None else metadata
    layers: Mapping[str, Mapping[str, Any]] = {}
    if METADATA_KEY in metadata:
        layers = json.loads(metadata[METADATA_KEY])["layers"]
    elif model_prefix + _OLD_MARKER in state_dict:
        layers = _rename_scales(state_dict, model_prefix)
    for layer, settings in layers.items():
        state_dict[layer + MARKER] = _encode(settings)
    return state_dict, metadata

"""LoRA: what a file changes in a model, and the changed weight.

Building patches reads no weight of the file. `calculate_weight` reads the parts of one weight when
that weight is computed, and keeps none of them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

import comfy.utils
from comfy import lora_keys, weight_adapter, weight_patches
from comfy.loading import FileTensor
from comfy.lora_keys import LORA_CLIP_MAP
from comfy.weight_adapter.parts import identity, placed

__all__ = [
    "LORA_CLIP_MAP",
    "calculate_weight",
    "load_lora",
    "model_lora_keys_clip",
    "model_lora_keys_unet",
]

_log = logging.getLogger(__name__)

_NAMES_SHOWN = 6
# Where the name of a module ends and that of a tensor in it begins.
_TENSOR_NAME = re.compile(
    r"\.(lora[._]|hada_|lokr_|oft_|[ab][12]\.weight$|alpha$|dora_scale$|diff(_b)?$|[wb]_norm$"
    r"|set_weight$|reshape_weight$|rescale$).*|_lora\..*"
)


# -- from a file to patches ----------------------------------------------------------------------


def load_lora(
    lora_sd: Mapping[str, torch.Tensor],
    to_load: Mapping[str, Any],
    log_missing: bool = True,
) -> dict[Any, Any]:
    """Find what a LoRA file changes; of its tensors only numbers such as alpha are read.

    Args:
        lora_sd: State dict of the file.
        to_load: Name of a module in the file to the weight it means; see `model_lora_keys_unet`.
        log_missing: Warn of keys that mean no weight.

    Returns:
        Patches for `ModelPatcher.add_patches`: target to adapter, or to ("diff" | "set", (tensor,)).

    Raises:
        ValueError: If an alpha is no number.
    """
    patches: dict[Any, Any] = {}
    used: set[str] = set()
    for name, target in to_load.items():
        adapter = _adapter(lora_sd, name, used)
        if adapter is not None:
            patches[target] = adapter
        for suffix, kind, is_bias in _WHOLE:
            tensor = lora_sd.get(name + suffix)
            if tensor is not None:
                patches[_bias_of(target) if is_bias else target] = (kind, (tensor,))
                used.add(name + suffix)
    if log_missing:
        _report_unused(lora_sd, used, bool(patches))
    return patches


# Tensors that change a whole weight, or the bias beside it.
_WHOLE = (
    (".w_norm", "diff", False),
    (".b_norm", "diff", True),
    (".diff", "diff", False),
    (".diff_b", "diff", True),
    (".set_weight", "set", False),
)


def _adapter(
    lora_sd: Mapping[str, torch.Tensor], name: str, used: set[str]
) -> weight_adapter.WeightAdapterBase | None:
    """The adapter of one module, or None; adds its keys to `used`."""
    alpha = lora_sd.get(f"{name}.alpha")
    dora_scale = lora_sd.get(f"{name}.dora_scale")
    number = None if alpha is None else _number(alpha, f"{name}.alpha")
    for method in weight_adapter.adapters:
        adapter = method.load(name, lora_sd, number, dora_scale, set())
        if adapter is not None:
            used.update(adapter.loaded_keys)
            used.update(key for key in (f"{name}.alpha", f"{name}.dora_scale") if key in lora_sd)
            return adapter
    return None


def _number(tensor: torch.Tensor, key: str) -> float:
    if tensor.numel() != 1:
        raise ValueError(
            f"LoRA{weight_patches.file_of([tensor])}: '{key}' has shape {tuple(tensor.shape)} and "
            "should be one number. The file is damaged: download it again."
        )
    return float(tensor.item())


def _bias_of(target: Any) -> Any:
    if isinstance(target, str):
        return f"{target.removesuffix('.weight')}.bias"
    return (_bias_of(target[0]), *target[1:])


def _report_unused(lora_sd: Mapping[str, torch.Tensor], used: set[str], any_patch: bool) -> None:
    unused = [key for key in lora_sd if key not in used]
    if not unused:
        return
    modules = list(dict.fromkeys(_TENSOR_NAME.sub("", key) for key in unused))
    shown = ", ".join(modules[:_NAMES_SHOWN])
    more = len(modules) - _NAMES_SHOWN
    names = f"{shown} and {more} more modules" if more > 0 else shown
    file = weight_patches.file_of(lora_sd.values())
    if any_patch:
        _log.warning(
            "LoRA%s: %d of %d keys mean no weight of this model and are not used: %s",
            file,
            len(unused),
            len(lora_sd),
            names,
        )
    else:
        _log.warning(
            "LoRA%s: none of its %d keys means a weight of this model, so it changes nothing; it is"
            " probably for another family. It names %s",
            file,
            len(lora_sd),
            names,
        )


# -- names ---------------------------------------------------------------------------------------


def model_lora_keys_unet(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
    """Name the weights of a diffusion model as LoRA files do.

    Args:
        model: A `BaseModel`: ``state_dict()`` has keys ``diffusion_model.*``, and
            ``model_config.unet_config`` describes the network.
        key_map: Extended, if given.

    Returns:
        Name in a file to target; `comfy.lora_keys` says what a target is.
    """
    key_map = {} if key_map is None else key_map
    keys = dict.fromkeys(model.state_dict())
    config = model.model_config.unet_config
    places = comfy.utils.unet_to_diffusers(config)
    key_map.update(lora_keys.native_names(keys))
    key_map.update(lora_keys.unet_diffusers_names(keys, places))
    key_map.update(lora_keys.transformer_names(keys, config))
    return key_map


def model_lora_keys_clip(model: Any, key_map: dict[str, Any] | None = None) -> dict[str, Any]:
    """Name the weights of text encoders as LoRA files do.

    Args:
        model: A CLIP's `cond_stage_model`: ``state_dict()`` has keys ``clip_l.transformer.*``.
        key_map: Extended, if given.

    Returns:
        Name in a file to key of the state dict.
    """
    key_map = {} if key_map is None else key_map
    key_map.update(lora_keys.text_encoder_names(model.state_dict()))
    return key_map


# -- from patches to a weight --------------------------------------------------------------------


def calculate_weight(
    patches: Iterable[Sequence[Any]],
    weight: torch.Tensor,
    key: str,
    intermediate_dtype: torch.dtype = torch.float32,
    original_weights: Mapping[str, Any] | None = None,
) -> torch.Tensor:
    """Apply patches to a weight, in order, on the weight's device.

    Each is ``weight * strength_model + function(strength * change)``, on a slice of the weight if
    it has an offset. A patch that does not fit leaves the weight as it is, with a warning.

    Args:
        patches: Tuples (strength, value, strength_model, offset, function). `comfy.weight_patches`
            says what a value is; or it is a list of key patches [(weight, convert), *patches] of
            another model, whose weight is added. An offset is (axis, start, length) or None.
        weight: Written to in place, if it has the intermediate dtype and is no FileTensor.
        key: The weight's name.
        intermediate_dtype: In which changes are computed; a weight of fewer bits is widened to it.
        original_weights: Key patches of the unpatched model, for "model_as_lora".

    Returns:
        The new weight, not rounded to the dtype that the model holds.

    Raises:
        ValueError: If "model_as_lora" is used without original weights.
    """
    if isinstance(weight, FileTensor) or weight.dtype.itemsize < intermediate_dtype.itemsize:
        weight = placed(weight, weight.device, intermediate_dtype)
    for strength, value, strength_model, offset, function in patches:
        part = weight_patches.slice_of(weight, offset, key)
        if part is None:
            continue
        if isinstance(value, list):
            value = (_merged(value, part, key, intermediate_dtype),)
        if not weight_patches.fits(value, part, key):
            continue
        if strength_model != 1.0:
            part.mul_(strength_model)
        how = (strength, strength_model, offset, function or identity)
        terms = weight_patches.Terms(key, *how, intermediate_dtype, original_weights)
        changed = weight_patches.apply(value, part, terms)
        if offset is None:
            weight = changed
        elif changed is not part:
            part.copy_(changed)
    return weight


def _merged(value: list[Any], weight: torch.Tensor, key: str, dtype: torch.dtype) -> torch.Tensor:
    """The weight of another model, with its own patches."""
    (base, convert), *patches = value
    copy = placed(base, weight.device, dtype)
    if copy is base:
        copy = base.clone()
    return calculate_weight(patches, convert(copy, inplace=True), key, intermediate_dtype=dtype)

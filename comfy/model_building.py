"""From a state dict to a patcher: the diffusion model, its dtypes, its place."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, MutableMapping
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.file_kinds import UndetectedModel
from comfy.model_detection import (
    is_diffusers_unet,
    model_config_from_diffusers_unet,
    model_config_from_unet,
    unet_prefix_from_state_dict,
    unet_to_original_names,
)
from comfy.model_patcher import ModelPatcher
from comfy.quant_markers import METADATA_KEY
from comfy.residency import residency_of
from comfy.state_loading import numbers_from_shapes
from comfy.supported_models_base import BASE

logger = logging.getLogger(__name__)

StateDict = MutableMapping[str, torch.Tensor]


def with_present_marks(sd: StateDict, prefix: str, metadata: Mapping[str, str] | None) -> StateDict:
    """Give quantised layers the marks of today; see `comfy.utils.convert_old_quants`.

    Raises:
        UndetectedModel: If the file's metadata cannot be read.
    """
    try:
        converted, _ = comfy.utils.convert_old_quants(sd, prefix, dict(metadata or {}))
    except (json.JSONDecodeError, KeyError, TypeError) as err:
        raise UndetectedModel(f"its metadata '{METADATA_KEY}' is damaged: {err!r}") from err
    return converted


def set_dtypes(
    config: BASE, sd: StateDict, prefix: str, options: Mapping[str, Any]
) -> torch.dtype | None:
    """Choose in which dtype the weights are kept and the network is computed.

    Args:
        config: Is told.
        sd: With the network's weights under `prefix`.
        prefix: Of the network.
        options: ``dtype`` or ``weight_dtype`` asks for one, ``custom_operations`` for layers,
            ``fp8_optimizations`` for products in eight bits.

    Returns:
        To which dtype the weights must be cast when they come to the device; None if they stay as
        they are in the file.
    """
    in_file = comfy.utils.weight_dtype(sd, prefix)
    device = comfy.model_management.get_torch_device()
    supported = config.supported_inference_dtypes
    kept = options.get("dtype", options.get("weight_dtype"))
    if config.quant_config is not None:
        # Layers differ and say so themselves; the rest counts.
        compute = comfy.model_management.unet_manual_cast(None, device, supported)
        config.set_inference_dtype(compute, compute)
        kept = in_file
    else:
        if kept is None:
            kept = comfy.model_management.unet_dtype(
                model_params=comfy.utils.calculate_parameters(sd, prefix),
                supported_dtypes=supported,
                weight_dtype=in_file,
            )
        cast = comfy.model_management.unet_manual_cast(kept, device, supported)
        config.set_inference_dtype(kept, cast)
    config.custom_operations = options.get("custom_operations", config.custom_operations)
    if options.get("fp8_optimizations", False):
        config.optimizations = {**config.optimizations, "fp8": True}
    return None if kept == in_file else kept


def build_model(
    config: BASE,
    sd: StateDict,
    prefix: str,
    options: Mapping[str, Any],
    origin: str,
    marks: Mapping[str, torch.Tensor] | None = None,
) -> ModelPatcher:
    """Build a diffusion model around its weights; none is read.

    Args:
        config: What it is.
        sd: The entries under `prefix` are taken out.
        prefix: Of the network.
        options: See `set_dtypes`.
        origin: Name of the file, for messages.
        marks: Other tensors of the file, that may tell what the network predicts.

    Raises:
        IncompleteModel: If weights are missing.
    """
    cast = set_dtypes(config, sd, prefix, options)
    what = f"{origin}: {type(config).__name__}"
    with numbers_from_shapes(what):
        model = config.get_model({**sd, **(marks or {})}, prefix, device="meta")
    model.load_model_weights(sd, prefix, what)
    residency_of(model).weight_dtype = cast
    offload = comfy.model_management.unet_offload_device()
    model.device = offload
    logger.info(
        "%s: %s, weights %s, computed in %s",
        origin,
        type(config).__name__,
        model.get_dtype(),
        model.get_dtype_inference(),
    )
    return ModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device=offload
    )


def build_bare_model(
    sd: StateDict, options: Mapping[str, Any], metadata: Mapping[str, str] | None, origin: str
) -> ModelPatcher | None:
    """Build a model from a file that holds nothing else, by whatever school its names are.

    Args:
        sd: With or without a prefix; left as it is.
        options: See `set_dtypes`.
        metadata: Of the file.
        origin: Name of the file, for messages.

    Returns:
        None if nothing known is there.
    """
    prefix = unet_prefix_from_state_dict(sd)
    bare: StateDict = comfy.utils.state_dict_prefix_replace(
        dict(sd), {prefix: ""}, filter_keys=True
    )
    if not bare:
        bare = dict(sd)
    bare = with_present_marks(bare, "", metadata)
    config = model_config_from_unet(bare, "", metadata=metadata)
    if config is None and is_diffusers_unet(bare):
        config = model_config_from_diffusers_unet(bare)
        if config is not None:
            bare = unet_to_original_names(bare, config.unet_config)
    if config is None:
        return None
    return build_model(config, bare, "", options, origin)

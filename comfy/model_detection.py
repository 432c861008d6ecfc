"""Which model a state dict is, told by names and shapes alone.

Three steps, each a table:

1. `unet_prefix_from_state_dict`: where in a checkpoint the diffusion model is.
2. `FAMILIES`: the first whose mark is there says which kind of network it is; its reader takes the
   numbers (widths, depths) off the shapes. A family without a reader is known, but not supported
   yet. A new family is a row here, a file under ``ldm``, and a class in `supported_models`.
3. `comfy.supported_models.models`: the first class whose `matches` says yes to the numbers. If
   none knows them (a narrow or a pruned model), the first whose `resembles` recognises the
   structure; see there for what each demands. Metadata is not asked: files lie less in their
   shapes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

import comfy.utils
from comfy import supported_models, unet_detection
from comfy.file_kinds import UndetectedModel
from comfy.state_loading import numbers_from_shapes
from comfy.supported_models_base import BASE
from comfy.unet_detection import Shapes, calculate_transformer_depth, count_blocks

__all__ = [
    "FAMILIES",
    "Family",
    "UnsupportedFamily",
    "calculate_transformer_depth",
    "count_blocks",
    "detect_unet_config",
    "family_of",
    "is_diffusers_unet",
    "model_config_from_diffusers_unet",
    "model_config_from_unet",
    "model_config_from_unet_config",
    "unet_config_from_diffusers_unet",
    "unet_prefix_from_state_dict",
    "unet_to_original_names",
]

logger = logging.getLogger(__name__)

_CANDIDATES = ("model.diffusion_model.", "model.model.", "net.")
_OTHER_PREFIX = "model."
_FEW_KEYS = 5


class UnsupportedFamily(UndetectedModel):
    """The file holds a model of a family that is known, but cannot be run yet."""


@dataclass(frozen=True)
class Family:
    """A row of the table.

    Attributes:
        name: Of the kind of network.
        mark: A key that only this family has, without the prefix.
        read_config: Takes the numbers off the shapes; None if the family is not supported yet.
    """

    name: str
    mark: str
    read_config: Callable[[Shapes], dict[str, Any]] | None = None


FAMILIES: tuple[Family, ...] = (
    Family("ControlNet", "zero_convs.0.0.weight"),
    Family("UNet", unet_detection.ENTRY, unet_detection.unet_config),
    Family("Stable Diffusion 3 (MMDiT)", "joint_blocks.0.context_block.attn.qkv.weight"),
    Family("Flux 2", "double_stream_modulation_img.lin.weight"),
    Family("Chroma", "distilled_guidance_layer.norms.0.scale"),
    Family("Flux", "double_blocks.0.img_attn.norm.key_norm.scale"),
    Family("Wan", "head.modulation"),
    Family("Qwen-Image", "txt_norm.weight"),
    Family("Lumina 2 or Z-Image", "cap_embedder.1.weight"),
)


def unet_prefix_from_state_dict(state_dict: Iterable[str]) -> str:
    """Find under which prefix a checkpoint holds its diffusion model.

    Returns:
        That of the known prefixes which starts the most keys; ``"model."`` if none starts more
        than five.
    """
    counts = dict.fromkeys(_CANDIDATES, 0)
    for key in state_dict:
        for candidate in _CANDIDATES:
            counts[candidate] += key.startswith(candidate)
    best = max(counts, key=counts.__getitem__)
    return best if counts[best] > _FEW_KEYS else _OTHER_PREFIX


def family_of(state_dict: Mapping[str, torch.Tensor], key_prefix: str) -> Family | None:
    """Find the kind of network under `key_prefix`; None if it is none that is known."""
    return next((one for one in FAMILIES if key_prefix + one.mark in state_dict), None)


def detect_unet_config(
    state_dict: Mapping[str, torch.Tensor],
    key_prefix: str,
    metadata: Mapping[str, str] | None = None,
) -> dict[str, Any] | None:
    """Read the numbers of the network under `key_prefix`.

    Args:
        state_dict: Only names and shapes are looked at.
        key_prefix: As `unet_prefix_from_state_dict` found it, or empty.
        metadata: Of the file. Without effect: see the module's text.

    Returns:
        Arguments of the network's class; None if nothing known is there.

    Raises:
        UnsupportedFamily: If what is there is known, but cannot be run yet.
        UndetectedModel: If the network lacks a tensor that its kind has.
    """
    family = family_of(state_dict, key_prefix)
    if family is None:
        return None
    if family.read_config is None:
        raise UnsupportedFamily(
            f"not supported yet: {family.name} (found '{key_prefix}{family.mark}')"
        )
    shapes = unet_detection.shapes_under(state_dict, key_prefix)
    if family.read_config is unet_detection.unet_config and unet_detection.is_video(shapes):
        raise UnsupportedFamily("not supported yet: a UNet for video (found a 'time_stack' layer)")
    with numbers_from_shapes(f"a {family.name}", UndetectedModel, key_prefix):
        return family.read_config(shapes)


def model_config_from_unet_config(
    unet_config: Mapping[str, Any], state_dict: Mapping[str, torch.Tensor] | None = None
) -> BASE | None:
    """Find the supported model that has these numbers, or, failing that, this structure.

    Args:
        unet_config: As `detect_unet_config` gives it.
        state_dict: The whole file's, for models that are told apart by other tensors.
    """
    models = supported_models.models
    exact = next((one for one in models if one.matches(unet_config, state_dict)), None)
    if exact is not None:
        return exact(unet_config)
    alike = next((one for one in models if one.resembles(unet_config, state_dict)), None)
    if alike is None:
        logger.warning("no supported model has these numbers: %s", dict(unet_config))
        return None
    logger.info(
        "no published %s has these widths and depths; they are taken from the file", alike.__name__
    )
    return alike(unet_config)


def model_config_from_unet(
    state_dict: MutableMapping[str, torch.Tensor],
    unet_key_prefix: str,
    use_base_if_no_match: bool = False,
    metadata: Mapping[str, str] | None = None,
) -> BASE | None:
    """Find the supported model that a state dict is.

    Args:
        state_dict: Of a whole checkpoint, or of a diffusion model.
        unet_key_prefix: Where the network is.
        use_base_if_no_match: Return a bare `BASE` for numbers that no class knows.
        metadata: Of the file.

    Returns:
        An instance of its class, with the numbers and with the scheme of quantised layers; None
        if nothing matches.

    Raises:
        UnsupportedFamily: If the family is known, but not supported yet.
    """
    unet_config = detect_unet_config(state_dict, unet_key_prefix, metadata=metadata)
    if unet_config is None:
        return None
    model_config = model_config_from_unet_config(unet_config, state_dict)
    if model_config is None:
        if not use_base_if_no_match:
            return None
        model_config = BASE(unet_config)
    quantised = comfy.utils.detect_layer_quantization(state_dict, unet_key_prefix)
    if quantised:
        model_config.quant_config = quantised
    return model_config


def is_diffusers_unet(state_dict: Mapping[str, torch.Tensor]) -> bool:
    """Whether this is a bare UNet with the names of the diffusers library."""
    return unet_detection.DIFFUSERS_ENTRY in state_dict and "conv_in.weight" in state_dict


def unet_config_from_diffusers_unet(
    state_dict: Mapping[str, torch.Tensor], dtype: torch.dtype | None = None
) -> dict[str, Any] | None:
    """Read the numbers of a UNet with diffusers' names; None if it is no such UNet.

    Args:
        state_dict: Only names and shapes are looked at.
        dtype: Becomes the config's ``dtype``.
    """
    if not is_diffusers_unet(state_dict):
        return None
    config = unet_detection.diffusers_unet_config(unet_detection.shapes_under(state_dict, ""))
    return {**config, "dtype": dtype}


def model_config_from_diffusers_unet(state_dict: Mapping[str, torch.Tensor]) -> BASE | None:
    """Find the supported model of a UNet with diffusers' names; None if it is no such UNet."""
    config = unet_config_from_diffusers_unet(state_dict)
    return None if config is None else model_config_from_unet_config(config, state_dict)


def unet_to_original_names(
    state_dict: Mapping[str, torch.Tensor], unet_config: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Rename a UNet's tensors from diffusers' names; names unknown to the map are kept."""
    names = comfy.utils.unet_to_diffusers(unet_config)
    return {names.get(key, key): tensor for key, tensor in state_dict.items()}

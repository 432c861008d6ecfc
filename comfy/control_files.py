"""What a file of a control net is, told by names and shapes, and its tensors' names as here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

import comfy.utils
from comfy import unet_detection
from comfy.model_detection import UnsupportedFamily
from comfy.unet_detection import Shapes, count_blocks, shapes_under

_PREFIX = "control_model."
_MARK = "zero_convs.0.0.weight"
_DIFFUSERS_MARK = "controlnet_cond_embedding.conv_in.weight"
_UNION_MARK = "control_add_embedding.linear_1.bias"
_LORA_MARK = "lora_controlnet"
_DIFFERENCE = "difference"
_UNSUPPORTED = {
    "controlnet_blocks.0.weight": "a ControlNet for a transformer (Flux, SD 3, Qwen-Image)",
}
_UNION_PARTS = (
    "control_add_embedding.",
    "task_embedding",
    "transformer_layes.",
    "spatial_ch_projs.",
)
_UNION_NAMES = {
    ".linear_1.": ".0.",
    ".linear_2.": ".2.",
    ".in_proj_weight": ".in_proj.weight",
    ".in_proj_bias": ".in_proj.bias",
}


@dataclass(frozen=True)
class ControlFile:
    """A control net out of a file; no tensor is read.

    Attributes:
        config: Arguments of `comfy.cldm.cldm.ControlNet`, as far as shapes tell them.
        state: Its tensors, named as the network names them.
        is_difference: Whether they are to be added to those of the controlled UNet.
    """

    config: dict[str, Any]
    state: dict[str, torch.Tensor]
    is_difference: bool = False


def is_control_lora(sd: Mapping[str, Any]) -> bool:
    """Whether these are changes that make a control net of any UNet."""
    return _LORA_MARK in sd


def recognise(sd: Mapping[str, torch.Tensor]) -> ControlFile | None:
    """Find what a control net is; None if it is none for a UNet.

    Args:
        sd: Names of the original school, with or without prefix, or of diffusers'.

    Raises:
        UnsupportedFamily: If it is one of a kind that cannot be run yet.
    """
    for mark, name in _UNSUPPORTED.items():
        if mark in sd:
            raise UnsupportedFamily(f"not supported yet: {name} (found '{mark}')")
    prefix = _PREFIX if _PREFIX + _MARK in sd else ""
    if prefix + _MARK in sd:
        found = comfy.utils.state_dict_prefix_replace(dict(sd), {prefix: ""}, filter_keys=True)
        is_difference = _DIFFERENCE in sd
        found.pop(_DIFFERENCE, None)
        config = unet_detection.input_side_config(shapes_under(found, ""))
        return ControlFile({**config, **hint_config(found)}, found, is_difference)
    if _DIFFUSERS_MARK in sd:
        config = unet_detection.diffusers_input_side_config(shapes_under(sd, ""))
        found = to_original_names(sd, config)
        union = {"union": union_config(found)} if _UNION_MARK in sd else {}
        return ControlFile({**config, **hint_config(found), **union}, found)
    return None


def hint_config(state: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Channels of the hint, and on its way; see `comfy.cldm.cldm.ControlNet`."""
    shapes: Shapes = shapes_under(state, "input_hint_block.")
    widths: list[int] = []
    while (first := f"{4 * len(widths)}.weight") in shapes:
        widths.append(shapes[first][0])
    return {"hint_channels": shapes["0.weight"][1], "hint_widths": widths}


def union_config(state: Mapping[str, torch.Tensor]) -> dict[str, int]:
    """Numbers of what a union ControlNet has besides; see `comfy.cldm.union.Union`."""
    shapes = shapes_under(state, "union.")
    types = shapes["task_embedding"][0]
    return {
        "types": types,
        "type_width": shapes["control_add_embedding.0.weight"][1] // types,
        "depth": count_blocks(shapes, "transformer_layes.{}."),
    }


def _union_name(key: str) -> str:
    """Where a tensor of a union ControlNet is here, where its parts stand together."""
    if not key.startswith(_UNION_PARTS):
        return key
    for theirs, ours in _UNION_NAMES.items():
        key = key.replace(theirs, ours)
    return f"union.{key}"


def to_original_names(
    sd: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> dict[str, torch.Tensor]:
    """Rename tensors from diffusers' names; names unknown to the map are kept."""
    counts = config["num_res_blocks"]
    no_output_side = [0] * (sum(counts) + len(counts))
    names = comfy.utils.unet_to_diffusers({**config, "transformer_depth_output": no_output_side})
    between = count_blocks(sd, "controlnet_cond_embedding.blocks.{}.")
    pairs = {
        "controlnet_cond_embedding.conv_in": "input_hint_block.0",
        "controlnet_cond_embedding.conv_out": f"input_hint_block.{2 * between + 2}",
        "controlnet_mid_block": "middle_block_out.0",
    }
    for number in range(between):
        name = f"controlnet_cond_embedding.blocks.{number}"
        pairs[name] = f"input_hint_block.{2 * number + 2}"
    for number in range(count_blocks(sd, "controlnet_down_blocks.{}.")):
        pairs[f"controlnet_down_blocks.{number}"] = f"zero_convs.{number}.0"
    for theirs, ours in pairs.items():
        for kind in ("weight", "bias"):
            names[f"{theirs}.{kind}"] = f"{ours}.{kind}"
    return {names.get(key) or _union_name(key): tensor for key, tensor in sd.items()}

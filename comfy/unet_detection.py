"""Reading a UNet's numbers off its tensors' names and shapes; no weight is read.

Two naming schools: the original one (``input_blocks.4.1...``, in checkpoints) and that of the
diffusers library (``down_blocks.1.attentions.0...``, in some files that hold a UNet alone).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

ENTRY = "input_blocks.0.0.weight"
DIFFUSERS_ENTRY = "down_blocks.0.resnets.0.conv1.weight"
DIFFUSERS_IN = "conv_in.weight"
LABELS = ("label_emb.0.0.weight",)
DIFFUSERS_LABELS = ("add_embedding.linear_1.weight", "class_embedding.linear_1.weight")

Shapes = Mapping[str, torch.Size]


def count_blocks(state_dict_keys: Iterable[str], prefix_string: str) -> int:
    """Count numbered blocks: how many of 0, 1, 2, ... exist without a gap.

    Args:
        state_dict_keys: All keys.
        prefix_string: With ``{}`` for the number, ``"double_blocks.{}."`` for example.
    """
    head, _, tail = prefix_string.partition("{}")
    found = set()
    for key in state_dict_keys:
        if key.startswith(head):
            digits = key[len(head) :].split(tail, 1)[0] if tail else key[len(head) :]
            if digits.isdecimal() and key.startswith(head + digits + tail):
                found.add(int(digits))
    count = 0
    while count in found:
        count += 1
    return count


def calculate_transformer_depth(
    prefix: str, state_dict_keys: Iterable[str], state_dict: Mapping[str, torch.Tensor]
) -> tuple[int, int, bool, bool, bool] | None:
    """Measure the spatial transformer at `prefix`; None if there is none.

    Returns:
        Blocks, context width, whether its projections are linear (not 1x1 convolutions), and,
        for models of pictures always False, whether it mixes over time, without and with context.
    """
    keys = [key for key in state_dict_keys if key.startswith(prefix)]
    depth = count_blocks(keys, prefix + "transformer_blocks.{}.")
    if not depth:
        return None
    context = state_dict[f"{prefix}transformer_blocks.0.attn2.to_k.weight"].shape[1]
    linear = state_dict[f"{prefix}proj_in.weight"].ndim == 2
    return depth, context, linear, False, False


def shapes_under(state_dict: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Size]:
    """The shapes of all tensors under `prefix`, by the rest of their keys."""
    return {
        key[len(prefix) :]: tensor.shape
        for key, tensor in state_dict.items()
        if key.startswith(prefix)
    }


@dataclass
class _Levels:
    """What both schools say about resolutions, from the finest to the coarsest.

    Attributes:
        resnets: Per level.
        mult: Width of each level in units of the first.
        depth_in: Transformer blocks after each resnet on the way down.
        depth_out: Likewise on the way up, last block first: in the order of `depth_in`.
        depth_middle: In the middle; -1: a resnet only, -2: no middle at all.
    """

    resnets: list[int] = field(default_factory=list)
    mult: list[int] = field(default_factory=list)
    depth_in: list[int] = field(default_factory=list)
    depth_out: list[int] = field(default_factory=list)
    depth_middle: int = -2


def _depth(shapes: Shapes, place: str) -> int:
    return count_blocks(shapes, place + ".transformer_blocks.{}.")


def _original_levels(shapes: Shapes, channels: int) -> _Levels:
    levels = _Levels(resnets=[0], mult=[1])
    for block in range(1, count_blocks(shapes, "input_blocks.{}.")):
        if f"input_blocks.{block}.0.op.weight" in shapes:
            levels.resnets.append(0)
            levels.mult.append(levels.mult[-1])
            continue
        width = shapes[f"input_blocks.{block}.0.out_layers.3.weight"][0]
        levels.resnets[-1] += 1
        levels.mult[-1] = width // channels
        levels.depth_in.append(_depth(shapes, f"input_blocks.{block}.1"))
    blocks = range(count_blocks(shapes, "output_blocks.{}."))
    levels.depth_out = [_depth(shapes, f"output_blocks.{block}.1") for block in reversed(blocks)]
    if "middle_block.1.proj_in.weight" in shapes:
        levels.depth_middle = _depth(shapes, "middle_block.1")
    elif "middle_block.0.in_layers.0.weight" in shapes:
        levels.depth_middle = -1
    return levels


def _diffusers_levels(shapes: Shapes, channels: int) -> _Levels:
    levels = _Levels()
    up_blocks = count_blocks(shapes, "up_blocks.{}.")
    for level in range(count_blocks(shapes, "down_blocks.{}.")):
        down = f"down_blocks.{level}"
        resnets = count_blocks(shapes, down + ".resnets.{}.")
        levels.resnets.append(resnets)
        levels.mult.append(shapes[f"{down}.resnets.0.conv1.weight"][0] // channels)
        levels.depth_in += [_depth(shapes, f"{down}.attentions.{i}") for i in range(resnets)]
        up = f"up_blocks.{up_blocks - 1 - level}"
        levels.depth_out += [
            _depth(shapes, f"{up}.attentions.{i}") for i in reversed(range(resnets + 1))
        ]
    if "mid_block.attentions.0.proj_in.weight" in shapes:
        levels.depth_middle = _depth(shapes, "mid_block.attentions.0")
    elif "mid_block.resnets.0.conv1.weight" in shapes:
        levels.depth_middle = -1
    return levels


def _first_transformer(shapes: Shapes) -> tuple[int | None, bool]:
    """Context width, and whether projections are linear."""
    end = ".transformer_blocks.0.attn2.to_k.weight"
    key = next((key for key in shapes if key.endswith(end)), None)
    if key is None:
        return None, False
    return shapes[key][1], len(shapes[key.removesuffix(end) + ".proj_in.weight"]) == 2


def _config(
    shapes: Shapes,
    levels_of: Callable[[Shapes, int], _Levels],
    entry: str,
    labels: tuple[str, ...],
) -> tuple[dict[str, Any], list[int]]:
    """All numbers but those of the output side, and the depths of its transformers."""
    channels, inputs = shapes[entry][:2]
    levels = levels_of(shapes, channels)
    context, linear = _first_transformer(shapes)
    label = next((name for name in labels if name in shapes), None)
    config: dict[str, Any] = {
        "image_size": 32,
        "in_channels": inputs,
        "model_channels": channels,
        "num_res_blocks": levels.resnets,
        "channel_mult": levels.mult,
        "transformer_depth": levels.depth_in,
        "transformer_depth_middle": levels.depth_middle,
        "context_dim": context,
        "use_spatial_transformer": True,
        "use_linear_in_transformer": linear,
        "legacy": False,
        "adm_in_channels": shapes[label][1] if label is not None else None,
    }
    if label is not None:
        config["num_classes"] = "sequential"
    return config, levels.depth_out


def _with_output_side(
    config: dict[str, Any], depths: list[int], out_channels: int
) -> dict[str, Any]:
    return {**config, "out_channels": out_channels, "transformer_depth_output": depths}


def unet_config(shapes: Shapes) -> dict[str, Any]:
    """Read a UNet with original names.

    Args:
        shapes: By key, without the prefix.

    Returns:
        Arguments of the network, as far as shapes tell them: not the heads.

    Raises:
        KeyError: Naming the first tensor that such a UNet has and this one has not.
    """
    config, depths = _config(shapes, _original_levels, ENTRY, LABELS)
    return _with_output_side(config, depths, shapes["out.2.weight"][0])


def diffusers_unet_config(shapes: Shapes) -> dict[str, Any]:
    """Read a UNet with diffusers' names; otherwise as `unet_config`."""
    config, depths = _config(shapes, _diffusers_levels, DIFFUSERS_IN, DIFFUSERS_LABELS)
    return _with_output_side(config, depths, shapes["conv_out.weight"][0])


def input_side_config(shapes: Shapes) -> dict[str, Any]:
    """Read a network that is a UNet's input side and middle; otherwise as `unet_config`."""
    return _config(shapes, _original_levels, ENTRY, LABELS)[0]


def diffusers_input_side_config(shapes: Shapes) -> dict[str, Any]:
    """Read such a network with diffusers' names; otherwise as `unet_config`."""
    return _config(shapes, _diffusers_levels, DIFFUSERS_IN, DIFFUSERS_LABELS)[0]


def is_video(shapes: Shapes) -> bool:
    """Whether the UNet mixes over time."""
    return any(".time_stack." in key or ".time_mix_blocks." in key for key in shapes)

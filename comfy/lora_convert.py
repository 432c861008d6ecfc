"""LoRA files of a few trainers, brought to the names that all others use."""

from __future__ import annotations

from collections.abc import Mapping

import torch

_CONTROL_MARKS = ("img_in.lora_A.weight", "single_blocks.0.norm.key_norm.scale")
_WAN_FUN = "lora_unet__"


def _convert_control(sd: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Black Forest Labs' control LoRA: bare names, biases, scales of norms, a wider input."""
    converted: dict[str, torch.Tensor] = {}
    for key, value in sd.items():
        name = f"diffusion_model.{key}"
        if name.endswith(".lora_B.bias"):
            name = f"{name.removesuffix('.lora_B.bias')}.diff_b"
        elif name.endswith("_norm.scale"):
            name = f"{name}.set_weight"
        converted[name] = value
    shape = (sd["img_in.lora_B.weight"].shape[0], sd["img_in.lora_A.weight"].shape[1])
    converted["diffusion_model.img_in.reshape_weight"] = torch.tensor(shape)
    return converted


def convert_lora(sd: Mapping[str, torch.Tensor]) -> Mapping[str, torch.Tensor]:
    """Rename the keys of unusual LoRA files; reads no tensor and leaves `sd` as it is.

    Args:
        sd: State dict of a LoRA file.

    Returns:
        A new dict where something had to be renamed, else `sd` itself.
    """
    if all(mark in sd for mark in _CONTROL_MARKS):
        return _convert_control(sd)
    if any(key.startswith(_WAN_FUN) for key in sd):
        return {
            f"lora_unet_{key.removeprefix(_WAN_FUN)}" if key.startswith(_WAN_FUN) else key: value
            for key, value in sd.items()
        }
    return sd

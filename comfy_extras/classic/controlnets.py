"""Control nets out of files, and conditionings that they take part in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import comfy.controlnet
import comfy.utils
import folder_paths
from comfy.file_kinds import UndetectedModel, explain

Conditioning = list[Any]


def _strength() -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}


def _percent(default: float) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.001}


def _controlled(
    conditionings: Sequence[Conditioning],
    control_net: Any,
    settings: tuple[Any, ...],
    *,
    applies_to_uncond: bool,
) -> list[Conditioning]:
    """Add a control net to all parts; those with the same one before them share a copy.

    Args:
        conditionings: Stay as they are.
        settings: What the copies' `set_cond_hint` gets.
        applies_to_uncond: Negative prompts without a net of their own get this one.
    """
    nets: dict[int, Any] = {}

    def after(previous: Any) -> Any:
        if id(previous) not in nets:
            net = control_net.copy()
            net.set_cond_hint(*settings)
            net.set_previous_controlnet(previous)
            nets[id(previous)] = net
        return nets[id(previous)]

    def added(options: dict[str, Any]) -> dict[str, Any]:
        net = after(options.get("control"))
        return {**options, "control": net, "control_apply_to_uncond": applies_to_uncond}

    return [[[part[0], added(part[1])] for part in one] for one in conditionings]


def _load(name: str, model: Any = None) -> Any:
    path = folder_paths.get_full_path_or_raise("controlnet", name)
    net = comfy.controlnet.load_controlnet(path, model)
    if net is None:
        held = comfy.utils.load_torch_file(path, safe_load=True)
        raise UndetectedModel(explain(held, path, "a ControlNet"))
    return net


class ControlNetLoader:
    """Loads a control net."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = folder_paths.get_filename_list("controlnet")
        return {"required": {"control_net_name": (names,)}}

    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "load_controlnet"
    CATEGORY = "loaders"

    def load_controlnet(self, control_net_name: str) -> tuple[Any]:
        """Give it; RuntimeError if the file holds none. No weight is read yet."""
        return (_load(control_net_name),)


class DiffControlNetLoader:
    """Loads a control net whose file holds differences to a model's weights."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = folder_paths.get_filename_list("controlnet")
        return {"required": {"model": ("MODEL",), "control_net_name": (names,)}}

    RETURN_TYPES = ("CONTROL_NET",)
    FUNCTION = "load_controlnet"
    CATEGORY = "loaders"

    def load_controlnet(self, model: Any, control_net_name: str) -> tuple[Any]:
        """Give it, the model's weights added to its own when they are loaded."""
        return (_load(control_net_name, model),)


class ControlNetApply:
    """Adds a control net to a positive prompt; negative prompts follow it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "control_net": ("CONTROL_NET",),
                "image": ("IMAGE",),
                "strength": _strength(),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "apply_controlnet"
    CATEGORY = "conditioning/controlnet"
    DEPRECATED = True

    def apply_controlnet(
        self, conditioning: Conditioning, control_net: Any, image: torch.Tensor, strength: float
    ) -> tuple[Conditioning]:
        """Add it; strength 0 changes nothing."""
        if strength == 0:
            return (conditioning,)
        settings = (image.movedim(-1, 1), strength)
        return (_controlled([conditioning], control_net, settings, applies_to_uncond=True)[0],)


class ControlNetApplyAdvanced:
    """Adds a control net to both prompts, for a part of the schedule."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "control_net": ("CONTROL_NET",),
                "image": ("IMAGE",),
                "strength": _strength(),
                "start_percent": _percent(0.0),
                "end_percent": _percent(1.0),
            },
            "optional": {"vae": ("VAE",)},
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    FUNCTION = "apply_controlnet"
    CATEGORY = "conditioning/controlnet"

    def apply_controlnet(
        self,
        positive: Conditioning,
        negative: Conditioning,
        control_net: Any,
        image: torch.Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: Any = None,
        extra_concat: Sequence[torch.Tensor] = (),
    ) -> tuple[Conditioning, Conditioning]:
        """Add it; strength 0 changes nothing.

        Args:
            image: The hint, (batch, height, width, channels), 0 to 1.
            start_percent: 0 is pure noise, 1 the finished picture.
            vae: For nets that see latents.
            extra_concat: What such nets see besides the hint.
        """
        if strength == 0:
            return positive, negative
        during = (start_percent, end_percent)
        settings = (image.movedim(-1, 1), strength, during, vae, list(extra_concat))
        both = _controlled([positive, negative], control_net, settings, applies_to_uncond=False)
        return both[0], both[1]


NODE_CLASS_MAPPINGS = {
    "ControlNetLoader": ControlNetLoader,
    "DiffControlNetLoader": DiffControlNetLoader,
    "ControlNetApply": ControlNetApply,
    "ControlNetApplyAdvanced": ControlNetApplyAdvanced,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ControlNetLoader": "Load ControlNet Model",
    "DiffControlNetLoader": "Load ControlNet Model (diff)",
    "ControlNetApply": "Apply ControlNet (OLD)",
    "ControlNetApplyAdvanced": "Apply ControlNet",
}

"""Conditionings: prompts encoded, joined, and limited to places and times.

A conditioning is a list of ``[tensor (B, tokens, channels), dict]``; nodes give new lists and
dicts, and keep entries that they do not know.
"""

from __future__ import annotations

import logging
from typing import Any

import torch

from node_helpers import MAX_RESOLUTION, conditioning_set_values

logger = logging.getLogger(__name__)

Conditioning = list[Any]

_LATENT_PIXELS = 8


def _strength() -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}


def pixels_input(default: int, least: int) -> tuple[str, dict[str, Any]]:
    """An input for a side of a box, or for where it begins."""
    return "INT", {"default": default, "min": least, "max": MAX_RESOLUTION, "step": _LATENT_PIXELS}


def in_latent(*pixels: int) -> tuple[int, ...]:
    """Sides in positions of the latent, rounded down."""
    return tuple(side // _LATENT_PIXELS for side in pixels)


def _part(default: float, step: float = 0.01, least: float = 0) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": least, "max": 1.0, "step": step}


def _only_first(conditioning: Conditioning, node: str) -> Any:
    """The first part of a conditioning; logs that others are left out."""
    if len(conditioning) > 1:
        logger.warning("%s: conditioning_from has %d parts.", node, len(conditioning))
        logger.warning("%s: only the first of them is used.", node)
    return conditioning[0]


def needed_clip(clip: Any) -> Any:
    """The text encoder; RuntimeError if there is none."""
    if clip is None:
        raise RuntimeError(
            "There is no text encoder: the clip input is None. If it comes from a checkpoint, "
            "that file holds none; load one of its own with CLIPLoader or DualCLIPLoader."
        )
    return clip


class CLIPTextEncode:
    """Encodes a prompt."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        text = {"multiline": True, "dynamicPrompts": True, "tooltip": "What is encoded."}
        return {"required": {"text": ("STRING", text), "clip": ("CLIP",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "encode"
    CATEGORY = "conditioning"
    DESCRIPTION = "Encodes a prompt with a text encoder, for a diffusion model to be guided by it."

    def encode(self, clip: Any, text: str) -> tuple[Conditioning]:
        """Give one part; RuntimeError if there is no text encoder."""
        return (needed_clip(clip).encode_from_tokens_scheduled(clip.tokenize(text)),)


class CLIPSetLastLayer:
    """Chooses the layer of the text encoder whose output is used."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        layer = {"default": -1, "min": -24, "max": -1, "step": 1}
        return {"required": {"clip": ("CLIP",), "stop_at_clip_layer": ("INT", layer)}}

    RETURN_TYPES = ("CLIP",)
    FUNCTION = "set_last_layer"
    CATEGORY = "conditioning"

    def set_last_layer(self, clip: Any, stop_at_clip_layer: int) -> tuple[Any]:
        """Give a clone; -1 is the last layer."""
        chosen = clip.clone()
        chosen.clip_layer(stop_at_clip_layer)
        return (chosen,)


class ConditioningCombine:
    """Lets two conditionings guide side by side."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        inputs = {"conditioning_1": ("CONDITIONING",), "conditioning_2": ("CONDITIONING",)}
        return {"required": inputs}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "combine"
    CATEGORY = "conditioning"

    def combine(
        self, conditioning_1: Conditioning, conditioning_2: Conditioning
    ) -> tuple[Conditioning]:
        """Give the parts of both."""
        return (conditioning_1 + conditioning_2,)


class ConditioningConcat:
    """Lets one prompt follow another."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        inputs = {"conditioning_to": ("CONDITIONING",), "conditioning_from": ("CONDITIONING",)}
        return {"required": inputs}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "concat"
    CATEGORY = "conditioning"

    def concat(
        self, conditioning_to: Conditioning, conditioning_from: Conditioning
    ) -> tuple[Conditioning]:
        """Put the first part's tokens behind those of each part of `conditioning_to`."""
        tokens = _only_first(conditioning_from, "ConditioningConcat")[0]
        return (
            [
                [torch.cat((old, tokens), dim=1), dict(options)]
                for old, options, *_ in conditioning_to
            ],
        )


class ConditioningAverage:
    """Mixes two prompts."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "conditioning_to": ("CONDITIONING",),
                "conditioning_from": ("CONDITIONING",),
                "conditioning_to_strength": _part(1.0, least=0.0),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "addWeighted"
    CATEGORY = "conditioning"

    def addWeighted(
        self,
        conditioning_to: Conditioning,
        conditioning_from: Conditioning,
        conditioning_to_strength: float,
    ) -> tuple[Conditioning]:
        """Mix tokens and pooled outputs: strength 1 is `conditioning_to` alone.

        The first part of `conditioning_from` is cut, or filled with zeros, to as many tokens.
        """
        other, other_options = _only_first(conditioning_from, "ConditioningAverage")[:2]
        other_pooled = other_options.get("pooled_output")
        mixed = []
        for tokens, options, *_ in conditioning_to:
            count = tokens.shape[1]
            missing = max(0, count - other.shape[1])
            fitted = torch.nn.functional.pad(other[:, :count], (0, 0, 0, missing))
            options = dict(options)
            pooled = options.get("pooled_output")
            if other_pooled is not None:
                pooled = other_pooled if pooled is None else pooled
                options["pooled_output"] = _mix(other_pooled, pooled, conditioning_to_strength)
            mixed.append([_mix(fitted, tokens, conditioning_to_strength), options])
        return (mixed,)


def _mix(start: torch.Tensor, end: torch.Tensor, part: float) -> torch.Tensor:
    return end * part + start * (1.0 - part)


class ConditioningSetArea:
    """Limits a conditioning to a rectangle, in pixels."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "width": pixels_input(64, 64),
                "height": pixels_input(64, 64),
                "x": pixels_input(0, 0),
                "y": pixels_input(0, 0),
                "strength": _strength(),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(
        self,
        conditioning: Conditioning,
        width: int,
        height: int,
        x: int,
        y: int,
        strength: float,
    ) -> tuple[Conditioning]:
        """Set area, in positions of the latent, and strength."""
        return (_with_area(conditioning, in_latent(height, width, y, x), strength),)


def _with_area(conditioning: Conditioning, area: tuple[Any, ...], strength: float) -> Conditioning:
    values = {"area": area, "strength": strength, "set_area_to_bounds": False}
    return conditioning_set_values(conditioning, values)


class ConditioningSetAreaPercentage:
    """Limits a conditioning to a rectangle, in parts of the picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "width": _part(1.0),
                "height": _part(1.0),
                "x": _part(0),
                "y": _part(0),
                "strength": _strength(),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(
        self,
        conditioning: Conditioning,
        width: float,
        height: float,
        x: float,
        y: float,
        strength: float,
    ) -> tuple[Conditioning]:
        """Set area and strength."""
        return (_with_area(conditioning, ("percentage", height, width, y, x), strength),)


class ConditioningSetAreaStrength:
    """Sets how much a conditioning counts in its area."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"conditioning": ("CONDITIONING",), "strength": _strength()}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(self, conditioning: Conditioning, strength: float) -> tuple[Conditioning]:
        """Set the strength."""
        return (conditioning_set_values(conditioning, {"strength": strength}),)


class ConditioningSetMask:
    """Limits a conditioning to a mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "mask": ("MASK",),
                "strength": _strength(),
                "set_cond_area": (["default", "mask bounds"],),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "append"
    CATEGORY = "conditioning"

    def append(
        self, conditioning: Conditioning, mask: torch.Tensor, set_cond_area: str, strength: float
    ) -> tuple[Conditioning]:
        """Set mask, (B, height, width), and strength.

        "mask bounds" lets the model see only the rectangle round the mask.
        """
        values = {
            "mask": mask.unsqueeze(0) if mask.ndim < 3 else mask,
            "set_area_to_bounds": set_cond_area != "default",
            "mask_strength": strength,
        }
        return (conditioning_set_values(conditioning, values),)


class ConditioningSetTimestepRange:
    """Limits a conditioning to a part of the schedule."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "conditioning": ("CONDITIONING",),
                "start": _part(0.0, 0.001, 0.0),
                "end": _part(1.0, 0.001, 0.0),
            }
        }

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "set_range"
    CATEGORY = "advanced/conditioning"

    def set_range(
        self, conditioning: Conditioning, start: float, end: float
    ) -> tuple[Conditioning]:
        """Set start and end: 0 is pure noise, 1 the finished picture."""
        values = {"start_percent": start, "end_percent": end}
        return (conditioning_set_values(conditioning, values),)


class ConditioningZeroOut:
    """Empties a conditioning: nothing is said, not even an empty prompt."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"conditioning": ("CONDITIONING",)}}

    RETURN_TYPES = ("CONDITIONING",)
    FUNCTION = "zero_out"
    CATEGORY = "advanced/conditioning"

    _EMPTIED = ("pooled_output", "conditioning_lyrics")

    def zero_out(self, conditioning: Conditioning) -> tuple[Conditioning]:
        """Set tokens and pooled output to zero."""
        emptied = []
        for tokens, options, *_ in conditioning:
            given = {key: options[key] for key in self._EMPTIED if options.get(key) is not None}
            zeros = {key: torch.zeros_like(value) for key, value in given.items()}
            emptied.append([torch.zeros_like(tokens), {**options, **zeros}])
        return (emptied,)


NODE_CLASS_MAPPINGS = {
    "CLIPTextEncode": CLIPTextEncode,
    "CLIPSetLastLayer": CLIPSetLastLayer,
    "ConditioningAverage": ConditioningAverage,
    "ConditioningCombine": ConditioningCombine,
    "ConditioningConcat": ConditioningConcat,
    "ConditioningSetArea": ConditioningSetArea,
    "ConditioningSetAreaPercentage": ConditioningSetAreaPercentage,
    "ConditioningSetAreaStrength": ConditioningSetAreaStrength,
    "ConditioningSetMask": ConditioningSetMask,
    "ConditioningSetTimestepRange": ConditioningSetTimestepRange,
    "ConditioningZeroOut": ConditioningZeroOut,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "CLIPTextEncode": "CLIP Text Encode (Prompt)",
    "CLIPSetLastLayer": "CLIP Set Last Layer",
    "ConditioningCombine": "Conditioning (Combine)",
    "ConditioningConcat": "Conditioning (Concat)",
    "ConditioningSetArea": "Conditioning (Set Area)",
    "ConditioningSetAreaPercentage": "Conditioning (Set Area with Percentage)",
    "ConditioningSetMask": "Conditioning (Set Mask)",
}

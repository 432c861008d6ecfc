"""Hooks, masks and times put on conditionings, one at a time or positive and negative together."""

from __future__ import annotations

from typing import Any

import torch

import comfy.hooks
from comfy.hooks import HookGroup

Conditioning = list[Any]
Range = tuple[float, float]


def _conditionings(*names: str) -> dict[str, Any]:
    return dict.fromkeys(names, ("CONDITIONING",))


def _properties(*names: str) -> dict[str, Any]:
    """The inputs of a node that puts properties on the conditionings of these names."""
    strength = {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.01}
    return {
        "required": {
            **_conditionings(*names),
            "strength": ("FLOAT", strength),
            "set_cond_area": (["default", "mask bounds"],),
        },
        "optional": {
            "mask": ("MASK",),
            "hooks": ("HOOKS",),
            "timesteps": ("TIMESTEPS_RANGE",),
        },
    }


class _Single:
    """Gives one conditioning."""

    EXPERIMENTAL = True
    RETURN_TYPES = ("CONDITIONING",)
    CATEGORY = "advanced/hooks/cond single"


class _Pair:
    """Gives a positive and a negative conditioning."""

    EXPERIMENTAL = True
    RETURN_TYPES = ("CONDITIONING", "CONDITIONING")
    RETURN_NAMES = ("positive", "negative")
    CATEGORY = "advanced/hooks/cond pair"


class ConditioningSetProperties(_Single):
    """Puts properties on a conditioning."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return _properties("cond_NEW")

    FUNCTION = "set_properties"

    def set_properties(
        self,
        cond_NEW: Conditioning,
        strength: float,
        set_cond_area: str,
        mask: torch.Tensor | None = None,
        hooks: HookGroup | None = None,
        timesteps: Range | None = None,
    ) -> tuple[Conditioning, ...]:
        """See `comfy.hooks.set_conds_props`."""
        how = (strength, set_cond_area, mask, hooks, timesteps)
        return tuple(comfy.hooks.set_conds_props([cond_NEW], *how))


class ConditioningSetPropertiesAndCombine(_Single):
    """Puts properties on a conditioning, and adds it to another."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return _properties("cond", "cond_NEW")

    FUNCTION = "set_properties"

    def set_properties(
        self,
        cond: Conditioning,
        cond_NEW: Conditioning,
        strength: float,
        set_cond_area: str,
        mask: torch.Tensor | None = None,
        hooks: HookGroup | None = None,
        timesteps: Range | None = None,
    ) -> tuple[Conditioning, ...]:
        """See `comfy.hooks.set_conds_props_and_combine`."""
        how = (strength, set_cond_area, mask, hooks, timesteps)
        return tuple(comfy.hooks.set_conds_props_and_combine([cond], [cond_NEW], *how))


class PairConditioningSetProperties(_Pair):
    """Puts the same properties on a positive and a negative conditioning."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return _properties("positive_NEW", "negative_NEW")

    FUNCTION = "set_properties"

    def set_properties(
        self,
        positive_NEW: Conditioning,
        negative_NEW: Conditioning,
        strength: float,
        set_cond_area: str,
        mask: torch.Tensor | None = None,
        hooks: HookGroup | None = None,
        timesteps: Range | None = None,
    ) -> tuple[Conditioning, ...]:
        """See `comfy.hooks.set_conds_props`."""
        how = (strength, set_cond_area, mask, hooks, timesteps)
        return tuple(comfy.hooks.set_conds_props([positive_NEW, negative_NEW], *how))


class PairConditioningSetPropertiesAndCombine(_Pair):
    """Puts the same properties on a pair, and adds it to another."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return _properties("positive", "negative", "positive_NEW", "negative_NEW")

    FUNCTION = "set_properties"

    def set_properties(
        self,
        positive: Conditioning,
        negative: Conditioning,
        positive_NEW: Conditioning,
        negative_NEW: Conditioning,
        strength: float,
        set_cond_area: str,
        mask: torch.Tensor | None = None,
        hooks: HookGroup | None = None,
        timesteps: Range | None = None,
    ) -> tuple[Conditioning, ...]:
        """See `comfy.hooks.set_conds_props_and_combine`."""
        present, new = [positive, negative], [positive_NEW, negative_NEW]
        how = (strength, set_cond_area, mask, hooks, timesteps)
        return tuple(comfy.hooks.set_conds_props_and_combine(present, new, *how))


class ConditioningSetDefaultCombine(_Single):
    """Adds a conditioning that holds where no other does."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": _conditionings("cond", "cond_DEFAULT"),
            "optional": {"hooks": ("HOOKS",)},
        }

    FUNCTION = "set_default_and_combine"

    def set_default_and_combine(
        self, cond: Conditioning, cond_DEFAULT: Conditioning, hooks: HookGroup | None = None
    ) -> tuple[Conditioning, ...]:
        """See `comfy.hooks.set_default_conds_and_combine`."""
        made = comfy.hooks.set_default_conds_and_combine([cond], [cond_DEFAULT], hooks)
        return tuple(made)


class PairConditioningSetDefaultCombine(_Pair):
    """The same for a pair."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = ("positive", "negative", "positive_DEFAULT", "negative_DEFAULT")
        return {"required": _conditionings(*names), "optional": {"hooks": ("HOOKS",)}}

    FUNCTION = "set_default_and_combine"

    def set_default_and_combine(
        self,
        positive: Conditioning,
        negative: Conditioning,
        positive_DEFAULT: Conditioning,
        negative_DEFAULT: Conditioning,
        hooks: HookGroup | None = None,
    ) -> tuple[Conditioning, ...]:
        """See `comfy.hooks.set_default_conds_and_combine`."""
        pairs = [positive, negative], [positive_DEFAULT, negative_DEFAULT]
        return tuple(comfy.hooks.set_default_conds_and_combine(*pairs, hooks))


class PairConditioningCombine(_Pair):
    """Adds one pair of conditionings to another."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        names = ("positive_A", "negative_A", "positive_B", "negative_B")
        return {"required": _conditionings(*names)}

    FUNCTION = "combine"

    def combine(
        self,
        positive_A: Conditioning,
        negative_A: Conditioning,
        positive_B: Conditioning,
        negative_B: Conditioning,
    ) -> tuple[Conditioning, Conditioning]:
        """Give both positives and both negatives, each as one."""
        pairs = (positive_A, positive_B), (negative_A, negative_B)
        first, second = (comfy.hooks.combine_conditioning(pair) for pair in pairs)
        return first, second


NODE_CLASS_MAPPINGS = {
    "ConditioningSetProperties": ConditioningSetProperties,
    "ConditioningSetPropertiesAndCombine": ConditioningSetPropertiesAndCombine,
    "PairConditioningSetProperties": PairConditioningSetProperties,
    "PairConditioningSetPropertiesAndCombine": PairConditioningSetPropertiesAndCombine,
    "ConditioningSetDefaultCombine": ConditioningSetDefaultCombine,
    "PairConditioningSetDefaultCombine": PairConditioningSetDefaultCombine,
    "PairConditioningCombine": PairConditioningCombine,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ConditioningSetProperties": "Cond Set Props",
    "ConditioningSetPropertiesAndCombine": "Cond Set Props Combine",
    "PairConditioningSetProperties": "Cond Pair Set Props",
    "PairConditioningSetPropertiesAndCombine": "Cond Pair Set Props Combine",
    "ConditioningSetDefaultCombine": "Cond Set Default Combine",
    "PairConditioningSetDefaultCombine": "Cond Pair Set Default Combine",
    "PairConditioningCombine": "Cond Pair Combine",
}

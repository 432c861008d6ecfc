"""How strong hooks are over the time of a sampling."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from comfy.hooks import HookGroup, HookKeyframe, HookKeyframeGroup

logger = logging.getLogger(__name__)

_CATEGORY = "advanced/hooks/scheduling"
# How far a curve has come after a share t of its time.
_CURVES: dict[str, Callable[[float], float]] = {
    "linear": lambda t: t,
    "ease_in": lambda t: t**2,
    "ease_out": lambda t: 1.0 - (1.0 - t) ** 2,
    "ease_in_out": lambda t: (1.0 - math.cos(math.pi * t)) / 2.0,
}


def _percent(default: float) -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": default, "min": 0.0, "max": 1.0, "step": 0.001}


def _curve_strength() -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": 0.0, "max": 10.0, "step": 0.001}


def _shares(count: int) -> list[float]:
    """Equal steps from 0 to 1; 0 alone for one."""
    return [index / max(count - 1, 1) for index in range(count)]


def _with_keyframes(
    before: HookKeyframeGroup | None,
    strengths: Sequence[float],
    start: float,
    end: float,
    is_told: bool,
) -> HookKeyframeGroup:
    """Add keyframes at equal steps of time; the first holds for a step at least."""
    group = HookKeyframeGroup() if before is None else before.clone()
    for share, strength in zip(_shares(len(strengths)), strengths, strict=True):
        at = start + (end - start) * share
        steps = 1 if share == 0.0 else 0
        group.add(HookKeyframe(strength, start_percent=at, guarantee_steps=steps))
        if is_told:
            logger.info("hook keyframe at %.3f: strength %.3f", at, strength)
    return group


class SetHookKeyframes:
    """Gives all hooks of a group the same keyframes."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {"hooks": ("HOOKS",)},
            "optional": {"hook_kf": ("HOOK_KEYFRAMES",)},
        }

    EXPERIMENTAL = True
    RETURN_TYPES = ("HOOKS",)
    CATEGORY = _CATEGORY
    FUNCTION = "set_hook_keyframes"

    def set_hook_keyframes(
        self, hooks: HookGroup, hook_kf: HookKeyframeGroup | None = None
    ) -> tuple[HookGroup]:
        """Give clones with these keyframes; without any the group as it is."""
        if hook_kf is None:
            return (hooks,)
        clones = hooks.clone()
        clones.set_keyframes_on_hooks(hook_kf)
        return (clones,)


class _Creating:
    """A node that makes keyframes."""

    EXPERIMENTAL = True
    RETURN_TYPES = ("HOOK_KEYFRAMES",)
    RETURN_NAMES = ("HOOK_KF",)
    CATEGORY = _CATEGORY


class CreateHookKeyframe(_Creating):
    """One strength from one time on."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        strength = {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01}
        return {
            "required": {"strength_mult": ("FLOAT", strength), "start_percent": _percent(0.0)},
            "optional": {"prev_hook_kf": ("HOOK_KEYFRAMES",)},
        }

    FUNCTION = "create_hook_keyframe"

    def create_hook_keyframe(
        self,
        strength_mult: float,
        start_percent: float,
        prev_hook_kf: HookKeyframeGroup | None = None,
    ) -> tuple[HookKeyframeGroup]:
        """Give the keyframes before it, and it."""
        group = HookKeyframeGroup() if prev_hook_kf is None else prev_hook_kf.clone()
        group.add(HookKeyframe(strength_mult, start_percent=start_percent))
        return (group,)


class CreateHookKeyframesInterpolated(_Creating):
    """Strengths along a curve."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "strength_start": _curve_strength(),
                "strength_end": _curve_strength(),
                "interpolation": (list(_CURVES),),
                "start_percent": _percent(0.0),
                "end_percent": _percent(1.0),
                "keyframes_count": ("INT", {"default": 5, "min": 2, "max": 100, "step": 1}),
                "print_keyframes": ("BOOLEAN", {"default": False}),
            },
            "optional": {"prev_hook_kf": ("HOOK_KEYFRAMES",)},
        }

    FUNCTION = "create_hook_keyframes"

    def create_hook_keyframes(
        self,
        strength_start: float,
        strength_end: float,
        interpolation: str,
        start_percent: float,
        end_percent: float,
        keyframes_count: int,
        print_keyframes: bool = False,
        prev_hook_kf: HookKeyframeGroup | None = None,
    ) -> tuple[HookKeyframeGroup]:
        """Give the keyframes before these, and these; `print_keyframes` writes them to the log."""
        curve = _CURVES[interpolation]
        change = strength_end - strength_start
        strengths = [strength_start + change * curve(t) for t in _shares(keyframes_count)]
        how = (strengths, start_percent, end_percent, print_keyframes)
        return (_with_keyframes(prev_hook_kf, *how),)


class CreateHookKeyframesFromFloats(_Creating):
    """Strengths from a list of numbers."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        floats = {"default": -1, "min": -1, "step": 0.001, "forceInput": True}
        return {
            "required": {
                "floats_strength": ("FLOATS", floats),
                "start_percent": _percent(0.0),
                "end_percent": _percent(1.0),
                "print_keyframes": ("BOOLEAN", {"default": False}),
            },
            "optional": {"prev_hook_kf": ("HOOK_KEYFRAMES",)},
        }

    FUNCTION = "create_hook_keyframes"

    def create_hook_keyframes(
        self,
        floats_strength: float | Sequence[float],
        start_percent: float,
        end_percent: float,
        print_keyframes: bool = False,
        prev_hook_kf: HookKeyframeGroup | None = None,
    ) -> tuple[HookKeyframeGroup]:
        """Give the keyframes before these, and one for each number.

        Raises:
            TypeError: If it is no number and no list of numbers.
        """
        given = floats_strength
        if isinstance(given, (int, float)):
            given = [given]
        elif isinstance(given, (str, bytes)) or not hasattr(given, "__iter__"):
            raise TypeError(
                "Create Hook Keyframes From Floats: floats_strength must be a number or a list of "
                f"numbers, not {type(given).__name__}. Connect a node that gives FLOATS."
            )
        strengths = [float(one) for one in given]
        how = (strengths, start_percent, end_percent, print_keyframes)
        return (_with_keyframes(prev_hook_kf, *how),)


class ConditioningTimestepsRange:
    """A range of time, and what lies before and after it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"start_percent": _percent(0.0), "end_percent": _percent(1.0)}}

    EXPERIMENTAL = True
    RETURN_TYPES = ("TIMESTEPS_RANGE", "TIMESTEPS_RANGE", "TIMESTEPS_RANGE")
    RETURN_NAMES = ("TIMESTEPS_RANGE", "BEFORE_RANGE", "AFTER_RANGE")
    CATEGORY = "advanced/hooks"
    FUNCTION = "create_range"

    def create_range(
        self, start_percent: float, end_percent: float
    ) -> tuple[tuple[float, float], ...]:
        """Give pairs of start and end, 0 (all noise) to 1."""
        return (start_percent, end_percent), (0.0, start_percent), (end_percent, 1.0)


NODE_CLASS_MAPPINGS = {
    "SetHookKeyframes": SetHookKeyframes,
    "CreateHookKeyframe": CreateHookKeyframe,
    "CreateHookKeyframesInterpolated": CreateHookKeyframesInterpolated,
    "CreateHookKeyframesFromFloats": CreateHookKeyframesFromFloats,
    "ConditioningTimestepsRange": ConditioningTimestepsRange,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "SetHookKeyframes": "Set Hook Keyframes",
    "CreateHookKeyframe": "Create Hook Keyframe",
    "CreateHookKeyframesInterpolated": "Create Hook Keyframes Interp.",
    "CreateHookKeyframesFromFloats": "Create Hook Keyframes From Floats",
    "ConditioningTimestepsRange": "Timesteps Range",
}

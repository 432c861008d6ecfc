"""Hooks: changes of a model that hold for some conditionings, at some times of a sampling.

A `HookGroup` travels in a conditioning's dict under "hooks". A weight hook registers its patches
with the model's patcher once for a sampling, and the patcher puts those of one group at a time in
force, each at the strength of its hook's keyframe.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from typing import Any

import torch

import comfy.lora
from comfy.hook_conds import (
    combine_conditioning,
    set_conds_props,
    set_conds_props_and_combine,
    set_default_conds_and_combine,
    set_hooks_for_conditioning,
    set_mask_for_conditioning,
    set_timesteps_for_conditioning,
)
from comfy.hook_keyframes import HookKeyframe, HookKeyframeGroup
from comfy.lora_convert import convert_lora

__all__ = [
    "EnumHookMode",
    "EnumHookScope",
    "EnumHookType",
    "EnumWeightTarget",
    "Hook",
    "HookGroup",
    "HookKeyframe",
    "HookKeyframeGroup",
    "TransformerOptionsHook",
    "WeightHook",
    "combine_conditioning",
    "create_hook_lora",
    "create_hook_model_as_lora",
    "create_target_dict",
    "set_conds_props",
    "set_conds_props_and_combine",
    "set_default_conds_and_combine",
    "set_hooks_for_conditioning",
    "set_mask_for_conditioning",
    "set_timesteps_for_conditioning",
]


class EnumHookMode(enum.Enum):
    """What is saved when hooks change: memory or time."""

    MinVram = "minvram"
    MaxSpeed = "maxspeed"


class EnumHookType(enum.Enum):
    """What a hook changes."""

    Weight = "weight"
    ObjectPatch = "object_patch"
    AdditionalModels = "add_models"
    TransformerOptions = "transformer_options"
    Injections = "add_injections"


class EnumWeightTarget(enum.Enum):
    """Which model a patcher holds."""

    Model = "model"
    Clip = "clip"


class EnumHookScope(enum.Enum):
    """Which conditionings a hook is for: all of a sampling, or those that carry it."""

    AllConditioning = "all_conditioning"
    HookedOnly = "hooked_only"


class _HookRef:
    """Identity of a hook, shared by its clones."""


class Hook:
    """A change of a model.

    Attributes:
        hook_type: Kind.
        hook_ref: Equal hooks share it.
        hook_id: Name, or None.
        hook_keyframe: Its strength over time.
        hook_scope: Conditionings that it is for.
    """

    def __init__(
        self,
        hook_type: EnumHookType | None = None,
        hook_ref: Any = None,
        hook_id: str | None = None,
        hook_keyframe: HookKeyframeGroup | None = None,
        hook_scope: EnumHookScope = EnumHookScope.AllConditioning,
    ) -> None:
        self.hook_type = hook_type
        self.hook_ref = _HookRef() if hook_ref is None else hook_ref
        self.hook_id = hook_id
        self.hook_keyframe = HookKeyframeGroup() if hook_keyframe is None else hook_keyframe
        self.hook_scope = hook_scope

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Hook) and self.hook_ref == other.hook_ref

    def __hash__(self) -> int:
        return hash(self.hook_ref)

    @property
    def strength(self) -> float:
        """Of the keyframe in force."""
        return self.hook_keyframe.strength

    def initialize_timesteps(self, model: Any) -> None:
        """Get ready for a sampling with a model."""
        self.hook_keyframe.initialize_timesteps(model)

    def reset(self) -> None:
        """Begin again with the first keyframe."""
        self.hook_keyframe.reset()

    def clone(self) -> Hook:
        """The same hook with keyframes of its own."""
        copy = self.__class__.__new__(self.__class__)
        copy.__dict__.update(self.__dict__)
        copy.hook_keyframe = self.hook_keyframe.clone()
        return copy

    def add_hook_patches(
        self,
        model: Any,
        model_options: Mapping[str, Any] | None,
        target_dict: Mapping[str, Any],
        registered: HookGroup | None,
    ) -> bool:
        """Give a patcher what it needs.

        Args:
            model: The patcher.
            model_options: Of the sampling.
            target_dict: Says under "target" which model it holds.
            registered: Receives this hook.

        Returns:
            Whether the hook has been registered; one that patches no weights has nothing to give.
        """
        return False


class WeightHook(Hook):
    """Patches of weights.

    Attributes:
        weights: Patches for the diffusion model, or a LoRA's state dict.
        weights_clip: Patches for the text encoders, or None with a LoRA.
        need_weight_init: Whether `weights` is a LoRA's state dict.
    """

    def __init__(self, strength_model: float = 1.0, strength_clip: float = 1.0) -> None:
        super().__init__(EnumHookType.Weight, hook_scope=EnumHookScope.HookedOnly)
        self._strength_model = strength_model
        self._strength_clip = strength_clip
        self.weights: Mapping[Any, Any] | None = None
        self.weights_clip: Mapping[Any, Any] | None = None
        self.need_weight_init = True

    @property
    def strength_model(self) -> float:
        """For the diffusion model, at present."""
        return self._strength_model * self.strength

    @property
    def strength_clip(self) -> float:
        """For the text encoders, at present."""
        return self._strength_clip * self.strength

    def add_hook_patches(
        self,
        model: Any,
        model_options: Mapping[str, Any] | None,
        target_dict: Mapping[str, Any],
        registered: HookGroup | None,
    ) -> bool:
        """Register the patches at full strength; the patcher scales them by the keyframe."""
        is_clip = target_dict.get("target") == EnumWeightTarget.Clip
        strength = self._strength_clip if is_clip else self._strength_model
        model.add_hook_patches(self, self._patches(model, is_clip), strength_patch=strength)
        if registered is not None:
            registered.add(self)
        return True

    def _patches(self, model: Any, is_clip: bool) -> Mapping[Any, Any]:
        if not self.need_weight_init:
            return (self.weights_clip if is_clip else self.weights) or {}
        if is_clip:
            names = comfy.lora.model_lora_keys_clip(model.model, {})
        else:
            names = comfy.lora.model_lora_keys_unet(model.model, {})
        # Half of the file is for the other model, so that unused keys mean nothing.
        return comfy.lora.load_lora(self.weights or {}, names, log_missing=False)


class TransformerOptionsHook(Hook):
    """Transformer options that hold while the hook is in force."""

    def __init__(
        self,
        transformers_dict: Mapping[str, Any] | None = None,
        hook_scope: EnumHookScope = EnumHookScope.AllConditioning,
    ) -> None:
        super().__init__(EnumHookType.TransformerOptions, hook_scope=hook_scope)
        self.transformers_dict = dict(transformers_dict or {})


class HookGroup:
    """Hooks that are in force together.

    Attributes:
        hooks: Without repeats, in the order of adding.
    """

    def __init__(self, hooks: Iterable[Hook] = ()) -> None:
        self.hooks: list[Hook] = list(dict.fromkeys(hooks))

    def __len__(self) -> int:
        return len(self.hooks)

    def add(self, hook: Hook) -> None:
        """Add a hook, unless it is there."""
        if hook not in self.hooks:
            self.hooks.append(hook)

    def remove(self, hook: Hook) -> None:
        """Take a hook out, if it is there."""
        self.hooks = [one for one in self.hooks if one != hook]

    def contains(self, hook: Hook) -> bool:
        """Whether a hook is there."""
        return hook in self.hooks

    def get_type(self, hook_type: EnumHookType) -> list[Hook]:
        """The hooks of one kind."""
        return [hook for hook in self.hooks if hook.hook_type == hook_type]

    def is_subset_of(self, other: HookGroup) -> bool:
        """Whether all of these hooks are in `other`, too."""
        return set(self.hooks) <= set(other.hooks)

    def clone(self) -> HookGroup:
        """Clones of all hooks."""
        return HookGroup(hook.clone() for hook in self.hooks)

    def clone_and_combine(self, other: HookGroup | None) -> HookGroup:
        """Clones of the hooks of both groups, of a hook that is in both once."""
        theirs = [] if other is None else other.clone().hooks
        return HookGroup([*self.clone().hooks, *theirs])

    def set_keyframes_on_hooks(self, hook_kf: HookKeyframeGroup | None) -> None:
        """Give every hook a copy of these keyframes; None for none."""
        for hook in self.hooks:
            hook.hook_keyframe = HookKeyframeGroup() if hook_kf is None else hook_kf.clone()

    def reset(self) -> None:
        """Begin again with the first keyframes."""
        for hook in self.hooks:
            hook.reset()

    def begin_at(self, percent: float) -> None:
        """Put the keyframes of a time in force, 0 to 1."""
        for hook in self.hooks:
            hook.hook_keyframe.begin_at(percent)

    def text_encoder_ranges(self) -> list[tuple[float, float]]:
        """Times, from 0 to 1, within which no hook changes its strength for text encoders.

        Returns:
            (start, end), each start the end before it. The first keyframes are in force afterwards.
        """
        weight_hooks = [hook for hook in self.hooks if isinstance(hook, WeightHook)]
        frames = [frame for hook in weight_hooks for frame in hook.hook_keyframe.keyframes]
        times = {frame.start_percent for frame in frames if 0.0 < frame.start_percent < 1.0}
        starts: list[float] = []
        before = None
        for time in sorted({0.0, *times}):
            self.begin_at(time)
            strengths = [hook.strength_clip for hook in weight_hooks]
            if strengths != before:
                starts.append(time)
            before = strengths
        self.reset()
        return list(zip(starts, [*starts[1:], 1.0], strict=True))

    @staticmethod
    def combine_all_hooks(hooks_list: Iterable[HookGroup | None]) -> HookGroup | None:
        """All groups as one; the group itself if there is but one, None if there is none."""
        groups = [group for group in hooks_list if group is not None]
        if len(groups) <= 1:
            return groups[0] if groups else None
        return HookGroup(hook for group in groups for hook in group.clone().hooks)


def create_target_dict(target: EnumWeightTarget, **kwargs: Any) -> dict[str, Any]:
    """Tell hooks which model a patcher holds."""
    return {**kwargs, "target": target}


def create_hook_lora(
    lora: Mapping[str, torch.Tensor], strength_model: float, strength_clip: float
) -> HookGroup:
    """Make a hook of a LoRA file's state dict; which weights it means is found when it is used."""
    hook = WeightHook(strength_model, strength_clip)
    hook.weights = convert_lora(lora)
    return HookGroup([hook])


def create_hook_model_as_lora(
    weights_model: Mapping[str, torch.Tensor] | None,
    weights_clip: Mapping[str, torch.Tensor] | None,
    strength_model: float,
    strength_clip: float,
) -> HookGroup:
    """Make a hook of another model's weights, of which the difference is applied.

    Args:
        weights_model: Of the diffusion model, by key; None for none.
        weights_clip: Of the text encoders, likewise.
        strength_model: 1 makes the model the other.
        strength_clip: Likewise.
    """
    hook = WeightHook(strength_model, strength_clip)
    hook.need_weight_init = False
    hook.weights, hook.weights_clip = (
        {key: ("model_as_lora", (weight,)) for key, weight in (weights or {}).items()}
        for weights in (weights_model, weights_clip)
    )
    return HookGroup([hook])

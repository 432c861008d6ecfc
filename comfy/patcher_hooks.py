"""Weight patches that hooks switch on and off while sampling.

The patches of the hooks in force simply count among the patcher's own: when they change, the
weights concerned are read again and patched anew. No copy of a weight is kept for that.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

from comfy.patcher_extension import CallbacksMP

HookPatches = dict[Any, dict[str, list[tuple[Any, ...]]]]

_MAX_SPEED = "maxspeed"


class HookPatching:
    """Mixed into `ModelPatcher`.

    Attributes:
        hook_patches: By hook and weight.
        hook_patches_backup: What `hook_patches` was before hooks were registered, or None.
        current_hooks: The group in force, or None.
        forced_hooks: The group that is in force after loading.
        hook_mode: As set; weights are read again in every mode.
        is_clip: Whether the model is a text encoder, whose hooks are scheduled by itself.
    """

    model: Any
    patches_uuid: uuid.UUID
    get_all_callbacks: Callable[[str], list[Callable[..., Any]]]

    def __init__(self) -> None:
        self.hook_patches: HookPatches = {}
        self.hook_patches_backup: HookPatches | None = None
        self.hook_backup: dict[str, Any] = {}
        self.current_hooks: Any = None
        self.forced_hooks: Any = None
        self.hook_mode: Any = _MAX_SPEED
        self.is_clip = False
        self._hooked: dict[str, list[tuple[Any, ...]]] = {}
        self._are_strengths_new = False

    def _copy_hooks_to(self, clone: HookPatching) -> None:
        clone.hook_patches = _copied(self.hook_patches)
        if self.hook_patches_backup is not None:
            clone.hook_patches_backup = _copied(self.hook_patches_backup)
        forced = self.forced_hooks
        clone.forced_hooks = forced.clone() if hasattr(forced, "clone") else forced
        clone.hook_mode, clone.is_clip = self.hook_mode, self.is_clip

    def set_hook_mode(self, hook_mode: Any) -> None:
        """Note how hooks are to be switched; kept for packs that ask."""
        self.hook_mode = hook_mode

    def add_hook_patches(
        self,
        hook: Any,
        patches: Mapping[Any, Any],
        strength_patch: float = 1.0,
        strength_model: float = 1.0,
    ) -> list[Any]:
        """Add patches that apply while a hook is in force; arguments as for `add_patches`.

        Args:
            hook: Its ``hook_ref`` names the patches.
            patches: Target to value.
            strength_patch: Of the change.
            strength_model: Of the weight.

        Returns:
            The targets that the model has.
        """
        mine = {key: list(group) for key, group in self.hook_patches.get(hook.hook_ref, {}).items()}
        accepted = self._add_to(mine, patches, strength_patch, strength_model)
        self.hook_patches[hook.hook_ref] = mine
        self.patches_uuid = uuid.uuid4()
        return accepted

    def _add_to(
        self,
        table: dict[str, list[tuple[Any, ...]]],
        patches: Mapping[Any, Any],
        strength_patch: float,
        strength_model: float,
    ) -> list[Any]:
        """Add patches of weights that the model has to a table; returns their targets."""
        names = self.model.state_dict().keys()
        accepted = []
        for target, value in patches.items():
            key, offset, function = split_target(target)
            if key in names:
                accepted.append(target)
                patch = (strength_patch, value, strength_model, offset, function)
                table[key] = [*table.get(key, ()), patch]
        return accepted

    def get_combined_hook_patches(self, hooks: Any) -> dict[str, list[tuple[Any, ...]]]:
        """The patches of all hooks of a group, each at its hook's present strength."""
        combined: dict[str, list[tuple[Any, ...]]] = {}
        for hook in () if hooks is None else hooks.hooks:
            for key, group in self.hook_patches.get(hook.hook_ref, {}).items():
                combined.setdefault(key, []).extend(_scaled(group, hook.strength))
        return combined

    def register_all_hook_patches(
        self,
        hooks: Any,
        target_dict: dict[str, Any],
        model_options: dict[str, Any] | None = None,
        registered: Any = None,
    ) -> None:
        """Let every hook of a group that is not known yet add its patches.

        Args:
            hooks: The group.
            target_dict: Says what is being patched.
            model_options: Of the sampling.
            registered: The group that known hooks are added to.
        """
        self.restore_hook_patches()
        new = []
        for hook in hooks.hooks:
            if hook.hook_ref not in self.hook_patches:
                new.append(hook)
            elif registered is not None:
                registered.add(hook)
        if new:
            self.hook_patches_backup = _copied(self.hook_patches)
            for hook in new:
                hook.add_hook_patches(self, model_options, target_dict, registered)
        for callback in self.get_all_callbacks(CallbacksMP.ON_REGISTER_ALL_HOOK_PATCHES):
            callback(self, hooks, target_dict, model_options, registered)

    def restore_hook_patches(self) -> None:
        """Forget the patches that hooks registered."""
        if self.hook_patches_backup is not None:
            self.hook_patches = self.hook_patches_backup
            self.hook_patches_backup = None

    def prepare_hook_patches_current_keyframe(
        self, t: torch.Tensor, hook_group: Any, model_options: dict[str, Any]
    ) -> None:
        """Let hooks take the strength of the present time.

        Args:
            t: Sigmas of the batch, shape (batch,).
            hook_group: Whose hooks.
            model_options: Of the sampling.
        """
        options = model_options["transformer_options"]
        changed = [
            hook
            for hook in hook_group.hooks
            if hook.hook_keyframe.prepare_current_keyframe(
                curr_t=float(t[0]), transformer_options=options
            )
        ]
        if self.current_hooks is not None and any(
            one in self.current_hooks.hooks for one in changed
        ):
            # Weights are read again by `apply_hooks`, once, and not without hooks before.
            self._are_strengths_new = True

    def apply_hooks(
        self,
        hooks: Any,
        transformer_options: dict[str, Any] | None = None,
        force_apply: bool = False,
    ) -> dict[str, Any]:
        """Let the weights be as a group of hooks wants them.

        Args:
            hooks: None for no hooks.
            transformer_options: Of the call.
            force_apply: Do it even if the group is in force already.

        Returns:
            Transformer options that the hooks add.
        """
        is_new = self.current_hooks != hooks or (force_apply and hooks is not None)
        if is_new or self._are_strengths_new:
            self.patch_hooks(hooks)
            for callback in self.get_all_callbacks(CallbacksMP.ON_APPLY_HOOKS):
                callback(self, hooks)
        added: dict[str, Any] = {}
        for hook in () if hooks is None else hooks.hooks:
            options = getattr(hook, "transformers_dict", None)
            if options:
                added.update(options)
        return added

    def patch_hooks(self, hooks: Any) -> None:
        """Put a group's patches in force, and no other's."""
        before, self._are_strengths_new = set(self._hooked), False
        self._hooked = self.get_combined_hook_patches(hooks)
        self.current_hooks = hooks
        if before or self._hooked:
            self._place_again()

    def unpatch_hooks(self) -> None:
        """Put no hook in force."""
        self.patch_hooks(None)

    def clean_hooks(self) -> None:
        """Leave the weights without hooks, as they are between samplings."""
        self.unpatch_hooks()

    def _place_again(self) -> None:
        """Read and patch the weights whose patches have changed; `ModelPatcher` does it."""
        raise NotImplementedError


def split_target(target: Any) -> tuple[str, Any, Any]:
    """Take a patch's target apart: the weight's name, or that with a slice and a function.

    Returns:
        Name, (axis, start, length) or None, function or None.
    """
    if isinstance(target, str):
        return target, None, None
    return target[0], target[1], target[2] if len(target) > 2 else None


def _scaled(patches: Iterable[tuple[Any, ...]], strength: float) -> Sequence[tuple[Any, ...]]:
    if math.isclose(strength, 1.0):
        return list(patches)
    return [(patch[0] * strength, *patch[1:]) for patch in patches]


def _copied(hook_patches: HookPatches) -> HookPatches:
    return {
        hook: {key: list(group) for key, group in patches.items()}
        for hook, patches in hook_patches.items()
    }

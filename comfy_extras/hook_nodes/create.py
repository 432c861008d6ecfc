"""Making hooks of LoRAs and of other models, joining them, putting them on text encoders."""

from __future__ import annotations

from typing import Any

import comfy.hooks
import comfy.sd
import comfy.utils
import folder_paths
from comfy.hooks import EnumWeightTarget, HookGroup

_NETWORK = "diffusion_model."


def _strength() -> tuple[str, dict[str, Any]]:
    return "FLOAT", {"default": 1.0, "min": -20.0, "max": 20.0, "step": 0.01}


def _added(hooks: HookGroup, before: HookGroup | None) -> HookGroup:
    return hooks if before is None else before.clone_and_combine(hooks)


class _Creating:
    """A node that makes a hook of a file.

    Attributes:
        FILE: The input that names it.
        FOLDER: The key of its folder.
        STRENGTHS: The inputs that say how strong the hook is.
    """

    FILE = ""
    FOLDER = ""
    STRENGTHS: tuple[str, ...] = ("strength_model", "strength_clip")
    EXPERIMENTAL = True
    RETURN_TYPES = ("HOOKS",)
    CATEGORY = "advanced/hooks/create"
    FUNCTION = "create_hook"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        strengths = {name: _strength() for name in cls.STRENGTHS}
        files = folder_paths.get_filename_list(cls.FOLDER)
        return {
            "required": {cls.FILE: (files,), **strengths},
            "optional": {"prev_hooks": ("HOOKS",)},
        }


class CreateHookLora(_Creating):
    """A LoRA that can be switched on and off during a sampling."""

    FILE = "lora_name"
    FOLDER = "loras"

    def create_hook(
        self,
        lora_name: str,
        strength_model: float,
        strength_clip: float,
        prev_hooks: HookGroup | None = None,
    ) -> tuple[HookGroup]:
        """Give the hook, after those before it; without any strength those alone."""
        if strength_model == 0 and strength_clip == 0:
            return (HookGroup() if prev_hooks is None else prev_hooks.clone(),)
        path = folder_paths.get_full_path_or_raise("loras", lora_name)
        lora = comfy.utils.load_torch_file(path, safe_load=True)
        made = comfy.hooks.create_hook_lora(lora, strength_model, strength_clip)
        return (_added(made, prev_hooks),)


class CreateHookLoraModelOnly(CreateHookLora):
    """The same for the diffusion model alone."""

    STRENGTHS = ("strength_model",)
    FUNCTION = "create_hook_model_only"

    def create_hook_model_only(
        self, lora_name: str, strength_model: float, prev_hooks: HookGroup | None = None
    ) -> tuple[HookGroup]:
        """See `CreateHookLora.create_hook`."""
        return self.create_hook(lora_name, strength_model, 0.0, prev_hooks)


class CreateHookModelAsLora(_Creating):
    """The difference to another checkpoint, switched like a LoRA; its weights stay in its file."""

    FILE = "ckpt_name"
    FOLDER = "checkpoints"

    def create_hook(
        self,
        ckpt_name: str,
        strength_model: float,
        strength_clip: float,
        prev_hooks: HookGroup | None = None,
    ) -> tuple[HookGroup]:
        """Give the hook, after those before it."""
        path = folder_paths.get_full_path_or_raise("checkpoints", ckpt_name)
        model, clip, *_ = comfy.sd.load_checkpoint_guess_config(
            path, output_vae=False, output_clip=strength_clip != 0
        )
        weights = None if model is None else _weights(model, _NETWORK)
        weights_clip = None if clip is None else _weights(clip.patcher, None)
        made = comfy.hooks.create_hook_model_as_lora(
            weights, weights_clip, strength_model, strength_clip
        )
        return (_added(made, prev_hooks),)


def _weights(patcher: Any, prefix: str | None) -> dict[str, Any]:
    """A model's weights, as they are in its file."""
    return {key: group[0][0] for key, group in patcher.get_key_patches(prefix).items()}


class CreateHookModelAsLoraModelOnly(CreateHookModelAsLora):
    """The same for the diffusion model alone."""

    STRENGTHS = ("strength_model",)
    FUNCTION = "create_hook_model_only"

    def create_hook_model_only(
        self, ckpt_name: str, strength_model: float, prev_hooks: HookGroup | None = None
    ) -> tuple[HookGroup]:
        """See `CreateHookModelAsLora.create_hook`."""
        return self.create_hook(ckpt_name, strength_model, 0.0, prev_hooks)


class CombineHooks2:
    """Joins hooks; one that comes twice counts once."""

    COUNT = 2

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {},
            "optional": {f"hooks_{letter}": ("HOOKS",) for letter in "ABCDEFGH"[: cls.COUNT]},
        }

    EXPERIMENTAL = True
    RETURN_TYPES = ("HOOKS",)
    CATEGORY = "advanced/hooks/combine"
    FUNCTION = "combine_hooks"

    def combine_hooks(
        self,
        hooks_A: HookGroup | None = None,
        hooks_B: HookGroup | None = None,
        hooks_C: HookGroup | None = None,
        hooks_D: HookGroup | None = None,
        hooks_E: HookGroup | None = None,
        hooks_F: HookGroup | None = None,
        hooks_G: HookGroup | None = None,
        hooks_H: HookGroup | None = None,
    ) -> tuple[HookGroup | None]:
        """Give all as one group; None if there are none."""
        groups = (hooks_A, hooks_B, hooks_C, hooks_D, hooks_E, hooks_F, hooks_G, hooks_H)
        return (HookGroup.combine_all_hooks(groups),)


class CombineHooks4(CombineHooks2):
    """The same for four."""

    COUNT = 4


class CombineHooks8(CombineHooks2):
    """The same for eight."""

    COUNT = 8


class SetClipHooks:
    """Puts hooks on text encoders."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        switches = {
            "apply_to_conds": ("BOOLEAN", {"default": True}),
            "schedule_clip": ("BOOLEAN", {"default": False}),
        }
        return {"required": {"clip": ("CLIP",), **switches}, "optional": {"hooks": ("HOOKS",)}}

    EXPERIMENTAL = True
    RETURN_TYPES = ("CLIP",)
    CATEGORY = "advanced/hooks/clip"
    FUNCTION = "apply_hooks"

    def apply_hooks(
        self,
        clip: Any,
        apply_to_conds: bool,
        schedule_clip: bool,
        hooks: HookGroup | None = None,
    ) -> tuple[Any]:
        """Give a clone whose encoders the hooks change.

        Args:
            clip: Left as it is.
            apply_to_conds: What it encodes takes the hooks along, to the diffusion model.
            schedule_clip: Keep the keyframes; else prompts are encoded at the hooks' full strength.
            hooks: None changes nothing.
        """
        if hooks is None:
            return (clip,)
        hooked = clip.clone()
        if apply_to_conds:
            hooked.apply_hooks_to_conds = hooks
        forced = hooks.clone()
        hooked.use_clip_schedule = schedule_clip
        if not schedule_clip:
            forced.set_keyframes_on_hooks(None)
        hooked.patcher.forced_hooks = forced
        target = comfy.hooks.create_target_dict(EnumWeightTarget.Clip)
        hooked.patcher.register_all_hook_patches(hooks, target)
        return (hooked,)


NODE_CLASS_MAPPINGS = {
    "CreateHookLora": CreateHookLora,
    "CreateHookLoraModelOnly": CreateHookLoraModelOnly,
    "CreateHookModelAsLora": CreateHookModelAsLora,
    "CreateHookModelAsLoraModelOnly": CreateHookModelAsLoraModelOnly,
    "CombineHooks2": CombineHooks2,
    "CombineHooks4": CombineHooks4,
    "CombineHooks8": CombineHooks8,
    "SetClipHooks": SetClipHooks,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "CreateHookLora": "Create Hook LoRA",
    "CreateHookLoraModelOnly": "Create Hook LoRA (MO)",
    "CreateHookModelAsLora": "Create Hook Model as LoRA",
    "CreateHookModelAsLoraModelOnly": "Create Hook Model as LoRA (MO)",
    "CombineHooks2": "Combine Hooks [2]",
    "CombineHooks4": "Combine Hooks [4]",
    "CombineHooks8": "Combine Hooks [8]",
    "SetClipHooks": "Set CLIP Hooks",
}

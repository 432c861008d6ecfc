"""ModelPatcher: a model with patches, shared by clones that differ in what they change.

The clones share the model and where its weights are (`comfy.residency`); each has its own patches
and options. Loading brings the weights to the device as this patcher wants them.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import comfy.lora
from comfy.attributes import get_attr, set_attr_param
from comfy.loading import FileTensor
from comfy.model_options import create_model_options_clone
from comfy.model_options import (
    set_model_options_patch_replace as set_model_options_patch_replace,
)
from comfy.model_options import (
    set_model_options_post_cfg_function as set_model_options_post_cfg_function,
)
from comfy.model_options import (
    set_model_options_pre_cfg_function as set_model_options_pre_cfg_function,
)
from comfy.patcher_extension import CallbacksMP
from comfy.patcher_hooks import HookPatching
from comfy.patcher_loading import PatcherLoading
from comfy.patcher_options import OptionSetters
from comfy.patcher_parts import PatcherParts
from comfy.patcher_weights import (
    Backup,
    as_it_is,
    compares_models,
    get_key_weight,
    narrow,
    wide_copy,
)
from comfy.patcher_weights import LowVramPatch as LowVramPatch
from comfy.patcher_weights import string_to_seed as string_to_seed
from comfy.patcher_weights import wipe_lowvram_weight as wipe_lowvram_weight

Patches = dict[str, list[tuple[Any, ...]]]

# What a patcher keeps on the model itself, for all clones to see, and how it begins.
_ON_MODEL: dict[str, Any] = {
    "model_loaded_weight_memory": 0,
    "lowvram_patch_counter": 0,
    "model_lowvram": False,
    "current_weight_patches_uuid": None,
    "model_offload_buffer_memory": 0,
    "current_patcher": None,
}


class ModelPatcher(PatcherLoading, OptionSetters):
    """See the module's text.

    Attributes:
        model: Shared by clones.
        load_device: Where it runs.
        offload_device: Where weights go that have no file.
        size: Bytes of the weights once loaded; 0 until asked for.
        patches: By weight: (strength_patch, value, strength_model, offset, function).
        backup: Weights that were patched and have no file to be read from again.
        object_patches: Objects to be put into the model, by dotted name.
        patches_uuid: Changes with the patches.
        parent: The patcher that this one was cloned from.
    """

    def __init__(
        self,
        model: Any,
        load_device: torch.device,
        offload_device: torch.device,
        size: int = 0,
        weight_inplace_update: bool = False,
    ) -> None:
        """Wrap a model; nothing moves."""
        PatcherParts.__init__(self)
        HookPatching.__init__(self)
        self.model = model
        self.load_device = load_device
        self.offload_device = offload_device
        self.size = size
        self.weight_inplace_update = weight_inplace_update
        self.patches: Patches = {}
        self.backup: dict[str, Backup] = {}
        self.object_patches: dict[str, Any] = {}
        self.object_patches_backup: dict[str, Any] = {}
        self.weight_wrapper_patches: dict[str, list[Callable[..., Any]]] = {}
        self.model_options: dict[str, Any] = {"transformer_options": {}}
        self.patches_uuid = uuid.uuid4()
        self.parent: ModelPatcher | None = None
        self.force_cast_weights = False
        self.pinned: set[str] = set()
        for name, value in {"device": offload_device, **_ON_MODEL}.items():
            if not hasattr(model, name):
                setattr(model, name, value)

    # Size

    def model_size(self) -> int:
        """Bytes of all weights once loaded."""
        if self.size <= 0:
            self.size = self.residency.total_bytes(self.model)
        return self.size

    def loaded_size(self) -> int:
        """Bytes of the weights at home on the device."""
        loaded: int = self.model.model_loaded_weight_memory
        return loaded

    def lowvram_patch_counter(self) -> int:
        """How many weights are patched anew in every forward pass."""
        count: int = self.model.lowvram_patch_counter
        return count

    def get_ram_usage(self) -> int:
        """Bytes of weights that are in host memory and in no file."""
        return self.residency.host_bytes(self.model)

    def memory_required(self, input_shape: Sequence[int]) -> int:
        """Bytes that a forward pass takes, as the model estimates."""
        required: int = self.model.memory_required(input_shape=input_shape)
        return required

    # Clones

    def clone(self) -> ModelPatcher:
        """Make a patcher of the same model, with patches and options of its own."""
        clone = type(self)(
            self.model,
            self.load_device,
            self.offload_device,
            self.model_size(),
            weight_inplace_update=self.weight_inplace_update,
        )
        clone.patches = {key: list(group) for key, group in self.patches.items()}
        clone.patches_uuid = self.patches_uuid
        clone.object_patches = dict(self.object_patches)
        clone.weight_wrapper_patches = {k: list(v) for k, v in self.weight_wrapper_patches.items()}
        clone.model_options = create_model_options_clone(self.model_options)
        clone.backup = self.backup
        clone.object_patches_backup = self.object_patches_backup
        clone.parent = self
        clone.force_cast_weights = self.force_cast_weights
        clone.pinned = self.pinned
        self._copy_parts_to(clone)
        self._copy_hooks_to(clone)
        self._call_back(CallbacksMP.ON_CLONE, clone)
        return clone

    def is_clone(self, other: Any) -> bool:
        """Whether another patcher has the same model."""
        return getattr(other, "model", None) is self.model

    def clone_has_same_weights(self, clone: ModelPatcher) -> bool:
        """Whether another patcher wants the weights of the model to be the same."""
        if not self.is_clone(clone):
            return False
        if self.current_hooks != clone.current_hooks or self.forced_hooks != clone.forced_hooks:
            return False
        if self.hook_patches.keys() != clone.hook_patches.keys():
            return False
        if self.weight_wrapper_patches.keys() != clone.weight_wrapper_patches.keys():
            return False
        if not self.patches and not clone.patches:
            return True
        return self.patches_uuid == clone.patches_uuid

    # Objects

    def add_object_patch(self, name: str, obj: Any) -> None:
        """Put `obj` at a dotted name of the model while it is patched."""
        self.object_patches[name] = obj

    def get_model_object(self, name: str) -> Any:
        """What is at a dotted name as this patcher wants it: patched, else as it was."""
        if name in self.object_patches:
            return self.object_patches[name]
        if name in self.object_patches_backup:
            return self.object_patches_backup[name]
        return get_attr(self.model, name)

    def set_model_compute_dtype(self, dtype: torch.dtype | None) -> None:
        """Compute in `dtype`, whatever the weights are stored in."""
        self.add_object_patch("manual_cast_dtype", dtype)
        if dtype is not None:
            self.force_cast_weights = True
        self.patches_uuid = uuid.uuid4()

    def add_weight_wrapper(self, name: str, function: Callable[..., Any]) -> None:
        """Pass a weight through a function in every forward pass."""
        group = self.weight_wrapper_patches.get(name, [])
        self.weight_wrapper_patches[name] = [*group, function]
        self.patches_uuid = uuid.uuid4()

    def model_dtype(self) -> torch.dtype | None:
        """The dtype of the model's weights, if the model tells."""
        if hasattr(self.model, "get_dtype"):
            dtype: torch.dtype = self.model.get_dtype()
            return dtype
        return None

    # Weights

    def add_patches(
        self,
        patches: Mapping[Any, Any],
        strength_patch: float = 1.0,
        strength_model: float = 1.0,
    ) -> list[Any]:
        """Add patches of weights.

        Args:
            patches: Target to value. A target is a weight's name, or (name, slice[, function]).
            strength_patch: Of the change.
            strength_model: Of the weight.

        Returns:
            The targets that the model has; the others are left out.
        """
        accepted = self._add_to(self.patches, patches, strength_patch, strength_model)
        self.patches_uuid = uuid.uuid4()
        return accepted

    def weight_patches(self, key: str) -> list[tuple[Any, ...]]:
        """The patches that apply now to a weight: of this patcher, then of the hooks in force."""
        return [*self.patches.get(key, ()), *self._hooked.get(key, ())]

    def get_key_patches(self, filter_prefix: str | None = None) -> dict[str, list[Any]]:
        """The unpatched weights, also of a loaded model, each with its patches.

        Args:
            filter_prefix: Only names that begin so.

        Returns:
            Name to [(weight, function that widens it), patch, ...]; reads nothing.
        """
        return {
            key: [self._unpatched(key, value), *self.patches.get(key, ())]
            for key, value in self.model.state_dict().items()
            if filter_prefix is None or key.startswith(filter_prefix)
        }

    def _unpatched(self, key: str, value: Any) -> tuple[Any, Callable[..., Any]]:
        """A weight as it is stored, whose `value` in the model may be patched; what widens it."""
        path, _, name = key.rpartition(".")
        layer = get_attr(self.model, path) if path else self.model
        widen = getattr(layer, f"convert_{name}", None) or as_it_is
        stored = self.residency.source(key)
        if stored is None:
            # One that was patched by itself, without a load, is in the backup.
            kept = self.backup.get(key)
            stored = value if kept is None else kept.weight
        return stored, widen

    def model_state_dict(self, filter_prefix: str | None = None) -> dict[str, Any]:
        """The model's state dict, patched where it is loaded patched.

        Args:
            filter_prefix: Only names that begin so.
        """
        state: dict[str, Any] = {
            key: value
            for key, value in self.model.state_dict().items()
            if filter_prefix is None or key.startswith(filter_prefix)
        }
        if self.model.current_weight_patches_uuid == self.patches_uuid:
            away = {key for weight in self.residency.away() for key in weight.keys}
            for key in away & state.keys():
                if self.weight_patches(key):
                    # It is patched in every pass only: here it is for once, on the device.
                    patched = self.on_the_fly(key)(state[key].to(self.load_device))
                    state[key] = patched.to(self.offload_device)
        return state

    def calculate_weight(
        self,
        patches: Sequence[tuple[Any, ...]],
        weight: torch.Tensor,
        key: str,
        intermediate_dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """See `comfy.lora.calculate_weight`; kept here because packs replace it."""
        original = None
        if compares_models(patches):
            unpatched = self._unpatched(key, get_attr(self.model, key).detach())
            original = {key: [unpatched, *self.patches.get(key, ())]}
        result: torch.Tensor = comfy.lora.calculate_weight(
            patches, weight, key, intermediate_dtype=intermediate_dtype, original_weights=original
        )
        return result

    def patch_weight_to_device(
        self,
        key: str,
        device_to: torch.device | None = None,
        inplace_update: bool = False,
        return_weight: bool = False,
    ) -> torch.Tensor | None:
        """Replace one weight by the patched one; computed in float32, rounded back.

        Args:
            key: The weight's name; what is there now is taken as the unpatched weight.
            device_to: Where; the weight's own device if None.
            inplace_update: Accepted; the weight is always replaced.
            return_weight: Give the patched weight, and replace nothing.
        """
        patches = self.weight_patches(key)
        if not patches:
            return None
        weight, set_func, convert_func = get_key_weight(self.model, key)
        source = self.residency.source(key)
        if not return_weight and not isinstance(source, FileTensor):
            # What is on the device goes: the backup is where it came from.
            self.backup.setdefault(key, Backup(weight if source is None else source, False))
        with torch.inference_mode(False), torch.no_grad():
            wide = wide_copy(weight, convert_func, device_to)
            wide = self.calculate_weight(patches, wide, key)
            patched = narrow(wide, key, weight.dtype, set_func)
        if return_weight:
            return patched
        set_attr_param(self.model, key, patched)
        return None

    def on_the_fly(self, key: str) -> LowVramPatch:
        """Make the function that patches a weight for one call."""
        _, set_func, convert_func = get_key_weight(self.model, key)
        return LowVramPatch(key, {key: self.weight_patches(key)}, convert_func, set_func)

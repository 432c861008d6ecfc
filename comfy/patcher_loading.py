"""Loading and unloading by a `ModelPatcher`: weights through its residency, objects by name."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.attributes import get_attr, set_attr, set_attr_param
from comfy.loading.errors import LoadCancelled
from comfy.loading.reader import CancelToken
from comfy.patcher_extension import CallbacksMP
from comfy.patcher_hooks import HookPatching
from comfy.patcher_parts import PatcherParts
from comfy.patcher_weights import Backup
from comfy.residency import Residency, residency_of


class _Interruption(CancelToken):
    """Lets the user's stop button end a load within one request of reading."""

    def check(self, path: str | None = None) -> None:
        """Raise `LoadCancelled` if the button was pressed."""
        if comfy.model_management.processing_interrupted():
            raise LoadCancelled(path)


class PatcherLoading(PatcherParts, HookPatching):
    """Mixed into `ModelPatcher`."""

    load_device: torch.device
    offload_device: torch.device
    backup: dict[str, Backup]
    object_patches: dict[str, Any]
    object_patches_backup: dict[str, Any]
    model_size: Callable[[], int]
    weight_patches: Callable[[str], list[tuple[Any, ...]]]

    @property
    def residency(self) -> Residency:
        """Where the model's weights are."""
        return residency_of(self.model)

    def current_loaded_device(self) -> torch.device:
        """Where the model is now."""
        device: torch.device = self.model.device
        return device

    def load(
        self,
        device_to: torch.device | None = None,
        lowvram_model_memory: int = 0,
        force_patch_weights: bool = False,
        full_load: bool = False,
    ) -> None:
        """Bring weights home to a device, patched as this patcher wants them.

        Args:
            device_to: Where to; the load device if None.
            lowvram_model_memory: Most bytes of weights there, with what a forward pass holds of
                the others for a moment.
            force_patch_weights: Patch anew even what is patched already.
            full_load: Bring all, whatever `lowvram_model_memory` says.

        Raises:
            LoadError: Of the kind that fits; the model is then unloaded.
        """
        device = self.load_device if device_to is None else torch.device(device_to)
        budget = None if full_load else int(lowvram_model_memory)
        with self.use_ejected():
            self._place(device, budget, force_patch_weights)
            self._call_back(
                CallbacksMP.ON_LOAD, device, lowvram_model_memory, force_patch_weights, full_load
            )
            self.apply_hooks(self.forced_hooks, force_apply=True)

    def patch_model(
        self,
        device_to: torch.device | None = None,
        lowvram_model_memory: int = 0,
        load_weights: bool = True,
        force_patch_weights: bool = False,
    ) -> Any:
        """Put object patches in, and load.

        Args:
            device_to: Where to; where the model is if None.
            lowvram_model_memory: See `load`; 0 means no limit.
            load_weights: Whether to load at all.
            force_patch_weights: See `load`.

        Returns:
            The model.
        """
        with self.use_ejected():
            self._patch_objects()
            if load_weights:
                self.load(
                    self.current_loaded_device() if device_to is None else device_to,
                    lowvram_model_memory=lowvram_model_memory,
                    force_patch_weights=force_patch_weights,
                    full_load=lowvram_model_memory == 0,
                )
        self.inject_model()
        return self.model

    def unpatch_model(
        self, device_to: torch.device | None = None, unpatch_weights: bool = True
    ) -> None:
        """Take everything back.

        Args:
            device_to: Where weights go that have no file; the offload device if None.
            unpatch_weights: Unload the weights; otherwise only objects are taken back.
        """
        self.eject_model()
        if unpatch_weights:
            offload = self.offload_device if device_to is None else torch.device(device_to)
            known = self.residency.keys()
            self.residency.unload(offload)
            for key, kept in self.backup.items():
                # Of weights that were patched while the model was not loaded.
                if key not in known and get_attr(self.model, key) is not kept.weight:
                    set_attr_param(self.model, key, kept.weight)
            self.backup.clear()
            self._note(offload, None)
        self._unpatch_objects()

    def partially_load(
        self,
        device_to: torch.device,
        extra_memory: int = 0,
        force_patch_weights: bool = False,
    ) -> int:
        """Load more of the model.

        Args:
            device_to: Where to.
            extra_memory: Bytes of weights that may come; if negative, so many are let go.
            force_patch_weights: See `load`.

        Returns:
            Bytes of weights that came.
        """
        device = torch.device(device_to)
        with self.use_ejected(skip_and_inject_on_exit_only=True):
            self._unpatch_objects()
            self._patch_objects()
            before: int = self.model.model_loaded_weight_memory
            same = self.model.current_weight_patches_uuid == self.patches_uuid
            if extra_memory < 0 and same and not force_patch_weights:
                self.partially_unload(self.offload_device, -extra_memory)
                return 0
            allowed = before + extra_memory
            full = allowed >= self.model_size() or (
                before > 0 and not self.model.model_lowvram and not force_patch_weights
            )
            if full and before > 0 and same and not self.model.model_lowvram:
                self._place(device, None, force_patch_weights)
                self.apply_hooks(self.forced_hooks, force_apply=True)
                return 0
            self.load(device, max(0, int(allowed)), force_patch_weights, full_load=full)
            return int(self.model.model_loaded_weight_memory) - before

    def partially_unload(
        self,
        device_to: torch.device,
        memory_to_free: int = 0,
        force_patch_weights: bool = False,
    ) -> int:
        """Let weights return to their file; they are brought for each forward pass from then on.

        Args:
            device_to: Accepted; a weight with a file needs no device to go to.
            memory_to_free: Bytes.
            force_patch_weights: Accepted; patches are applied on the fly.

        Returns:
            Bytes freed.
        """
        me: Any = self
        freed = self.residency.evict(self.model, me, memory_to_free)
        self._note(self.model.device, self.model.current_weight_patches_uuid)
        return freed

    def detach(self, unpatch_all: bool = True) -> Any:
        """Leave the model as this patcher found it.

        Args:
            unpatch_all: Unload the weights, too.

        Returns:
            The model.
        """
        self.eject_model()
        self.unpatch_model(self.offload_device, unpatch_weights=unpatch_all)
        self._call_back(CallbacksMP.ON_DETACH, unpatch_all)
        return self.model

    def pre_run(self) -> None:
        """Say that sampling begins."""
        self.model.current_patcher = self
        self._call_back(CallbacksMP.ON_PRE_RUN)

    def prepare_state(self, timestep: torch.Tensor) -> None:
        """Say that a step begins."""
        self._call_back(CallbacksMP.ON_PREPARE_STATE, timestep)

    def cleanup(self) -> None:
        """Say that sampling has ended; what was read ahead for another step goes."""
        try:
            self.clean_hooks()
        finally:
            # Weights that could not be read again do not make the model hold its patcher.
            self.residency.drop_ahead()
            self.model.current_patcher = None
        self._call_back(CallbacksMP.ON_CLEANUP)

    def _place(self, device: torch.device, budget: int | None, force: bool) -> None:
        me: Any = self
        try:
            with comfy.utils.byte_progress(type(self.model).__name__) as show:
                self.residency.load(
                    self.model,
                    me,
                    device,
                    budget=budget,
                    force=force,
                    cancel=_Interruption(),
                    progress=show,
                )
        except BaseException as err:
            self.backup.clear()
            self._note(self.offload_device, None)
            if isinstance(err, LoadCancelled):
                # Clears the wish, which is fulfilled, and raises what nodes know.
                comfy.model_management.throw_exception_if_processing_interrupted()
            raise
        self._note(device, self.patches_uuid)

    def _place_again(self) -> None:
        model = self.model
        if model.model_loaded_weight_memory > 0 or model.model_lowvram:
            allowed = model.model_loaded_weight_memory + model.model_offload_buffer_memory
            self._place(model.device, allowed if model.model_lowvram else None, False)

    def _note(self, device: torch.device, patches_uuid: uuid.UUID | None) -> None:
        """Write on the model, for all clones to see, how it is loaded now."""
        model, residency = self.model, self.residency
        model.device = device
        model.current_weight_patches_uuid = patches_uuid
        model.model_loaded_weight_memory = residency.resident_bytes
        model.model_offload_buffer_memory = residency.buffer_bytes
        model.model_lowvram = bool(self.residency.away())
        model.lowvram_patch_counter = sum(
            any(self.weight_patches(key) for key in weight.keys) for weight in residency.away()
        )

    def _patch_objects(self) -> None:
        for name, patch in self.object_patches.items():
            before = set_attr(self.model, name, patch)
            self.object_patches_backup.setdefault(name, before)

    def _unpatch_objects(self) -> None:
        for name, before in self.object_patches_backup.items():
            set_attr(self.model, name, before)
        self.object_patches_backup.clear()

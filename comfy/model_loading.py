"""ModelLoading: brings models to their device and makes room for them, least recently used first.

Names that custom nodes replace (`free_memory`, `get_free_memory`, `vram_state`,
`current_loaded_models`, ...) are looked up in the public module at each use.
"""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterable, Sequence
from typing import Any

import torch

import comfy.loading
from comfy import admission, device_memory
from comfy.admission import FULL, Beside
from comfy.devices import VRAMState
from comfy.loaded_models import LoadedModel, cast_bytes_per_element, with_attached
from comfy.loading.devices import DeviceFull
from comfy.loading.errors import NotEnoughMemory, forget_frames
from comfy.loading.memory import default_reserve
from comfy.loading.rings import with_index
from comfy.loading.usage import in_words

logger = logging.getLogger(__name__)


class ModelLoading:
    """What happens between "these models are needed" and "they are there"."""

    def __init__(self, face: Any, flags: Any) -> None:
        """Prepare; loads nothing.

        Args:
            face: The module in which replaceable names are looked up.
            flags: The parsed command line.
        """
        self._face = face
        self._flags = flags

    @property
    def _known(self) -> list[LoadedModel]:
        known: list[LoadedModel] = self._face.current_loaded_models
        return known

    def load(
        self,
        models: Iterable[Any],
        memory_required: float,
        minimum: float | None,
        force_patch_weights: bool,
        force_full_load: bool,
    ) -> None:
        """Load patchers; see `comfy.model_management.load_models_gpu`."""
        self._face.cleanup_models_gc()
        entries = [self._entry_of(patcher) for patcher in with_attached(models)]
        for other in self._known:
            if not any(other is entry for entry in entries):
                other.drop_ahead()
        rooms = {}
        for device in dict.fromkeys(entry.device for entry in entries):
            there = [entry for entry in entries if entry.device == device]
            room = self._beside(device, there, memory_required, minimum)
            self._make_room(device, there, room, force_full_load)
            rooms[device] = room
        for entry in entries:
            self._take_over(entry)
            room = rooms[entry.device]
            _Arrival(self._face, entry, entries, room, force_full_load).run(force_patch_weights)
            entry.currently_used = True
            self._known[:] = [entry, *(one for one in self._known if one is not entry)]

    def _entry_of(self, patcher: Any) -> LoadedModel:
        entry = next((one for one in self._known if one.model is patcher), None)
        return LoadedModel(patcher) if entry is None else entry

    def _clones_of(self, entry: LoadedModel) -> list[LoadedModel]:
        return [
            one
            for one in self._known
            if one is not entry and one.model is not None and entry.model.is_clone(one.model)
        ]

    def _take_over(self, entry: LoadedModel) -> None:
        """Let a clone of the same module go; what it has on the device stays for its successor."""
        for clone in self._clones_of(entry):
            clone.model_unload(unpatch_weights=clone.device != entry.device)
            self._known[:] = [one for one in self._known if one is not clone]

    def _make_room(
        self,
        device: torch.device,
        entries: Sequence[LoadedModel],
        room: Beside,
        is_whole: bool,
    ) -> None:
        """Unload others for what is about to come, and refuse what cannot be, before any read."""
        kept = [*entries, *(clone for entry in entries for clone in self._clones_of(entry))]
        missing = sum(_missing(entry) for entry in entries)
        self._face.free_memory(missing + room.total, device, keep_loaded=kept)
        lack = room.least - self._face.get_free_memory(device)
        # The activations come first: weights of these very models go back to their files.
        for entry in reversed(entries):
            present = entry.model_loaded_memory()
            if lack <= 0:
                break
            if present and not is_whole and device.type != "cpu":
                entry.model_unload(lack)
                lack -= present - entry.model_loaded_memory()
        names = ", ".join(_name(entry) for entry in entries)
        pool = device_memory.pool(device)
        admission.demand_room(pool, room, missing if is_whole else 0, names)

    def _beside(
        self,
        device: torch.device,
        entries: Sequence[LoadedModel],
        asked: float,
        minimum: float | None,
    ) -> Beside:
        loader = comfy.loading.default_loader()
        pool = device_memory.pool(device)
        profile = device_memory.profile(device)
        fixed = loader.options.reserve_bytes
        reserve = default_reserve(profile, pool) if fixed is None else fixed
        # On unified memory and on the CPU the reserve already is what others need.
        is_own = not profile.unified and device.type != "cpu"
        flag = self._flags.reserve_vram
        sharing = (one for one in self._known if device_memory.share_memory(one.device, device))
        loaded = sum(one.model_loaded_memory() for one in sharing if one.model is not None)
        return admission.beside(
            asked=int(asked),
            minimum=None if minimum is None else int(minimum),
            usual=self._face.minimum_inference_memory(),
            reserve=reserve,
            extra=self._face.extra_reserved_memory() if is_own or flag is not None else 0,
            is_extra_fixed=flag is not None,
            staging=loader.options.staging_bytes if profile.unified else 0,
            cast=max(
                admission.largest_weight(one.model.model, cast_bytes_per_element(one.model))
                for one in entries
            ),
            capacity=pool.free + loaded,
        )

    def free(
        self, memory_required: float, device: torch.device, keep_loaded: Sequence[LoadedModel]
    ) -> list[LoadedModel]:
        """Unload models; see `comfy.model_management.free_memory`."""
        self._face.cleanup_models_gc()
        unloaded = []
        for entry in reversed(list(self._known)):
            if entry in keep_loaded or entry.model is None:
                continue
            if not device_memory.share_memory(with_index(entry.device), with_index(device)):
                continue
            entry.currently_used = False
            lack = memory_required - self._face.get_free_memory(device)
            if self._face.DISABLE_SMART_MEMORY:
                lack = FULL
            if lack > 0 and entry.model_unload(lack):
                logger.info("Unloaded %s from %s", _name(entry), entry.device)
                unloaded.append(entry)
                self._known[:] = [one for one in self._known if one is not entry]
        if unloaded:
            self._face.soft_empty_cache()
        return unloaded

    def forget_gone(self) -> None:
        """Drop entries whose module is gone; its memory went with it."""
        self._known[:] = [entry for entry in self._known if not entry.is_gone()]

    def collect_dead(self) -> None:
        """Look for modules that nobody can unload any more, and collect them as garbage."""
        if any(entry.is_dead() for entry in self._known):
            gc.collect()
            self._face.soft_empty_cache()
            for entry in self._known:
                if entry.is_dead():
                    logger.warning(
                        "A model on %s is referred to by something that is no patcher, and cannot "
                        "be unloaded. A custom node may keep it.",
                        entry.device,
                    )
        self._face.cleanup_models()


class _Arrival:
    """One model on its way to its device: how much of it, and what if the device is full."""

    def __init__(
        self,
        face: Any,
        entry: LoadedModel,
        together: Sequence[LoadedModel],
        room: Beside,
        is_whole: bool,
    ) -> None:
        self._face = face
        self._entry = entry
        # Those that are needed at the same time; none of them may give way to another.
        self._together = together
        self._room = room
        self._is_whole = is_whole

    def run(self, force_patch_weights: bool) -> None:
        """Load; out of memory half-way: evict others, retry once, then raise with numbers."""
        budget = self._budget()
        try:
            self._load(budget, force_patch_weights)
            return
        except (torch.OutOfMemoryError, NotEnoughMemory) as err:
            # Its frames may hold half-loaded weights.
            forget_frames(err)
            logger.warning("%s is full (%s); unloading other models", self._entry.device, err)
        others = self._face.free_memory(FULL, self._entry.device, keep_loaded=self._together)
        self._face.soft_empty_cache()
        try:
            self._load(self._second(bool(others)), force_patch_weights)
        except (torch.OutOfMemoryError, NotEnoughMemory) as err:
            forget_frames(err)
            raise self._refusal() from err

    def _load(self, budget: int, force_patch_weights: bool) -> None:
        entry = self._entry
        before = entry.model_loaded_memory()
        try:
            # 0 would mean all.
            entry.model_load(max(budget, 1), force_patch_weights)
        except BaseException:
            entry.model_unload()
            raise
        logger.log(
            logging.DEBUG if entry.model_loaded_memory() == before else logging.INFO,
            "Loaded %s: %s of %s on %s",
            _name(entry),
            in_words(entry.model_loaded_memory()),
            in_words(entry.model_memory()),
            entry.device,
        )

    def _budget(self) -> int:
        if self._is_whole:
            return FULL
        if self._face.vram_state == VRAMState.NO_VRAM:
            return 0
        free = self._face.get_free_memory(self._entry.device)
        return admission.budget(_missing(self._entry), self._room, free)

    def _second(self, has_more_room: bool) -> int:
        """A budget for the second try; without more room the figures were too good, so a smaller one."""
        budget = self._budget()
        if has_more_room or self._is_whole:
            return budget
        return min(budget, _missing(self._entry) // 2)

    def _refusal(self) -> DeviceFull:
        pool = device_memory.pool(self._entry.device)
        return DeviceFull(
            _missing(self._entry) + self._room.staging + self._room.cast,
            pool.free,
            pool.name,
            hint=f"{_name(self._entry)} did not fit after all other models were unloaded. "
            "Close other programs, or use a smaller model or dtype.",
        )


def _missing(entry: LoadedModel) -> int:
    """Bytes of weights that are still to come."""
    patcher = entry.model
    required = entry.model_memory_required(entry.device)
    if not isinstance(patcher.model, torch.nn.Module):
        return required
    # What a strategy has read onto the host already needs no second place there.
    required = min(required, admission.bytes_elsewhere(patcher.model, entry.device))
    if not device_memory.is_unified(entry.device):
        return required
    return max(0, required - entry.given_back())


def _name(entry: LoadedModel) -> str:
    module = getattr(entry.model, "model", None)
    return type(module).__name__

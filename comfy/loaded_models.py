"""LoadedModel: a patcher whose weights the manager has brought to a device.

It holds its patcher weakly: a model that nobody uses any more gives its memory back by itself.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from comfy.admission import FULL

FP32_BYTES = 4


class LoadedModel:
    """One patcher on its load device.

    Attributes:
        device: Where the weights are brought to.
        currently_used: Set while a node works with it; such a model goes last.
        real_model: Weak reference to the module, from the first load to the unload.
    """

    def __init__(self, model: Any) -> None:
        """Wrap a patcher; loads nothing."""
        self.device: torch.device = model.load_device
        self.currently_used = True
        self.real_model: weakref.ref[Any] | None = None
        # A clone's ancestors hold the same module: when the clone has gone, they speak for it.
        self._lineage = [weakref.ref(patcher) for patcher in _lineage(model)]
        self._module = weakref.ref(model.model)

    @property
    def model(self) -> Any:
        """The patcher, or the nearest living ancestor of the same module; None if all are gone."""
        return next((one for one in (ref() for ref in self._lineage) if one is not None), None)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LoadedModel):
            return NotImplemented
        mine = self.model  # held: it may go between two questions
        return self is other or (mine is not None and mine is other.model)

    def model_memory(self) -> int:
        """Bytes of all its weights; 0 once its patchers are gone."""
        patcher = self.model
        return 0 if patcher is None else int(patcher.model_size())

    def model_loaded_memory(self) -> int:
        """Bytes of weights that are on the device; 0 once its patchers are gone."""
        patcher = self.model
        return 0 if patcher is None else int(patcher.loaded_size())

    def model_offloaded_memory(self) -> int:
        """Bytes of weights that are not."""
        return self.model_memory() - self.model_loaded_memory()

    def model_memory_required(self, device: torch.device) -> int:
        """Bytes that must come for all weights to be on `device`."""
        if device == self.model.current_loaded_device():
            return self.model_offloaded_memory()
        return self.model_memory()

    def model_load(self, lowvram_model_memory: float = 0, force_patch_weights: bool = False) -> Any:
        """Bring the weights to the device.

        Args:
            lowvram_model_memory: How many more bytes of weights may come; 0 means all.
            force_patch_weights: Apply patches to weights that stay in their file, too.

        Returns:
            The module.
        """
        self.model.model_patches_to(self.device)
        dtype = self.model.model_dtype()
        if dtype is not None:
            self.model.model_patches_to(dtype)
        self.model_use_more_vram(lowvram_model_memory or FULL, force_patch_weights)
        module = self.model.model
        self.real_model = weakref.ref(module)
        return module

    def should_reload_model(self, force_patch_weights: bool = False) -> bool:
        """Whether patches must be applied to weights that were left unpatched."""
        return force_patch_weights and self.model.lowvram_patch_counter() > 0

    def model_unload(
        self, memory_to_free: float | None = None, unpatch_weights: bool = True
    ) -> bool:
        """Take weights off the device: back to their file, nothing is copied.

        Args:
            memory_to_free: That many bytes are enough; None means all.
            unpatch_weights: Also undo patches; False where a clone takes the module over.

        Returns:
            Whether the model is unloaded now, or gone by itself; False if part of it stayed.
        """
        # Held from here on: the garbage collector may come at any allocation.
        patcher = self.model
        if patcher is None:
            return self.is_gone()
        if memory_to_free is not None and memory_to_free < patcher.loaded_size():
            freed = patcher.partially_unload(patcher.offload_device, memory_to_free)
            if freed >= memory_to_free:
                return False
        patcher.detach(unpatch_weights)
        self.real_model = None
        return True

    def model_use_more_vram(self, extra_memory: float, force_patch_weights: bool = False) -> int:
        """Bring more weights to the device; returns the bytes that came."""
        patcher = self.model
        return int(
            patcher.partially_load(
                self.device, extra_memory, force_patch_weights=force_patch_weights
            )
        )

    def drop_ahead(self) -> None:
        """Free weights that were read ahead of a forward pass which is not what comes next."""
        residency = getattr(self.model, "residency", None)
        if residency is not None:
            residency.drop_ahead()

    def given_back(self) -> int:
        """Bytes of host memory that weights give back on arrival; 0 if a pack's patcher tells none."""
        patcher = self.model
        residency = getattr(patcher, "residency", None)
        return 0 if residency is None else int(residency.given_back(patcher.model, patcher))

    def is_dead(self) -> bool:
        """Whether the module lives on though nobody is left who could unload it."""
        return self.real_model is not None and self.model is None and self.real_model() is not None

    def is_gone(self) -> bool:
        """Whether the module is gone, and its memory with it."""
        return self._module() is None


def _lineage(model: Any) -> Iterator[Any]:
    """A patcher, then those of its ancestors that wrap the same module."""
    patcher = model
    while patcher is not None and patcher.model is model.model:
        yield patcher
        patcher = getattr(patcher, "parent", None)


def with_attached(models: Iterable[Any]) -> list[Any]:
    """Patchers and the models that their patches bring along, each once, in order."""
    found: dict[int, Any] = {}
    for model in models:
        for one in (model, *model.model_patches_models()):
            found.setdefault(id(one), one)
    return list(found.values())


def cast_bytes_per_element(patcher: Any) -> int:
    """Bytes per element of a weight's temporary: patches are added up in fp32."""
    return FP32_BYTES if getattr(patcher, "patches", None) else 0

"""file-slice: the state dict holds FileTensors; a weight leaves its file only for its device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from comfy.loading.destinations import Want
from comfy.loading.file_tensor import FileTensor
from comfy.loading.hardware import HardwareProfile
from comfy.loading.memory import MemoryNeed
from comfy.loading.plan import LoadPlan, LoadRequest
from comfy.loading.registry import OpenContext
from comfy.loading.storage import StorageProfile
from comfy.loading.weight_slice import WeightSlice


class FileSlice:
    """Describe first, read later, straight into the final place."""

    name: ClassVar[str] = "file-slice"
    maps_files: ClassVar[bool] = False

    def supports(
        self, profile: HardwareProfile, storage: StorageProfile, request: LoadRequest
    ) -> str | None:
        """Any device and any file that can be read at an offset."""
        return None

    def estimate(self, slices: Mapping[str, WeightSlice], request: LoadRequest) -> MemoryNeed:
        """Nothing: weights stay in the file until somebody places them."""
        file = sum(source.nbytes for source in slices.values())
        return MemoryNeed(file=file, host=0, device=0, staging=0, cast=0)

    def open(
        self, slices: Mapping[str, WeightSlice], plan: LoadPlan, context: OpenContext
    ) -> dict[str, torch.Tensor]:
        """Describe every weight; read only those that are wanted in another dtype."""
        state: dict[str, torch.Tensor] = {}
        casts: list[Want] = []
        for key, source in slices.items():
            dtype = context.target_dtype(source)
            state[key] = FileTensor.of(source, context.fetcher)
            if dtype != source.dtype:
                casts.append(Want(key, source, dtype))
        for want, tensor in context.to_host().stream(casts):
            state[want.key] = tensor
        return state

"""readinto: the state dict holds private host tensors, read by positional reads from threads."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch

from comfy.loading.destinations import Want, cast_bytes
from comfy.loading.hardware import HardwareProfile
from comfy.loading.memory import MemoryNeed
from comfy.loading.plan import LoadPlan, LoadRequest
from comfy.loading.registry import OpenContext
from comfy.loading.sources import remember_source
from comfy.loading.storage import StorageProfile
from comfy.loading.weight_slice import WeightSlice


class ReadInto:
    """No mapping, no second copy: each weight is read into the memory where it stays."""

    name: ClassVar[str] = "readinto"
    maps_files: ClassVar[bool] = False

    def supports(
        self, profile: HardwareProfile, storage: StorageProfile, request: LoadRequest
    ) -> str | None:
        """Any device and any file that can be read at an offset."""
        return None

    def estimate(self, slices: Mapping[str, WeightSlice], request: LoadRequest) -> MemoryNeed:
        """One host copy in the wanted dtype, and one piece per thread where it casts."""
        host = sum(cast_bytes(source, request.dtype) for source in slices.values())
        file = sum(source.nbytes for source in slices.values())
        return MemoryNeed(file=file, host=host, device=0, staging=0, cast=0)

    def open(
        self, slices: Mapping[str, WeightSlice], plan: LoadPlan, context: OpenContext
    ) -> dict[str, torch.Tensor]:
        """Read every weight; each remembers which bytes of the file it is."""
        wants = [Want(key, source, context.target_dtype(source)) for key, source in slices.items()]
        state: dict[str, torch.Tensor] = {}
        for want, tensor in context.to_host().stream(wants):
            if tensor.dtype == want.source.dtype:
                remember_source(tensor, want.source)
            state[want.key] = tensor
        return {key: state[key] for key in slices}

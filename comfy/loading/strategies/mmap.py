"""mmap: the state dict holds private mappings of the file, one for each large weight."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Mapping
from typing import ClassVar

import torch

from comfy.loading.destinations import cast_bytes, cast_dtype
from comfy.loading.errors import WeightReadFailed
from comfy.loading.hardware import HardwareProfile
from comfy.loading.memory import MemoryNeed
from comfy.loading.pages import FileMapper, typed
from comfy.loading.plan import LoadPlan, LoadRequest
from comfy.loading.registry import OpenContext
from comfy.loading.sources import remember_source
from comfy.loading.storage import StorageProfile
from comfy.loading.strategies.readinto import ReadInto
from comfy.loading.transfer import ALIGN_BYTES, IN_PLACE_BYTES
from comfy.loading.weight_slice import WeightSlice

# Linux allows 65,530 mappings for a process, and others want some.
MAX_MAPPINGS = 16_384


class Mmap:
    """Zero-copy, for execution on the CPU. Mapped pages never go to a device copy.

    Weights below 1 MiB, and those that are cast or lie askew for their dtype, are read instead:
    so that a bias does not hold a range of the file, and every tensor has a life of its own.
    """

    name: ClassVar[str] = "mmap"
    maps_files: ClassVar[bool] = True

    def supports(
        self, profile: HardwareProfile, storage: StorageProfile, request: LoadRequest
    ) -> str | None:
        """A system with mappings that are not charged as memory."""
        if sys.platform == "win32":
            return "a mapping counts against the page file on Windows"
        return None

    def estimate(self, slices: Mapping[str, WeightSlice], request: LoadRequest) -> MemoryNeed:
        """Host memory for what is not mapped; mapped pages are the page cache's."""
        mapped = _choose(slices, request.dtype)
        read = [source for key, source in slices.items() if key not in mapped]
        host = sum(cast_bytes(source, request.dtype) for source in read)
        file = sum(source.nbytes for source in slices.values())
        return MemoryNeed(file=file, host=host, device=0, staging=0, cast=0)

    def open(
        self, slices: Mapping[str, WeightSlice], plan: LoadPlan, context: OpenContext
    ) -> dict[str, torch.Tensor]:
        """Map the large weights, read the small ones.

        Raises:
            WeightReadFailed: If the system will not map the file.
        """
        mapped = _choose(slices, context.dtype)
        mapper = FileMapper()
        state = {key: _map(mapper, source) for key, source in mapped.items()}
        rest = {key: source for key, source in slices.items() if key not in mapped}
        state.update(ReadInto().open(rest, plan, context))
        return {key: state[key] for key in slices}


def _choose(slices: Mapping[str, WeightSlice], dtype: torch.dtype | None) -> dict[str, WeightSlice]:
    """The weights that are worth a mapping, largest first where there are too many."""
    large = [
        (key, source)
        for key, source in slices.items()
        if source.nbytes >= IN_PLACE_BYTES
        and source.offset % max(ALIGN_BYTES, source.dtype.itemsize) == 0
        and cast_dtype(source.dtype, dtype) == source.dtype
    ]
    large.sort(key=lambda item: item[1].nbytes, reverse=True)
    return dict(large[:MAX_MAPPINGS])


def _map(mapper: FileMapper, source: WeightSlice) -> torch.Tensor:
    with source.file.reading() as fd:
        try:
            raw = mapper.map(fd, source.offset, source.nbytes)
        except OSError as err:
            raise WeightReadFailed(
                source.file.path, err, offset=source.offset, doing="map"
            ) from err
        if hasattr(os, "posix_fadvise"):
            # Read ahead, so that the first touch of each page does not wait for the disk.
            with contextlib.suppress(OSError):
                os.posix_fadvise(fd, source.offset, source.nbytes, os.POSIX_FADV_WILLNEED)
    with torch.inference_mode(False):
        tensor = typed(raw, source.dtype, source.shape)
    remember_source(tensor, source, is_mapped=True)
    return tensor

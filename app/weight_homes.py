"""Where the weights of each file are now: still in the file, on the host, on a device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import comfy.model_management
from comfy.loading import FileTensor, default_loader
from comfy.loading.sources import host_bytes, is_copy
from comfy.residency import Residency
from comfy.residency_weights import Weight


@dataclass(frozen=True, slots=True)
class Homes:
    """Bytes of one file's weights by home; together they are its size, unless a cast changed it.

    Attributes:
        file: In the file only; pages of it that are mapped are among them.
        host: In host memory.
        device: In a device's memory, as they are there.
    """

    file: int
    host: int
    device: int


class _Away:
    """Bytes of one file that have a home elsewhere."""

    def __init__(self) -> None:
        self.host = 0
        self.device = 0
        self.in_file = 0

    def add(self, weight: Weight, file_bytes: int) -> None:
        """Count a weight of a loaded model."""
        current = weight.current
        if isinstance(current, FileTensor):
            if current.is_in_file:
                return
        elif current.device.type == "meta" or is_copy(current):
            return
        if current.device.type == "cpu":
            self.host += weight.nbytes
        else:
            self.device += weight.nbytes
        self.in_file += file_bytes


def weight_homes() -> dict[str, Homes]:
    """The homes of the weights of all files that are in use, by path.

    Note:
        May be called while a model is being loaded: what is on its way is counted on one side.
    """
    away: dict[str, _Away] = {}
    for residency in _residencies():
        for weight in list(residency.weights):
            source = weight.slice
            if source is not None:
                away.setdefault(source.file.path, _Away()).add(weight, source.nbytes)
    homes = {}
    for file in default_loader().files.alive():
        one = away.get(file.path, _Away())
        copied = host_bytes(file)
        rest = max(0, file.size - one.in_file - copied)
        homes[file.path] = Homes(rest, one.host + copied, one.device)
    return homes


def _residencies() -> Iterator[Residency]:
    """Of every loaded model, each once: clones share theirs."""
    seen = set()
    for loaded in list(comfy.model_management.current_loaded_models):
        patcher = loaded.model
        found = None if patcher is None else vars(patcher.model).get("weight_residency")
        if isinstance(found, Residency) and id(found) not in seen:
            seen.add(id(found))
            yield found

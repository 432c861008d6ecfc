"""Whole loads through the public face, for tests of what happens while they run.

A `Way` is a strategy and a place; `Way.load` opens a file and brings every weight there, so that
each way reads all bytes, whatever its strategy leaves in the file at first.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.reader import CancelToken, Progress
from support.faults import nothing_left_behind
from support.raw_files import MIB, write_large
from support.simulated_device import simulated

MODEL_BYTES = 24 * MIB
LARGEST_BYTES = 3 * MIB
# Where tests let something happen: about half of the model is somewhere then.
HALF_WAY_BYTES = 12 * MIB
# Less than half a model, more than what a heap keeps for itself.
SLACK_BYTES = 6 * MIB


@dataclass(frozen=True, slots=True)
class Way:
    """How a model gets to its place.

    Attributes:
        strategy: Name of the strategy.
        where: The device, in words.
    """

    strategy: str
    where: str

    def __str__(self) -> str:
        return f"{self.strategy}-{self.where.partition(':')[0]}"

    @property
    def device(self) -> torch.device:
        """Where the weights end."""
        return torch.device(self.where)

    def loader(self, **options: Any) -> Loader:
        """A Loader for this way, with staging much smaller than the model."""
        chosen = {"staging_bytes": MIB, **options}
        return Loader(LoadOptions(strategy=self.strategy, **chosen), run_device=self.where)

    def load(
        self,
        loader: Loader,
        path: Path,
        *,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
    ) -> dict[str, torch.Tensor]:
        """Open, and bring home what the strategy left in the file or mapped."""
        request = LoadRequest(path=str(path), device=self.device)
        state = loader.open(request, cancel=cancel, progress=progress).state_dict
        try:
            loader.place(state, self.device, cancel=cancel, progress=progress)
        except BaseException:
            # The error will hold this frame.
            state.clear()
            raise
        return state


STRATEGIES = ("mmap", "readinto", "file-slice")
TO_DEVICE = [Way(strategy, "simgpu:0") for strategy in STRATEGIES]
TO_HOST = [Way(strategy, "cpu") for strategy in STRATEGIES]
WAYS = TO_DEVICE + TO_HOST


def write_model(path: Path, seed: int = 0) -> Path:
    """Write a model of `MODEL_BYTES`; other seeds give other values under the same header."""
    return write_large(path, MODEL_BYTES, largest_bytes=LARGEST_BYTES, seed=seed)


def digest(state: Mapping[str, torch.Tensor]) -> str:
    """One number for names, dtypes, shapes and bytes of a state dict, wherever its values are."""
    total = 0
    for name in sorted(state):
        tensor = state[name].detach().to("cpu")
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        flat = tensor.reshape(-1).view(torch.uint8).numpy()
        total = zlib.crc32(flat, total)  # type: ignore[arg-type]  # an ndarray is a buffer
    return f"{total:08x}"


def link(source: Path, target: Path) -> Path:
    """Give a file another name, for tests that do not change its bytes."""
    os.link(source, target)
    return target


@contextlib.contextmanager
def gives_all_back(loader: Loader) -> Iterator[None]:
    """Assert that the block leaves nothing of a load behind, within a second.

    The Loader's staging is not of a load: it stays for the next one, and is freed here.
    """
    cards = [simulated(0), simulated(1)]
    loader.close()
    with nothing_left_behind(
        slack_bytes=SLACK_BYTES,
        device_bytes=lambda: sum(card.allocated_bytes for card in cards),
    ):
        yield
        loader.close()

"""Homes: where the bytes of a tensor and all its views are, FILE or HOST, and who reads them.

The reader of bytes sits above this module, so it is handed in: see `Fetcher`. This is the one
inversion in the subsystem.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import NamedTuple, Protocol

import torch

from comfy.loading.pages import SMALL_BYTES, anonymous
from comfy.loading.weight_file import Hold, WeightFile
from comfy.loading.weight_slice import WeightSlice


class Fetcher(Protocol):
    """Reads slices; given to each FileTensor by the Loader."""

    def fetch(self, source: WeightSlice, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        """Read a slice into a new contiguous tensor of its shape, on `device`, as `dtype`."""

    def fill(self, source: WeightSlice, destination: torch.Tensor) -> None:
        """Read a slice into an existing contiguous tensor of its shape, casting if needed."""


class TensorFileSlice(NamedTuple):
    """The tag that upstream's tools look for on a storage; facts of its interface.

    Attributes:
        file_ref: Has ``fileno()``.
        lock: One per file; positional reads do not need it.
        offset: Absolute, bytes.
        size: Bytes.
    """

    file_ref: WeightFile
    lock: threading.Lock
    offset: int
    size: int


class Home:
    """Where the bytes of one tensor and all its views are: FILE, until something makes it HOST."""

    def __init__(self, source: WeightSlice, fetcher: Fetcher) -> None:
        self.source = source
        self.fetcher = fetcher
        self.host: torch.Tensor | None = None
        self._hold: Hold | None = source.file.hold()
        self._lock = threading.Lock()

    def to_host(self) -> torch.Tensor:
        """Make the home HOST, once.

        Returns:
            All bytes, uint8, shape (nbytes,).
        """
        with self._lock:
            if self.host is None:
                self.host = self._read_bytes()
                self._hold = None
            return self.host

    def _read_bytes(self) -> torch.Tensor:
        nbytes = self.source.nbytes
        raw = replace(self.source, dtype=torch.uint8, shape=(nbytes,))
        # Memory of its own alignment, not the file's: views of any dtype must be possible.
        memory = anonymous(nbytes) if nbytes >= SMALL_BYTES else None
        with torch.inference_mode(False), torch.no_grad():
            if memory is None:
                memory = torch.empty(nbytes, dtype=torch.uint8)
            self.fetcher.fill(raw, memory)
        return memory

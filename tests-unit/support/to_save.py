"""Tensors to save, and FileTensors without a Loader."""

from __future__ import annotations

from pathlib import Path

import torch

from comfy.loading.encodings import ENCODINGS
from comfy.loading.file_tensor import FileTensor
from comfy.loading.header import read_header
from comfy.loading.weight_file import FileTable
from comfy.loading.weight_slice import WeightSlice

ROOT = Path(__file__).parents[2]
DTYPES = [one.torch_dtype for one in ENCODINGS.values() if not one.is_raw]


def values(dtype: torch.dtype, *shape: int, seed: int = 1) -> torch.Tensor:
    """Random bytes seen as `dtype`: every bit pattern may occur."""
    generator = torch.Generator().manual_seed(seed)
    count = torch.Size(shape).numel() * dtype.itemsize
    high = 2 if dtype == torch.bool else 256
    raw = torch.randint(0, high, (count,), dtype=torch.uint8, generator=generator)
    return raw.view(dtype).reshape(shape)


def bits(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


class Fetcher:
    """Reads for FileTensors, and remembers the longest read."""

    longest = 0

    def fill(self, source: WeightSlice, destination: torch.Tensor) -> None:
        self.longest = max(self.longest, source.nbytes)
        flat = destination.reshape(-1).view(torch.uint8)
        source.file.read_into(flat.numpy().data, source.offset, source.name)

    def fetch(self, source: WeightSlice, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
        assert (device.type, dtype) == ("cpu", source.dtype)
        result = torch.empty(source.shape, dtype=dtype)
        self.fill(source, result)
        return result


def file_tensors(path: Path, fetcher: Fetcher | None = None) -> dict[str, FileTensor]:
    fetcher = fetcher or Fetcher()
    entries = read_header(FileTable().open(path)).entries
    return {name: FileTensor.of(source, fetcher) for name, source in entries.items()}

"""One small weight in a file of its own, opened by file-slice."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from comfy.loading.file_tensor import FileTensor
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest

SHAPE = (4, 6)


class Opened:
    """One file with one weight, opened by file-slice; counts what is read of it."""

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32) -> None:
        self.values = torch.arange(24, dtype=torch.float32).reshape(SHAPE).to(dtype)
        self.path = path
        save_file({"weight": self.values}, path)
        self.before = path.read_bytes()
        self.loader = Loader(LoadOptions(strategy="file-slice"), run_device="cpu")
        loaded = self.loader.open(LoadRequest(path=str(path), device=None))
        self.tensor = loaded.state_dict["weight"]
        assert isinstance(self.tensor, FileTensor)
        source = self.tensor.file_slice
        assert source is not None
        self.file = source.file
        self.start = self.file.bytes_read

    @property
    def reads(self) -> int:
        """Bytes of the weight that were read since it was opened."""
        return self.file.bytes_read - self.start

    def module(self) -> nn.Linear:
        """A layer, built without bytes, whose parameter is the weight in the file."""
        with torch.device("meta"):
            module = nn.Linear(SHAPE[1], SHAPE[0], bias=False)
        module.load_state_dict({"weight": self.tensor}, assign=True)
        return module

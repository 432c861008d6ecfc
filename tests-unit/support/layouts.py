"""Layouts of published model files: names, shapes and dtypes of all tensors, without a weight.

`data/layouts.json.xz` holds them as ``{name: {config, family, file_bytes, tensors: {key: [dtype,
shape]}}}``. From a layout one gets a state dict on `meta`, a sparse file of the true size that
takes no disk, or a file of weights with which a network stays finite.
"""

from __future__ import annotations

import functools
import json
import lzma
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from support.raw_files import Spec, dtype_of, header_of

_DATA = Path(__file__).resolve().parent.parent / "data" / "layouts.json.xz"
_CHUNK = 1 << 20


@dataclass(frozen=True)
class Layout:
    """One published file.

    Attributes:
        name: As in the data file, ``sd15_checkpoint_fp16`` for example.
        family: Class of `comfy.supported_models` that it is; None if it is no diffusion model.
        config: The UNet's numbers, as the family's class knows them; None likewise.
        tensors: In the order of the file's description.
    """

    name: str
    family: str | None
    config: Mapping[str, Any] | None
    tensors: Mapping[str, Spec]

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The tensors on `meta`: shapes and dtypes, no bytes."""
        return {
            key: torch.empty(spec.shape, dtype=dtype_of(spec.encoding), device="meta")
            for key, spec in self.tensors.items()
        }


@functools.cache
def _table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(lzma.decompress(_DATA.read_bytes()))
    return table


def names() -> list[str]:
    """The names of all layouts."""
    return sorted(_table())


@functools.cache
def layout(name: str) -> Layout:
    """The layout of this name."""
    entry = _table()[name]
    tensors = {
        key: Spec(key, kind, tuple(shape)) for key, (kind, shape) in entry["tensors"].items()
    }
    return Layout(name, entry["family"], entry["config"], tensors)


def write_sparse(
    path: str | os.PathLike[str],
    specs: Iterable[Spec],
    *,
    metadata: Mapping[str, str] | None = None,
    values: Mapping[str, torch.Tensor] | None = None,
) -> Path:
    """Write a safetensors file of the true size whose weights are holes: all zero, no disk taken.

    Args:
        path: Where.
        specs: What it holds.
        metadata: For the header; left out if None.
        values: Tensors with content, for names in `specs`; of the same shape, cast to the dtype.
    """
    specs = list(specs)
    values = values or {}
    header = header_of(specs, metadata)
    with open(path, "wb") as file:
        file.write(header)
        position = len(header)
        for spec in specs:
            if spec.name in values:
                file.seek(position)
                file.write(_bytes(values[spec.name].to(dtype_of(spec.encoding))))
            position += spec.nbytes
        file.truncate(position)
    return Path(path)


def write_weights(
    path: str | os.PathLike[str],
    specs: Sequence[Spec],
    *,
    metadata: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Path:
    """Write weights with which a network of any depth gives finite numbers in half precision.

    Norms scale by 1, biases are 0, matrices are normal with variance 1 / fan-in, embeddings have
    deviation 0.02, position ids count up. A tensor at a time, never held as a whole file.

    Args:
        path: Where.
        specs: What it holds.
        metadata: For the header; left out if None.
        seed: Of the values.
    """
    generator = np.random.default_rng(seed)
    with open(path, "wb") as file:
        file.write(header_of(specs, metadata))
        for spec in specs:
            file.write(_bytes(synthetic(spec, generator)))
    return Path(path)


def synthetic(spec: Spec, generator: np.random.Generator) -> torch.Tensor:
    """Make one tensor of `write_weights`."""
    dtype = dtype_of(spec.encoding)
    if spec.name.endswith("position_ids"):
        return torch.arange(math.prod(spec.shape)).reshape(spec.shape).to(dtype)
    if len(spec.shape) < 2:
        is_bias = spec.name.endswith("bias")
        return torch.full(spec.shape, 0.0 if is_bias else 1.0, dtype=dtype)
    fan_in = math.prod(spec.shape[1:])
    deviation = 0.02 if "embedding" in spec.name else 1 / math.sqrt(fan_in)
    count = math.prod(spec.shape)
    # A pattern repeated with an odd period is as good as fresh numbers, and far cheaper.
    pattern = generator.standard_normal(min(count, _CHUNK - 1), dtype=np.float32)
    values = torch.from_numpy(pattern * deviation).to(dtype)
    return values.repeat(-(-count // len(values)))[:count].reshape(spec.shape)


def _bytes(tensor: torch.Tensor) -> memoryview:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data

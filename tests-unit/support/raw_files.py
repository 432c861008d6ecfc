"""Safetensors files written byte by byte, in whatever layout a test wants, odd and wrong ones too."""

from __future__ import annotations

import functools
import json
import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

MIB = 1024 * 1024
_PATTERN_BYTES = MIB

ENCODINGS: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.float8_e4m3fnuz: "F8_E4M3FNUZ",
    torch.float8_e5m2fnuz: "F8_E5M2FNUZ",
    torch.float8_e8m0fnu: "F8_E8M0",
    torch.float4_e2m1fn_x2: "F4",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint64: "U64",
    torch.uint32: "U32",
    torch.uint16: "U16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
"""The name in a file's header of each dtype that torch has."""

_DTYPES = {name: dtype for dtype, name in ENCODINGS.items()}
_BITS = {"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6}


def dtype_of(encoding: str) -> torch.dtype:
    """What torch calls an encoding that it has."""
    return _DTYPES[encoding]


@dataclass(frozen=True, slots=True)
class RawTensor:
    """A tensor as the file has it.

    Attributes:
        encoding: Name of the dtype in the header.
        shape: As in the header, in elements of the encoding.
        data: The bytes.
    """

    encoding: str
    shape: tuple[int, ...]
    data: bytes

    @classmethod
    def of(cls, tensor: torch.Tensor) -> RawTensor:
        """Take a torch tensor apart."""
        shape = tuple(tensor.shape)
        if tensor.dtype == torch.float4_e2m1fn_x2 and shape:
            shape = (*shape[:-1], shape[-1] * 2)
        flat = tensor.detach().cpu().contiguous().view(-1).view(torch.uint8)
        return cls(ENCODINGS[tensor.dtype], shape, flat.numpy().tobytes())


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor that does not exist yet: name, encoding and shape, as in a header."""

    name: str
    encoding: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size of the tensor in the file."""
        bits = _BITS.get(self.encoding) or _DTYPES[self.encoding].itemsize * 8
        return math.prod(self.shape) * bits // 8


def write_raw(
    path: str | os.PathLike[str], header: bytes, payload: bytes = b"", *, length: int | None = None
) -> Path:
    """Write a safetensors file literally.

    Args:
        path: Where.
        header: The JSON, or what a test wants in its place.
        payload: What follows.
        length: The header's length to tell, if not the true one.
    """
    told = len(header) if length is None else length
    Path(path).write_bytes(struct.pack("<Q", told) + header + payload)
    return Path(path)


def write_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor | RawTensor],
    metadata: Mapping[str, str] | None = None,
    *,
    header_order: Sequence[str] | None = None,
    header_multiple: int = 8,
) -> Path:
    """Write a safetensors file with the data in the order given, aligned or not.

    Args:
        path: Where.
        tensors: By name; the data follow each other without a gap in this order.
        metadata: For the header; left out if None.
        header_order: Order of the names in the header, if not that of the data.
        header_multiple: The header is padded with spaces to this; 1 leaves data misaligned.
    """
    raw = {
        name: value if isinstance(value, RawTensor) else RawTensor.of(value)
        for name, value in tensors.items()
    }
    entries: dict[str, object] = {}
    position = 0
    for name, tensor in raw.items():
        end = position + len(tensor.data)
        entries[name] = _entry(tensor.encoding, tensor.shape, position, end)
        position = end
    header = _header(entries, metadata, header_order, header_multiple)
    with open(path, "wb") as file:
        file.write(header)
        file.writelines(tensor.data for tensor in raw.values())
    return Path(path)


def _entry(encoding: str, shape: Sequence[int], start: int, end: int) -> dict[str, object]:
    return {"dtype": encoding, "shape": list(shape), "data_offsets": [start, end]}


def _header(
    entries: Mapping[str, object],
    metadata: Mapping[str, str] | None,
    order: Sequence[str] | None = None,
    multiple: int = 8,
) -> bytes:
    table: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    table.update({name: entries[name] for name in order or entries})
    text = json.dumps(table, separators=(",", ":")).encode()
    text += b" " * (-len(text) % multiple)
    return struct.pack("<Q", len(text)) + text


@functools.lru_cache(maxsize=32)
def _pattern(encoding: str, seed: int) -> memoryview:
    """A MiB of finite values, twice over, so that a window of a MiB can start anywhere in it."""
    generator = np.random.default_rng(seed)
    dtype = _DTYPES[encoding]
    count = _PATTERN_BYTES // dtype.itemsize
    if encoding == "BOOL":
        data = generator.integers(0, 2, count, dtype=np.uint8)
    elif encoding == "F8_E8M0":
        data = generator.integers(120, 135, count, dtype=np.uint8)
    elif dtype.is_floating_point and encoding != "F4":
        values = torch.from_numpy(generator.standard_normal(count, dtype=np.float32) / 4)
        data = values.to(dtype).view(torch.uint8).numpy()
    elif dtype.is_complex:
        data = generator.standard_normal(count * 2, dtype=np.float32).view(np.uint8)
    else:
        data = generator.integers(0, 256, _PATTERN_BYTES, dtype=np.uint8)
    return memoryview(np.concatenate([data, data]).tobytes())


def _content(spec: Spec, seed: int) -> Iterator[memoryview]:
    """The bytes of a tensor, a MiB at a time, no two pieces alike: misplaced bytes show."""
    pattern = _pattern(spec.encoding, seed)
    step = _DTYPES[spec.encoding].itemsize
    window = sum(spec.name.encode()) * 7919
    left = spec.nbytes
    while left:
        size = min(left, _PATTERN_BYTES)
        start = window * step % _PATTERN_BYTES
        yield pattern[start : start + size]
        left -= size
        window += 104_729


def header_of(
    specs: Sequence[Spec], metadata: Mapping[str, str] | None = None, *, multiple: int = 8
) -> bytes:
    """The length and the header of a file that holds `specs` in this order."""
    entries: dict[str, object] = {}
    position = 0
    for spec in specs:
        entries[spec.name] = _entry(
            spec.encoding, spec.shape, position, position := position + spec.nbytes
        )
    return _header(entries, metadata, multiple=multiple)


def write_specs(
    path: str | os.PathLike[str],
    specs: Sequence[Spec],
    *,
    metadata: Mapping[str, str] | None = None,
    seed: int = 0,
    header_multiple: int = 8,
) -> Path:
    """Write a safetensors file of random finite values, never holding more than a MiB of it."""
    with open(path, "wb") as file:
        file.write(header_of(specs, metadata, multiple=header_multiple))
        for spec in specs:
            file.writelines(_content(spec, seed))
    return Path(path)


def write_large(
    path: str | os.PathLike[str],
    nbytes: int,
    *,
    encoding: str = "BF16",
    largest_bytes: int = 128 * MIB,
    seed: int = 0,
) -> Path:
    """Write a file of about `nbytes` whose largest tensor has `largest_bytes`.

    For sizes of GiBs: the disk is the only limit. A `largest_bytes` above 2 GiB makes one tensor
    that no signed 32-bit count can hold.
    """
    itemsize = _DTYPES[encoding].itemsize
    specs: list[Spec] = []
    left = nbytes
    while left > 0:
        # Sizes alternate as in real models: big matrices, and small vectors between them.
        size = min(left, largest_bytes if len(specs) % 4 == 0 else max(4096, largest_bytes // 32))
        name = f"blocks.{len(specs):04d}.weight"
        specs.append(Spec(name, encoding, (size // itemsize,)))
        left -= size
    return write_specs(path, specs, seed=seed)

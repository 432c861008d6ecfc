"""Real weight files for tests, the same bytes for the same seed.

`make_file_set` writes the sets A to G that loaders are compared on; the writers of
`support.raw_files` and the page-cache tools of `support.cold` can be had here as well.
"""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from support.cold import evict, resident_bytes, resident_fraction, warm
from support.raw_files import (
    ENCODINGS,
    MIB,
    RawTensor,
    Spec,
    dtype_of,
    write_large,
    write_raw,
    write_safetensors,
    write_specs,
)

__all__ = [
    "ENCODINGS",
    "FileSet",
    "RawTensor",
    "Spec",
    "evict",
    "make_file_set",
    "resident_bytes",
    "resident_fraction",
    "warm",
    "write_checkpoint",
    "write_compressed_checkpoint",
    "write_large",
    "write_raw",
    "write_safetensors",
    "write_specs",
]

GIB = 1024 * MIB

SetName = Literal["A", "B", "C", "D", "E", "F", "G"]


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files that were made.

    Attributes:
        name: Letter of the set.
        path: What one loads: the file, or the index of shards.
        files: All that hold weights.
        nbytes: Bytes of all weights together.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    nbytes: int


def _diffusion_specs(total_bytes: int, encoding: str) -> list[Spec]:
    """About 70 tensors, sized like a diffusion model's: the largest has 5 % of the bytes."""
    itemsize = dtype_of(encoding).itemsize
    width = max(8, math.isqrt(total_bytes // itemsize // 100) // 8 * 8)
    specs = [
        Spec("model.diffusion_model.input_blocks.0.0.weight", encoding, (width, 4, 3, 3)),
        Spec("model.diffusion_model.time_embed.0.weight", encoding, (width * 5, width)),
    ]
    for block in range(12):
        root = f"model.diffusion_model.middle_block.{block}"
        specs += [
            Spec(f"{root}.norm.weight", encoding, (width,)),
            Spec(f"{root}.norm.bias", encoding, (width,)),
            Spec(f"{root}.attn.qkv.weight", encoding, (3 * width, width)),
            Spec(f"{root}.attn.out.weight", encoding, (width, width)),
            Spec(f"{root}.ff.weight", encoding, (4 * width, width)),
        ]
    specs.append(Spec("model.diffusion_model.out.2.weight", encoding, (4, width, 3, 3)))
    return specs


def _small_specs(factor: float) -> list[Spec]:
    count = max(64, round(20_000 * math.sqrt(factor)))
    unit = max(16, round(4096 * math.sqrt(factor)))
    return [
        Spec(
            f"lora_unet_down_blocks_{i // 64}_attn_{i % 64}.lora_{'up' if i % 2 else 'down'}.weight",
            "F16",
            (1 + i * 7 % 16, unit // 2),
        )
        for i in range(count)
    ]


def _odd_specs(rows: int) -> list[Spec]:
    return [
        Spec("three", "U8", (3,)),
        Spec("half", "F16", (rows, 33)),
        Spec("single", "F32", (rows, 17)),
        Spec("one", "U8", (1,)),
        Spec("brain", "BF16", (rows, 31)),
        Spec("double", "F64", (rows,)),
        Spec("whole", "I64", (rows, 3)),
        Spec("five", "U8", (5,)),
        Spec("last", "F16", (rows, 65)),
    ]


def _float8_specs(rows: int) -> list[Spec]:
    specs = []
    for block in range(4):
        specs += [
            Spec(f"blocks.{block}.weight", "F8_E4M3", (rows, 48)),
            Spec(f"blocks.{block}.scale_weight", "F32", ()),
            Spec(f"blocks.{block}.mixed.weight", "F8_E5M2", (rows, 16)),
            Spec(f"blocks.{block}.bias", "BF16", (rows,)),
        ]
    return specs


def _float4_specs(rows: int) -> list[Spec]:
    specs = []
    for block in range(4):
        specs += [
            Spec(f"blocks.{block}.weight", "F4", (rows, 64)),
            Spec(f"blocks.{block}.weight_scale", "F8_E8M0", (rows, 2)),
            Spec(f"blocks.{block}.bias", "F16", (rows,)),
        ]
    return specs


def _corner_specs() -> list[Spec]:
    plain = ("F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U64", "U32", "U16", "U8")
    return [
        Spec("scalar.float", "F32", ()),
        Spec("scalar.count", "I64", ()),
        Spec("scalar.flag", "BOOL", ()),
        Spec("empty", "F32", (0,)),
        Spec("empty.middle", "F16", (3, 0, 2)),
        Spec("mask", "BOOL", (5, 7)),
        Spec("complex", "C64", (3, 2)),
        Spec("deep", "F16", (1, 2, 1, 3, 1, 2)),
        Spec("empty.last", "I64", (4, 0)),
        *(Spec(f"plain.{encoding}", encoding, (3, 5)) for encoding in plain),
    ]


def make_file_set(
    name: SetName,
    folder: str | os.PathLike[str],
    *,
    factor: float = 1 / 1024,
    encoding: str = "BF16",
    seed: int = 0,
) -> FileSet:
    """Write one of the file sets that loaders are compared on.

    A: one file like a diffusion model's. B: the same tensors in 4 shards with an index. C: very
    many small tensors. D: everything misaligned, a U8[3] first. E: 8-bit floats and scales. F:
    4-bit floats and their scales. G: 0-d, empty, BOOL, integers, complex.

    Args:
        name: Letter of the set.
        folder: Where to put the files; made if missing.
        factor: Size; 1 is the full set (A has 6 GiB then).
        encoding: Dtype of the sets A and B.
        seed: Of the values.
    """
    root = Path(folder)
    root.mkdir(parents=True, exist_ok=True)
    if name == "B":
        return _write_shards(root, _diffusion_specs(round(6 * GIB * factor), encoding), seed)
    rows = max(4, round(256 * 1024 * factor))
    specs = {
        "A": lambda: _diffusion_specs(round(6 * GIB * factor), encoding),
        "C": lambda: _small_specs(factor),
        "D": lambda: _odd_specs(rows),
        "E": lambda: _float8_specs(rows),
        "F": lambda: _float4_specs(rows),
        "G": _corner_specs,
    }[name]()
    path = root / f"set_{name.lower()}.safetensors"
    metadata = {"format": "pt", "set": name}
    # An unpadded header is what makes set D odd for the whole file.
    write_specs(path, specs, metadata=metadata, seed=seed, header_multiple=1 if name == "D" else 8)
    return FileSet(name, path, (path,), sum(spec.nbytes for spec in specs))


def _write_shards(root: Path, specs: Sequence[Spec], seed: int, shards: int = 4) -> FileSet:
    files = []
    weight_map = {}
    for number in range(shards):
        share = specs[number * len(specs) // shards : (number + 1) * len(specs) // shards]
        path = root / f"model-{number + 1:05d}-of-{shards:05d}.safetensors"
        files.append(write_specs(path, share, metadata={"format": "pt"}, seed=seed))
        weight_map.update({spec.name: path.name for spec in share})
    total = sum(spec.nbytes for spec in specs)
    index = root / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return FileSet("B", index, tuple(files), total)


def write_checkpoint(
    path: str | os.PathLike[str],
    tensors: Mapping[str, torch.Tensor],
    *,
    nested: bool = True,
    legacy: bool = False,
) -> Path:
    """Write a checkpoint with ``torch.save``.

    Args:
        path: Where.
        tensors: By name.
        nested: Put them under ``state_dict``, beside a step count, as trainers do.
        legacy: In the format before 1.6, which is no zip archive.
    """
    state: dict[str, object] = dict(tensors)
    if nested:
        state = {"state_dict": state, "global_step": 1000, "epoch": 2}
    torch.save(state, path, _use_new_zipfile_serialization=not legacy)
    return Path(path)


def write_compressed_checkpoint(
    path: str | os.PathLike[str], tensors: Mapping[str, torch.Tensor]
) -> Path:
    """Write a ``torch.save`` archive whose entries are deflated: none of them is a slice."""
    plain = Path(f"{os.fspath(path)}.plain")
    write_checkpoint(plain, tensors)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as sink:
        for entry in source.infolist():
            sink.writestr(entry.filename, source.read(entry))
    plain.unlink()
    return Path(path)

"""Parts of pickled checkpoints, made by hand, so that they can lie."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

MAGIC = 0x1950A86A20F9469CFC6C
VERSION = 1001
SYSTEM = {"protocol_version": VERSION, "little_endian": True}
FORMATS: dict[str, dict[str, Any]] = {
    "zip": {},
    "legacy": {"_use_new_zipfile_serialization": False},
    "zip, protocol 3": {"pickle_protocol": 3},
    "zip, protocol 4": {"pickle_protocol": 4},
    "zip, protocol 5": {"pickle_protocol": 5},
    "legacy, protocol 4": {"_use_new_zipfile_serialization": False, "pickle_protocol": 4},
}
"""What ``torch.save`` can write, by the arguments that make it do so."""


@dataclass(frozen=True)
class Storage:
    """Stands for a storage in a pickle: becomes a persistent id."""

    key: object = "0"
    numel: object = 4
    kind: object = torch.FloatStorage


@dataclass(frozen=True)
class Tensor:
    """Stands for a tensor in a pickle, with whatever numbers are given."""

    storage: object = Storage()
    offset: object = 0
    size: object = (4,)
    stride: object = (1,)

    def __reduce__(self) -> tuple[Any, ...]:
        hooks: OrderedDict[str, object] = OrderedDict()
        arguments = (self.storage, self.offset, self.size, self.stride, False, hooks)
        return (torch._utils._rebuild_tensor_v2, arguments)


@dataclass(frozen=True)
class Call:
    """Stands for a call in a pickle; nothing is called when it is made."""

    function: Any
    arguments: tuple[Any, ...] = ()

    def __reduce__(self) -> tuple[Any, ...]:
        return (self.function, self.arguments)


class _Pickler(pickle.Pickler):
    def __init__(self, stream: io.BytesIO, protocol: int, is_legacy: bool) -> None:
        super().__init__(stream, protocol)
        self._is_legacy = is_legacy

    def persistent_id(self, obj: object) -> object:
        if not isinstance(obj, Storage):
            return None
        identity = ("storage", obj.kind, obj.key, "cpu", obj.numel)
        return (*identity, None) if self._is_legacy else identity


def dumps(value: object, *, protocol: int = 2, is_legacy: bool = False) -> bytes:
    """Pickle a value that holds the stand-ins of this module."""
    stream = io.BytesIO()
    _Pickler(stream, protocol, is_legacy).dump(value)
    return stream.getvalue()


def write_archive(
    path: Path,
    value: object = None,
    *,
    table: bytes | None = None,
    records: Mapping[str, bytes] | None = None,
    prefix: str = "archive/",
    compression: int = zipfile.ZIP_STORED,
) -> Path:
    """Write what ``torch.save`` would, but of any parts.

    Args:
        path: Where.
        value: What to pickle as the table.
        table: The table's bytes instead.
        records: Further records; four floats as storage "0" if None.
        prefix: Folder of the records.
        compression: Of the zip format.
    """
    contents = {"data.pkl": dumps(value) if table is None else table}
    contents.update({"data/0": bytes(16)} if records is None else records)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in contents.items():
            archive.writestr(prefix + name, data)
    return path


def write_legacy(
    path: Path,
    value: object = None,
    *,
    keys: object = ("0",),
    data: bytes = (4).to_bytes(8, "little") + bytes(16),
    magic: int = MAGIC,
    version: int = VERSION,
    system: object = None,
) -> Path:
    """Write the older format, of any parts."""
    keys = list(keys) if isinstance(keys, tuple) else keys
    parts = (magic, version, SYSTEM if system is None else system)
    content = b"".join(pickle.dumps(part, 2) for part in parts)
    content += dumps(value, is_legacy=True) + pickle.dumps(keys, 2) + data
    path.write_bytes(content)
    return path


def patched(path: Path, old: bytes, new: bytes, *, count: int = -1) -> Path:
    """Replace bytes of a file by as many others."""
    assert len(old) == len(new)
    content = path.read_bytes()
    assert old in content
    path.write_bytes(content.replace(old, new, count))
    return path

"""Sharded checkpoints: an ``*.index.json`` that says which file holds which tensor."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Any, NoReturn

from comfy.loading.errors import HeaderProblem, InvalidWeightFile
from comfy.loading.reader import read_exactly
from comfy.loading.strict_json import JsonProblem, Members, decode
from comfy.loading.weight_file import FileTable

INDEX_SUFFIX = ".index.json"
MAX_INDEX_BYTES = 100_000_000
_DRIVE = re.compile(r"[A-Za-z]:")
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Which tensors are in which files.

    Attributes:
        path: The index, absolute.
        metadata: Its ``metadata`` object; ``total_size`` in it is what the tensors should take.
        files: The shards, absolute, by name.
        weight_map: Name of each tensor to its shard.
    """

    path: str
    metadata: dict[str, Any]
    files: tuple[str, ...]
    weight_map: dict[str, str]

    @property
    def total_size(self) -> int | None:
        """Bytes of all tensors as the index says, or None if it does not say."""
        size = self.metadata.get("total_size")
        return int(size) if isinstance(size, (int, float)) else None


def is_index(path: str | os.PathLike[str]) -> bool:
    """Whether a path names the index of a sharded checkpoint."""
    return os.fspath(path).lower().endswith(INDEX_SUFFIX)


def read_index(path: str | os.PathLike[str]) -> ShardIndex:
    """Read and check the index of a sharded checkpoint; opens no shard.

    Args:
        path: The index. Shards are in its folder, or in folders below.

    Raises:
        InvalidWeightFile: INVALID_INDEX if it is not what it should be or names a file outside
            its folder, MISSING_SHARD if a file that it names does not exist.
        WeightReadFailed: If the system refuses; also a ``FileNotFoundError`` if nothing is there.
    """
    name = os.path.abspath(os.fspath(path))
    document = _read_json(name)
    weight_map = _strings(name, document.get("weight_map"))
    if not weight_map:
        _refuse(name, "its 'weight_map' names no tensor.")
    metadata = _plain(document.get("metadata"))
    if not isinstance(metadata, dict | None):
        _refuse(name, "its 'metadata' is not an object.")
    total = (metadata or {}).get("total_size", 0)
    if isinstance(total, bool) or not isinstance(total, (int, float)) or not 0 <= total < 2**63:
        _refuse(name, f"its 'total_size' is {total!r:.40}, not a number of bytes.")
    folder = os.path.dirname(name)
    paths = {shard: _resolve(name, folder, shard) for shard in sorted(set(weight_map.values()))}
    _check_presence(name, paths)
    return ShardIndex(
        name,
        metadata or {},
        tuple(paths.values()),
        {tensor: paths[shard] for tensor, shard in weight_map.items()},
    )


def _refuse(path: str, message: str, *, tensor: str | None = None) -> NoReturn:
    raise InvalidWeightFile(
        HeaderProblem.INVALID_INDEX,
        message,
        path=path,
        tensor=tensor,
        hint="Download the index file again.",
    )


def _read_json(path: str) -> dict[str, Any]:
    file = FileTable().open(path)
    if file.size > MAX_INDEX_BYTES:
        _refuse(path, f"it has {file.size:,} bytes, and {MAX_INDEX_BYTES:,} are allowed.")
    raw = bytearray(file.size)
    with file.reading() as fd:
        read_exactly(fd, memoryview(raw), 0, path=path)
    try:
        document = decode(raw)
    except UnicodeDecodeError as err:
        _refuse(path, f"it is not UTF-8 text at byte {err.start:,}.")
    except JsonProblem as err:
        _refuse(path, f"it is not valid JSON: {err}.")
    return _unique(path, "the index", document)


def _unique(path: str, what: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Members):
        _refuse(path, f"{what} is not an object.")
    unique: dict[str, Any] = {}
    for key, item in value:
        if key in unique:
            _refuse(path, f"{what} has '{key}' twice.", tensor=key)
        unique[key] = item
    return unique


def _strings(path: str, value: object) -> dict[str, str]:
    table = _unique(path, "its 'weight_map'", value)
    for tensor, shard in table.items():
        if not isinstance(shard, str):
            _refuse(path, f"the file of tensor '{tensor}' is not a text.", tensor=tensor)
    return table


def _plain(value: object) -> object:
    """Turn what the JSON reader gives into dictionaries and lists."""
    if isinstance(value, Members):
        return {key: _plain(item) for key, item in value}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value


def _resolve(path: str, folder: str, shard: str) -> str:
    """Path of a shard; only names below the index's folder are accepted."""
    parts = shard.split("/")
    # Symbolic links are fine: download caches are made of them. Names that leave the folder
    # are not, whichever system reads them.
    outside = any(part in ("", ".", "..") for part in parts) or _DRIVE.match(shard)
    if outside or "\\" in shard or "\0" in shard:
        _refuse(path, f"it names the file {shard!r:.200}, which is not a path below its folder.")
    if is_index(shard):
        _refuse(path, f"it names the file {shard!r:.200}, which is an index itself.")
    return os.path.join(folder, *parts)


def _check_presence(path: str, paths: dict[str, str]) -> None:
    missing = [shard for shard, full in paths.items() if not os.path.isfile(full)]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise InvalidWeightFile(
            HeaderProblem.MISSING_SHARD,
            f"{len(missing)} of its {len(paths)} files are not there: {shown}.",
            path=path,
            wanted=len(paths),
            got=len(paths) - len(missing),
            hint="Download them into the folder of the index.",
        )

"""What a weight file holds, whatever its format: named slices, and the little that is no slice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from comfy.loading.errors import HeaderProblem, InvalidWeightFile
from comfy.loading.header import read_header
from comfy.loading.pickles import PickledTensor, read_pickle
from comfy.loading.shards import is_index, read_index
from comfy.loading.weight_file import FileTable, WeightFile
from comfy.loading.weight_slice import WeightSlice

SAFETENSORS_SUFFIXES = (".safetensors", ".sft")
PICKLE_SUFFIXES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


@dataclass(slots=True)
class Contents:
    """The table of one checkpoint.

    Attributes:
        path: As the user gave it.
        files: All files it consists of.
        slices: Key to range, in the order of the file.
        strided: Keys of `slices` whose tensor is a strided view of that range.
        others: Values that have no range: plain objects, and tensors that had to be inflated.
        order: All keys in order.
        metadata: The header's, None where the format has none.
    """

    path: str
    files: list[WeightFile] = field(default_factory=list)
    slices: dict[str, WeightSlice] = field(default_factory=dict)
    strided: dict[str, PickledTensor] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    order: list[str] = field(default_factory=list)
    metadata: dict[str, str] | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    def select(self, keys: frozenset[str]) -> None:
        """Forget all but some keys.

        Raises:
            KeyError: If one of them is not there.
        """
        missing = sorted(keys - set(self.order))
        if missing:
            raise KeyError(f"{self.path} has no tensor {', '.join(map(repr, missing[:5]))}")
        self.order = [key for key in self.order if key in keys]
        tables: tuple[dict[str, Any], ...] = (self.slices, self.strided, self.others)
        for table in tables:
            for key in [key for key in table if key not in keys]:
                del table[key]


def read_contents(path: str, table: FileTable, *, compat: bool = False) -> Contents:
    """Open a checkpoint and read its table: no weight byte is read, nothing is mapped.

    Args:
        path: A safetensors file, the index of a sharded one, or a pickled checkpoint.
        table: Shares open files.
        compat: Accept four deviations from the safetensors format with a warning.

    Raises:
        InvalidWeightFile: If the table breaks a rule, or the format is unknown.
        WeightReadFailed: If a file cannot be opened.
    """
    contents = Contents(path)
    lower = path.lower()
    if is_index(path):
        _add_shards(contents, path, table, compat)
    elif lower.endswith(SAFETENSORS_SUFFIXES):
        _add_safetensors(contents, table.open(path), compat)
    else:
        file = table.open(path)
        if not lower.endswith(PICKLE_SUFFIXES) and _looks_like_safetensors(file):
            _add_safetensors(contents, file, compat)
        else:
            _add_pickle(contents, file)
    return contents


def _looks_like_safetensors(file: WeightFile) -> bool:
    """Whether the first bytes are a header's length and its opening brace."""
    start = bytearray(min(9, file.size))
    file.read_into(memoryview(start), 0)
    return len(start) == 9 and start[8:9] == b"{" and start[5:8] == b"\0\0\0"


def _add_safetensors(contents: Contents, file: WeightFile, compat: bool) -> None:
    header = read_header(file, compat=compat)
    contents.files.append(file)
    contents.slices.update(header.entries)
    contents.order.extend(header.entries)
    if header.metadata is not None:
        contents.metadata = {**(contents.metadata or {}), **header.metadata}


def _add_shards(contents: Contents, path: str, table: FileTable, compat: bool) -> None:
    index = read_index(path)
    for name in index.files:
        shard = Contents(name)
        if name.lower().endswith(SAFETENSORS_SUFFIXES):
            _add_safetensors(shard, table.open(name), compat)
        else:
            _add_pickle(shard, table.open(name))
        wanted = [key for key in shard.order if index.weight_map.get(key) == name]
        absent = [key for key, where in index.weight_map.items() if where == name]
        missing = sorted(set(absent) - set(shard.order))
        if missing:
            raise InvalidWeightFile(
                HeaderProblem.INVALID_INDEX,
                f"the index says that '{missing[0]}' is in {os.path.basename(name)}, "
                "which has no such tensor.",
                path=path,
                tensor=missing[0],
            )
        _merge(contents, shard, wanted)


def _merge(contents: Contents, shard: Contents, keys: list[str]) -> None:
    contents.files.extend(shard.files)
    contents.order.extend(keys)
    pairs: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (contents.slices, shard.slices),
        (contents.strided, shard.strided),
        (contents.others, shard.others),
    ]
    for target, source in pairs:
        target.update((key, source[key]) for key in keys if key in source)
    if shard.metadata is not None:
        contents.metadata = {**(contents.metadata or {}), **shard.metadata}


def _add_pickle(contents: Contents, file: WeightFile) -> None:
    contents.files.append(file)
    for key, value in read_pickle(file).entries.items():
        contents.order.append(key)
        if not isinstance(value, PickledTensor):
            contents.others[key] = value
        elif value.is_contiguous:
            contents.slices[key] = value.as_slice()
        else:
            contents.slices[key] = value.slice
            contents.strided[key] = value


def distinct(
    slices: Mapping[str, WeightSlice],
) -> tuple[dict[str, WeightSlice], dict[str, str]]:
    """Find the keys of a pickled checkpoint that are one memory, as tied weights are.

    Returns:
        The slices without repetition; and each key that repeats another's bytes, with that one.
    """
    first: dict[tuple[object, ...], str] = {}
    unique: dict[str, WeightSlice] = {}
    twins: dict[str, str] = {}
    for key, one in slices.items():
        same = id(one.file), one.offset, one.nbytes, one.dtype
        original = first.setdefault(same, key) if one.nbytes else key
        if original == key:
            unique[key] = one
        else:
            twins[key] = original
    return unique, twins


def restride(tensor: torch.Tensor, like: PickledTensor) -> torch.Tensor:
    """See the range that a strategy opened as the strided tensor that was pickled."""
    return tensor.as_strided(like.size, like.stride, tensor.storage_offset())


def nested_tensors(value: Any) -> Iterator[PickledTensor]:
    """Find the pickled tensors inside a value that is not itself one."""
    if isinstance(value, PickledTensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from nested_tensors(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from nested_tensors(item)


def replace_nested(value: Any, loaded: Mapping[int, torch.Tensor]) -> Any:
    """Put loaded tensors in the places of pickled ones; containers keep their type and order.

    Args:
        value: Any object.
        loaded: ``id`` of each `PickledTensor` to its tensor.
    """
    if isinstance(value, PickledTensor):
        return loaded[id(value)]
    if isinstance(value, dict):
        items = ((key, replace_nested(item, loaded)) for key, item in value.items())
        return type(value)(items)
    if isinstance(value, (list, tuple)) and not isinstance(value, torch.Size):
        return type(value)(replace_nested(item, loaded) for item in value)
    return value

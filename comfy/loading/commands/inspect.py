"""Show what is in a checkpoint: tensors, dtypes, sizes, metadata, and what of it is in memory.

Reads the header only, of pickled checkpoints the pickle; no weight is read, unless somebody
compressed it. Nothing is mapped.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from comfy.loading.commands.tables import facts, heading, percent, shortened, table, wrapped
from comfy.loading.contents import PICKLE_SUFFIXES, SAFETENSORS_SUFFIXES, Contents, read_contents
from comfy.loading.encodings import ENCODINGS
from comfy.loading.errors import InvalidWeightFile, LoadError
from comfy.loading.page_cache import resident_bytes
from comfy.loading.pickles import PickledTensor
from comfy.loading.shards import is_index, read_index
from comfy.loading.usage import in_words
from comfy.loading.weight_file import FileTable, WeightFile
from comfy.loading.weight_slice import WeightSlice

_VALUE_WIDTH = 72
_NAMES = defaultdict(
    lambda: "other", {e.torch_dtype: e.name for e in ENCODINGS.values() if not e.is_raw}
)
_PICKLE_STARTS = (b"PK", b"\x80")


@dataclass(frozen=True, slots=True)
class _Tensor:
    """One line of the table; `place` is None where the tensor has no range of its own."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    place: WeightSlice | None = None
    note: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("file", metavar="FILE", help="a checkpoint, or the index of a sharded one")
    parser.add_argument("--cache", action="store_true", help="page cache per tensor, too")
    parser.add_argument("--match", metavar="GLOB", help="list only tensors with such a name")
    parser.add_argument("--summary", action="store_true", help="list no tensors")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--load-compat", action="store_true", help="accept what the loading flag accepts"
    )


def run(arguments: argparse.Namespace) -> int:
    """Print the report.

    Returns:
        0, or 1 if the file is invalid.

    Raises:
        FileNotFoundError: If there is no file.
        WeightReadFailed: If the system refuses to open or read it.
    """
    path = os.path.abspath(arguments.file)
    try:
        found = _look(path, arguments.load_compat)
    except (InvalidWeightFile, EOFError) as err:
        # A file cut while it is read is as invalid as one with a wrong header.
        assert isinstance(err, LoadError)
        print(json.dumps(_refusal(path, err), indent=2) if arguments.json else _complaint(err))
        return 1
    tensors = [
        one
        for one in _tensors(found.contents)
        if arguments.match is None or fnmatch.fnmatchcase(one.name, arguments.match)
    ]
    if arguments.json:
        print(json.dumps(_as_json(found, tensors, arguments), indent=2))
    else:
        print("\n".join(_as_text(found, tensors, arguments)))
    return 0


# -- what is there -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Found:
    """A checkpoint's table, and what the page cache held of each file before it was read."""

    contents: Contents
    cached: dict[str, int | None]

    @property
    def cached_bytes(self) -> int | None:
        """Of all files together; None where the system cannot tell."""
        known = [one for one in self.cached.values() if one is not None]
        return sum(known) if len(known) == len(self.cached) else None


def _look(path: str, compat: bool) -> _Found:
    """Read the table without bringing more into the page cache than the table itself."""
    table = FileTable()
    files = [table.open(one) for one in (read_index(path).files if is_index(path) else (path,))]
    cached = {file.path: _cached(file) for file in files}
    for file in files:
        if hasattr(os, "posix_fadvise"):
            # Without read-ahead. The descriptor stays the one that the header is read from.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
    return _Found(read_contents(path, table, compat=compat), cached)


def _format(contents: Contents) -> str:
    lower = contents.path.lower()
    if is_index(contents.path):
        return "sharded"
    if lower.endswith(SAFETENSORS_SUFFIXES):
        return "safetensors"
    if lower.endswith(PICKLE_SUFFIXES):
        return "pytorch"
    start = bytearray(2)
    contents.files[0].read_into(memoryview(start), 0)
    return "pytorch" if bytes(start).startswith(_PICKLE_STARTS) else "safetensors"


def _tensors(contents: Contents) -> list[_Tensor]:
    """All tensors in the order of the file, those inside containers under a path of keys."""
    found = []
    for key in contents.order:
        if key in contents.strided:
            found.append(_pickled(key, contents.strided[key]))
        elif key in contents.slices:
            one = contents.slices[key]
            found.append(
                _Tensor(key, _dtype_name(one), one.shape, one.nbytes, one, _packing_note(one))
            )
        else:
            found += _inside(key, contents.others[key])
    return found


def _inside(name: str, value: Any) -> list[_Tensor]:
    if isinstance(value, PickledTensor):
        return [_pickled(name, value)]
    if isinstance(value, torch.Tensor):
        return [
            _Tensor(name, _NAMES[value.dtype], tuple(value.shape), value.nbytes, note="compressed")
        ]
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, (list, tuple)):
        items = list(enumerate(value))
    return [one for key, item in items for one in _inside(f"{name}/{key}", item)]


def _pickled(name: str, value: PickledTensor) -> _Tensor:
    place = value.slice
    shape = tuple(value.size)
    note = "" if value.is_contiguous else f"strides {list(value.stride)}"
    return _Tensor(name, _dtype_name(place), shape, place.nbytes, place, note)


def _packing_note(place: WeightSlice) -> str:
    encoding = ENCODINGS.get(place.encoding)
    if encoding is None or (encoding.packing == 1 and not encoding.is_raw):
        return ""
    return f"{encoding.bits} bits each; the shape is that of the packed bytes"


def _dtype_name(place: WeightSlice) -> str:
    return place.encoding or str(place.dtype).removeprefix("torch.")


def _plain_values(contents: Contents) -> list[tuple[str, Any]]:
    """Values that are no tensors and hold none."""
    return [
        (key, contents.others[key])
        for key in contents.order
        if key in contents.others and not _inside(key, contents.others[key])
    ]


def _cached(file: WeightFile, offset: int = 0, length: int = 0) -> int | None:
    """Bytes of a range in the page cache; None where the system cannot tell."""
    with file.reading() as fd:
        found = resident_bytes(fd, offset, length)
    return None if found is None else min(found, length or file.size)


def _cached_of(one: _Tensor) -> int | None:
    if one.place is None or not one.nbytes:
        return None
    return _cached(one.place.file, one.place.offset, one.nbytes)


# -- as text -----------------------------------------------------------------------------------


def _as_text(found: _Found, tensors: Sequence[_Tensor], arguments: argparse.Namespace) -> list[str]:
    contents = found.contents
    lines = [contents.path, *facts(_summary(found, tensors, arguments.match))]
    if len(contents.files) > 1:
        lines += [heading("files"), *_file_table(found)]
    if contents.metadata:
        short = [(key, shortened(text, _VALUE_WIDTH)) for key, text in contents.metadata.items()]
        lines += [heading("metadata"), *facts(short)]
    plain = _plain_values(contents)
    if plain:
        short = [(key, shortened(repr(value), _VALUE_WIDTH)) for key, value in plain]
        lines += [heading("values that are no tensors"), *facts(short)]
    if not arguments.summary and tensors:
        lines += [heading("tensors"), *_tensor_table(tensors, arguments.cache)]
    return lines


def _summary(found: _Found, tensors: Sequence[_Tensor], match: str | None) -> list[tuple[str, str]]:
    form, size = _format(found.contents), found.contents.size
    names = {"sharded": f"{len(found.contents.files)} shards", "pytorch": "PyTorch checkpoint"}
    which = f" that match {match}" if match is not None else ""
    total = sum(one.nbytes for one in tensors)
    verdict = "the pickle holds no code, its records" if form == "pytorch" else "header and table"
    pairs = [
        ("format", names.get(form, form)),
        ("file size", f"{in_words(size)} ({size:,} bytes)" if size >= 1024 else in_words(size)),
        ("tensors", f"{len(tensors):,}{which}, {in_words(total)}"),
        ("dtypes", _dtypes(tensors)),
        ("page cache", _cache_words(found)),
        ("valid", f"yes: {verdict} agree with the size of the file"),
    ]
    return [pair for pair in pairs if pair[1]]


def _dtypes(tensors: Sequence[_Tensor]) -> str:
    groups: dict[str, list[int]] = defaultdict(list)
    for one in tensors:
        groups[one.dtype].append(one.nbytes)
    ordered = sorted(groups.items(), key=lambda item: -sum(item[1]))
    return ", ".join(f"{name}: {len(s):,} of {in_words(sum(s))}" for name, s in ordered)


def _cache_words(found: _Found) -> str:
    cached, size = found.cached_bytes, found.contents.size
    if cached is None:
        return "unknown: this system does not tell"
    return (
        f"{percent(cached / size if size else 0.0)} of the file is in memory ({in_words(cached)})"
    )


def _file_table(found: _Found) -> list[str]:
    rows = []
    for file in found.contents.files:
        cached = found.cached[file.path]
        share = None if cached is None else cached / max(1, file.size)
        rows.append((os.path.basename(file.path), in_words(file.size), percent(share)))
    return table(("file", "size", "cached"), rows, right="lrr")


def _tensor_table(tensors: Sequence[_Tensor], with_cache: bool) -> list[str]:
    rows = []
    for one in tensors:
        row = [one.name, one.dtype, _shape(one.shape), in_words(one.nbytes)]
        if with_cache:
            cached = _cached_of(one)
            row.append("-" if cached is None else percent(cached / one.nbytes))
        rows.append([*row, one.note])
    header = ["name", "dtype", "shape", "size", *(["cached"] if with_cache else []), ""]
    return table(header, rows, right="lllrr" if with_cache else "lllr")


def _shape(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) if shape else "scalar"


def _complaint(err: LoadError) -> str:
    problem = err.problem.value if isinstance(err, InvalidWeightFile) else type(err).__name__
    numbers = [
        ("tensor", err.tensor),
        ("at byte", None if err.offset is None else f"{err.offset:,}"),
        ("wanted", None if err.wanted is None else f"{err.wanted:,}"),
        ("got", None if err.got is None else f"{err.got:,}"),
    ]
    message = err.message.removeprefix(f"{problem}: ")
    lines = [
        *facts(
            [
                ("valid", f"no: {problem}"),
                *((name, value) for name, value in numbers if value is not None),
            ]
        ),
        "",
        *wrapped(f"{message[:1].upper()}{message[1:]} {err.hint}"),
    ]
    return "\n".join([err.path or "", *lines])


# -- as JSON -----------------------------------------------------------------------------------


def _as_json(
    found: _Found, tensors: Sequence[_Tensor], arguments: argparse.Namespace
) -> dict[str, Any]:
    contents = found.contents
    report: dict[str, Any] = {
        "path": contents.path,
        "valid": True,
        "format": _format(contents),
        "file_bytes": contents.size,
        "weight_bytes": sum(one.nbytes for one in tensors),
        "tensor_count": len(tensors),
        "files": [
            {"path": file.path, "bytes": file.size, "cached_bytes": found.cached[file.path]}
            for file in contents.files
        ],
        "metadata": contents.metadata,
        "values": {key: repr(value) for key, value in _plain_values(contents)},
    }
    if not arguments.summary:
        report["tensors"] = [_tensor_json(one, arguments.cache) for one in tensors]
    return report


def _tensor_json(one: _Tensor, with_cache: bool) -> dict[str, Any]:
    row: dict[str, Any] = {
        "name": one.name,
        "dtype": one.dtype,
        "shape": list(one.shape),
        "bytes": one.nbytes,
    }
    if one.place is not None:
        row |= {"file": one.place.file.path, "offset": one.place.offset}
    if one.note:
        row["note"] = one.note
    if with_cache:
        row["cached_bytes"] = _cached_of(one)
    return row


def _refusal(path: str, err: LoadError) -> dict[str, Any]:
    problem = err.problem.value if isinstance(err, InvalidWeightFile) else type(err).__name__
    return {
        "path": path,
        "valid": False,
        "problem": problem,
        "message": err.message,
        "hint": err.hint,
        "file": err.path,
        "tensor": err.tensor,
        "offset": err.offset,
        "wanted": err.wanted,
        "got": err.got,
    }

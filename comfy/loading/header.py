"""The header of a safetensors file: read, checked completely, turned into slices.

Everything is checked before anything is allocated. The rules are those of safetensors 0.8, in
its order and under its names. What it accepts is refused here only if two readers could take it
for different weights:

* a first byte other than ``{``, a duplicate tensor name, a duplicate metadata key, a tensor
  described by a list (or its dtype by an object): warnings under ``--load-compat``;
* a dimension of 2^63 or more beside a 0, which no torch tensor can have;
* in fields that the format does not know: a number of more than 4,300 characters, or within
  10^-15 of the largest double.

Source:
    https://github.com/huggingface/safetensors (format), checked against release 0.8.
"""

from __future__ import annotations

import functools
import logging
import os
from dataclasses import dataclass
from typing import NoReturn

from comfy.loading.encodings import ENCODINGS, Encoding
from comfy.loading.errors import HeaderProblem
from comfy.loading.header_table import LENGTH_BYTES, Judge, TableEntry, TableReader, compact
from comfy.loading.reader import read_exactly
from comfy.loading.strict_json import JsonProblem, decode
from comfy.loading.weight_file import FileTable, WeightFile
from comfy.loading.weight_slice import WeightSlice

__all__ = [
    "ENCODINGS",
    "MAX_HEADER_BYTES",
    "Encoding",
    "Header",
    "ParsedHeader",
    "TableEntry",
    "header_length",
    "parse",
    "read_header",
    "read_raw_header",
]

logger = logging.getLogger(__name__)

MAX_HEADER_BYTES = 100_000_000
_MAX_UNSIGNED = (1 << 64) - 1
_MAX_DIMENSION = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class ParsedHeader:
    """A header that passed all checks, not tied to an open file.

    Attributes:
        metadata: The ``__metadata__`` object, or None if there is none.
        entries: Tensors by name, in the order of the header.
        header_bytes: Length of the JSON text; the data begins 8 bytes later.
    """

    metadata: dict[str, str] | None
    entries: dict[str, TableEntry]
    header_bytes: int


@dataclass(frozen=True, slots=True)
class Header:
    """The header of an open file.

    Attributes:
        metadata: The ``__metadata__`` object, or None if there is none.
        entries: Slices by name, in the order of the header.
        header_bytes: Length of the JSON text; the data begins 8 bytes later.
    """

    metadata: dict[str, str] | None
    entries: dict[str, WeightSlice]
    header_bytes: int


def read_header(file: WeightFile, *, compat: bool = False) -> Header:
    """Read and check the header of a safetensors file; no byte of a tensor is read.

    Args:
        file: The file; the slices refer to it.
        compat: Accept the four deviations named above, with a warning.

    Raises:
        InvalidWeightFile: With the first rule that the file breaks.
        WeightReadFailed: If the system refuses.
        WeightFileChanged: If the path leads to other bytes now.
    """
    with file.reading() as fd:
        start = bytearray(min(LENGTH_BYTES, file.size))
        read_exactly(fd, memoryview(start), 0, path=file.path)
        raw = bytearray(header_length(start, file.size, path=file.path))
        read_exactly(fd, memoryview(raw), LENGTH_BYTES, path=file.path)
    parsed = parse(raw, file.size, path=file.path, compat=compat)
    data = LENGTH_BYTES + parsed.header_bytes
    entries = {name: _slice(file, data, name, entry) for name, entry in parsed.entries.items()}
    return Header(parsed.metadata, entries, parsed.header_bytes)


def _slice(file: WeightFile, data: int, name: str, entry: TableEntry) -> WeightSlice:
    nbytes = entry.end - entry.begin
    dtype, shape = entry.encoding.torch_form(entry.shape, nbytes)
    return WeightSlice(file, data + entry.begin, nbytes, dtype, shape, entry.encoding.name, name)


def read_raw_header(path: str | os.PathLike[str], max_size: int) -> bytes | None:
    """The JSON text of a header as it is in the file, unchecked.

    Args:
        path: A safetensors file.
        max_size: Longest text to return, in bytes.

    Returns:
        The text, or None if it is longer than `max_size`.

    Raises:
        InvalidWeightFile: If the file is shorter than it says.
        WeightReadFailed: If the system refuses; also a ``FileNotFoundError`` if nothing is there.
    """
    file = FileTable().open(path)
    with file.reading() as fd:
        start = bytearray(min(LENGTH_BYTES, file.size))
        read_exactly(fd, memoryview(start), 0, path=file.path)
        if len(start) == LENGTH_BYTES and int.from_bytes(start, "little") > max_size:
            return None
        raw = bytearray(header_length(start, file.size, path=file.path))
        read_exactly(fd, memoryview(raw), LENGTH_BYTES, path=file.path)
    return bytes(raw)


def header_length(start: bytes | bytearray, file_size: int, *, path: str) -> int:
    """Check the first 8 bytes of a file, and take the header's length from them.

    Raises:
        InvalidWeightFile: If there are fewer, or the length is impossible.
    """
    judge = Judge(path, file_size)
    if len(start) < LENGTH_BYTES:
        judge.refuse(
            HeaderProblem.HEADER_TOO_SMALL,
            f"a safetensors file begins with {LENGTH_BYTES} bytes that give the header's length.",
            offset=0,
            wanted=LENGTH_BYTES,
        )
    length = int.from_bytes(start, "little")
    if length > MAX_HEADER_BYTES:
        judge.refuse(
            HeaderProblem.HEADER_TOO_LARGE,
            f"it says that its header has {length:,} bytes, and {MAX_HEADER_BYTES:,} are allowed.",
            offset=0,
            wanted=MAX_HEADER_BYTES,
            got=length,
            hint=f"{_what_it_is(start)} Download it again.",
        )
    if LENGTH_BYTES + length > file_size:
        judge.refuse(
            HeaderProblem.INVALID_HEADER_LENGTH,
            f"its header ends at byte {LENGTH_BYTES + length:,}, behind the end of the file.",
            offset=0,
            wanted=LENGTH_BYTES + length,
            hint=f"{_what_it_is(start)} Download it again.",
        )
    return length


_BEGINNINGS = (
    (b"version ", "This is a Git LFS pointer, a small text in place of the weights."),
    (b"<", "This looks like a web page, not like weights."),
    (b"PK\x03\x04", "This looks like a PyTorch checkpoint (.ckpt, .pt); rename it so."),
    (b"\x80\x02", "This looks like a PyTorch checkpoint (.ckpt, .pt); rename it so."),
    (b"GGUF", "This is a GGUF file, which needs a loader of its own."),
)


def _what_it_is(start: bytes | bytearray) -> str:
    for beginning, sentence in _BEGINNINGS:
        if start.startswith(beginning):
            return sentence
    return "The file is incomplete, damaged, or not a safetensors file."


def parse(
    raw: bytes | bytearray, file_size: int, *, path: str, compat: bool = False
) -> ParsedHeader:
    """Check the text of a header against the size of its file.

    Args:
        raw: The JSON text: all bytes between the length and the data.
        file_size: Of the whole file, in bytes.
        path: Named in errors.
        compat: Accept the four deviations named above, with a warning.

    Raises:
        InvalidWeightFile: With the first rule that is broken. The four deviations come last:
            what safetensors refuses is refused under its name.
    """
    judge = Judge(path, file_size)
    try:
        document = decode(raw, compact)
    except UnicodeDecodeError as err:
        at = LENGTH_BYTES + err.start
        judge.refuse(
            HeaderProblem.INVALID_HEADER, f"the header is not UTF-8 text at byte {at:,}.", offset=at
        )
    except JsonProblem as err:
        judge.refuse(
            HeaderProblem.INVALID_HEADER_DESERIALIZATION,
            f"the header is not valid JSON: {err}.",
            offset=LENGTH_BYTES,
        )
    table = TableReader(judge)
    table.read(document)
    _check_ranges(table.entries, LENGTH_BYTES + len(raw), judge)
    _check_dimensions(table.entries, judge)
    if raw[:1] != b"{":
        table.odd.setdefault(HeaderProblem.INVALID_HEADER_START, None)
    for problem in sorted(table.odd, key=list(HeaderProblem).index):
        _tell_deviation(problem, table.odd[problem], judge, compat)
    return ParsedHeader(table.metadata, table.entries, len(raw))


def _check_ranges(entries: dict[str, TableEntry], data: int, judge: Judge) -> None:
    """Check that the ranges lie end to end, have the sizes of their shapes, and fill the file."""
    position = 0
    for name, entry in sorted(entries.items(), key=lambda item: (item[1].begin, item[1].end)):
        begin, end = entry.begin, entry.end
        if begin != position or end < begin:
            judge.refuse(
                HeaderProblem.INVALID_OFFSET,
                f"tensor '{name}' lies at {begin:,} to {end:,}, and should begin at"
                f" {position:,}, where the one before it ends.",
                tensor=name,
                offset=data + begin,
                wanted=position,
                got=begin,
            )
        nbytes = _size_of(name, entry, judge)
        if nbytes != end - begin:
            judge.refuse(
                HeaderProblem.TENSOR_INVALID_INFO,
                f"tensor '{name}' of dtype {entry.encoding.name} and shape {list(entry.shape)} has"
                f" {nbytes:,} bytes, but its place, {begin:,} to {end:,}, has {end - begin:,}.",
                tensor=name,
                offset=data + begin,
                wanted=nbytes,
                got=end - begin,
            )
        position = end
    if data + position != judge.file_size:
        _refuse_incomplete(entries, data + position, judge)


def _refuse_incomplete(entries: dict[str, TableEntry], end: int, judge: Judge) -> NoReturn:
    last = max(entries, key=lambda name: entries[name].end, default=None)
    whose = "the header, which names no tensor," if last is None else f"the last tensor, '{last}',"
    short = end > judge.file_size
    judge.refuse(
        HeaderProblem.METADATA_INCOMPLETE_BUFFER,
        f"{whose} ends at byte {end:,}, {'behind' if short else 'before'} the end of the file.",
        tensor=last,
        offset=end,
        wanted=end,
        hint="The file is incomplete; download it again."
        if short
        else "Something was appended to the file, or its header is wrong; download it again.",
    )


def _size_of(name: str, entry: TableEntry, judge: Judge) -> int:
    """Bytes that the shape needs, in the arithmetic of 64 bits."""
    bits = 1
    for factor in (*entry.shape, entry.encoding.bits):
        bits *= factor
        if bits > _MAX_UNSIGNED:
            judge.refuse(
                HeaderProblem.VALIDATION_OVERFLOW,
                f"tensor '{name}' of dtype {entry.encoding.name} and shape {list(entry.shape)} is"
                " larger than 64 bits can count.",
                tensor=name,
                wanted=bits,
            )
    size, rest = divmod(bits, 8)
    if rest:
        judge.refuse(
            HeaderProblem.MISALIGNED_SLICE,
            f"tensor '{name}' of dtype {entry.encoding.name} and shape {list(entry.shape)} has"
            f" {bits:,} bits, which do not fill whole bytes.",
            tensor=name,
            wanted=bits,
        )
    return size


def _check_dimensions(entries: dict[str, TableEntry], judge: Judge) -> None:
    """Refuse dimensions that the format allows beside a 0, but torch cannot hold."""
    for name, entry in entries.items():
        largest = max(entry.shape, default=0)
        if largest > _MAX_DIMENSION:
            judge.refuse(
                HeaderProblem.VALIDATION_OVERFLOW,
                f"tensor '{name}' of shape {list(entry.shape)} has a dimension of 2^63 or more.",
                tensor=name,
                wanted=largest,
            )


_DEVIATIONS = {
    HeaderProblem.INVALID_HEADER_START: "the header does not begin with '{{'.",
    HeaderProblem.DUPLICATE_TENSOR: "tensor '{0}' is described twice; readers differ in which"
    " description counts.",
    HeaderProblem.DUPLICATE_METADATA_KEY: "the key '{0}' is twice in '__metadata__'.",
    HeaderProblem.ARRAY_FORM: "tensor '{0}' is described in a form that only some readers know.",
}


def _tell_deviation(problem: HeaderProblem, name: str | None, judge: Judge, compat: bool) -> None:
    message = _DEVIATIONS[problem].format(name)
    if compat:
        _warn_once(judge.path, f"{problem.value}: {message}")
        return
    judge.refuse(
        problem,
        message,
        tensor=None if problem is HeaderProblem.DUPLICATE_METADATA_KEY else name,
        offset=LENGTH_BYTES,
        hint="The file was written wrongly; save it anew, or start with --load-compat to accept it.",
    )


@functools.lru_cache(maxsize=1024)
def _warn_once(path: str, message: str) -> None:
    logger.warning("%s: %s Accepted, because of --load-compat.", path, message)

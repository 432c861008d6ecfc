"""The JSON of a safetensors header as a table of entries: fields, types, names.

What the entries' numbers mean for each other and for the file is checked in `header`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn, TypeGuard

from comfy.loading.encodings import ENCODINGS, Encoding
from comfy.loading.errors import HeaderProblem, InvalidWeightFile
from comfy.loading.strict_json import Members

LENGTH_BYTES = 8
_FIELDS = ("dtype", "shape", "data_offsets")


@dataclass(frozen=True, slots=True)
class TableEntry:
    """What a header says of one tensor.

    Attributes:
        encoding: Its dtype.
        shape: As written, in elements of the encoding.
        begin: First byte, counted from the end of the header.
        end: The byte behind the last one.
    """

    encoding: Encoding
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Judge:
    """Says no in full sentences: knows what every refusal tells."""

    path: str
    file_size: int

    def refuse(
        self,
        problem: HeaderProblem,
        message: str,
        *,
        tensor: str | None = None,
        offset: int | None = None,
        wanted: int | None = None,
        got: int | None = None,
        hint: str = "The file is damaged or not a safetensors file; download it again.",
    ) -> NoReturn:
        """Raise `InvalidWeightFile`; the message and the numbers also tell the file's size."""
        raise InvalidWeightFile(
            problem,
            f"{message} The file has {self.file_size:,} bytes.",
            path=self.path,
            tensor=tensor,
            offset=offset,
            wanted=wanted,
            got=self.file_size if got is None else got,
            hint=hint,
        )


def compact(pairs: list[tuple[str, Any]]) -> object:
    """Make a flawless description of a tensor an entry at once; it is small, and most are."""
    fields = dict(pairs)
    if len(pairs) == 3 and len(fields) == 3:
        dtype, shape, offsets = (fields.get(key) for key in _FIELDS)
        if (
            isinstance(dtype, str)
            and dtype in ENCODINGS
            and _is_sizes(shape)
            and _is_sizes(offsets)
            and len(offsets) == 2
        ):
            return TableEntry(ENCODINGS[dtype], tuple(shape), *offsets)
    return Members(pairs)


def _is_sizes(value: object) -> TypeGuard[list[int]]:
    # `type`, not `isinstance`: bool is an int to Python, and is not to JSON.
    return isinstance(value, list) and all(type(item) is int and item >= 0 for item in value)


class TableReader:
    """Turns the parsed JSON into entries.

    Attributes:
        metadata: The ``__metadata__`` object, or None.
        entries: Tensors by name; of two with one name, the last.
        odd: Deviations that only strict readers mind, each with the first name concerned.
    """

    def __init__(self, judge: Judge) -> None:
        self.metadata: dict[str, str] | None = None
        self.entries: dict[str, TableEntry] = {}
        self.odd: dict[HeaderProblem, str | None] = {}
        self._judge = judge

    def read(self, document: object) -> None:
        """Fill `metadata`, `entries` and `odd` from what `decode` gave with `compact` as hook."""
        if not isinstance(document, Members):
            self._refuse("the header is not an object of tensors")
        has_metadata = False
        for name, value in document:
            if name != "__metadata__":
                if name in self.entries:
                    self.odd.setdefault(HeaderProblem.DUPLICATE_TENSOR, name)
                self.entries[name] = self._entry(name, value)
            elif has_metadata:
                self._refuse("'__metadata__' is there twice")
            else:
                has_metadata = True
                self._read_metadata(value)

    def _read_metadata(self, value: object) -> None:
        if value is None:
            return
        if not isinstance(value, Members):
            self._refuse("'__metadata__' is not an object of strings")
        self.metadata = {}
        for key, text in value:
            if not isinstance(text, str):
                self._refuse(f"the value of '{key}' in '__metadata__' is not a string")
            if key in self.metadata:
                self.odd.setdefault(HeaderProblem.DUPLICATE_METADATA_KEY, key)
            self.metadata[key] = text

    def _entry(self, name: str, value: object) -> TableEntry:
        if isinstance(value, TableEntry):
            return value
        fields = self._fields(name, value)
        encoding = self._encoding(name, fields["dtype"])
        shape = self._sizes(name, "shape", fields["shape"])
        offsets = self._sizes(name, "data_offsets", fields["data_offsets"])
        if len(offsets) != 2:
            self._refuse(f"'data_offsets' has {len(offsets)} numbers, not 2", name)
        return TableEntry(encoding, shape, *offsets)

    def _fields(self, name: str, value: object) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        if isinstance(value, list):
            self.odd.setdefault(HeaderProblem.ARRAY_FORM, name)
            if len(value) != len(_FIELDS):
                self._refuse(f"a list of {len(value)} items does not describe a tensor", name)
            return dict(zip(_FIELDS, value, strict=True))
        if not isinstance(value, Members):
            self._refuse("its description is not an object", name)
        for key, item in value:
            if key in _FIELDS and key in fields:
                self._refuse(f"'{key}' is there twice", name)
            fields[key] = item
        for key in _FIELDS:
            if key not in fields:
                self._refuse(f"'{key}' is missing", name)
        return fields

    def _sizes(self, name: str, key: str, value: object) -> tuple[int, ...]:
        if not _is_sizes(value):
            self._refuse(f"'{key}' is not a list of whole numbers from 0 to 2^64 - 1", name)
        return tuple(value)

    def _encoding(self, name: str, dtype: object) -> Encoding:
        if isinstance(dtype, Members) and len(dtype) == 1 and dtype[0][1] is None:
            # serde's other spelling of an enum without data: {"F32": null}
            self.odd.setdefault(HeaderProblem.ARRAY_FORM, name)
            dtype = dtype[0][0]
        if not isinstance(dtype, str):
            self._refuse("'dtype' is not a string", name)
        if dtype not in ENCODINGS:
            self._refuse(f"'{dtype[:40]}' is not a dtype (known: {', '.join(ENCODINGS)})", name)
        return ENCODINGS[dtype]

    def _refuse(self, message: str, tensor: str | None = None) -> NoReturn:
        whose = f"tensor '{tensor}': " if tensor is not None else ""
        self._judge.refuse(
            HeaderProblem.INVALID_HEADER_DESERIALIZATION,
            f"{whose}{message}.",
            tensor=tensor,
            offset=LENGTH_BYTES,
        )

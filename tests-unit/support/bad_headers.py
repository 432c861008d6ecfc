"""Malformed safetensors files: each breaks one rule, and says which."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from comfy.loading.errors import HeaderProblem as Problem
from support.header_parts import VALID_TEXT, entry, packed, with_length

STRICTER = frozenset(
    {
        Problem.INVALID_HEADER_START,
        Problem.DUPLICATE_TENSOR,
        Problem.DUPLICATE_METADATA_KEY,
        Problem.ARRAY_FORM,
    }
)
"""What safetensors accepts and we refuse, unless told to be compatible."""


@dataclass(frozen=True)
class BadHeader:
    """One malformed file.

    Attributes:
        name: What is wrong with it.
        content: The file's bytes.
        problem: The rule that it breaks.
        tensor: The tensor that the error must name, or None.
        file_bytes: Length of the file, if it continues with a hole.
    """

    name: str
    content: bytes
    problem: Problem
    tensor: str | None = None
    file_bytes: int | None = None

    def __str__(self) -> str:
        return self.name

    def write(self, path: Path) -> Path:
        """Make the file, its hole included."""
        path.write_bytes(self.content)
        if self.file_bytes is not None:
            with path.open("r+b") as file:
                file.truncate(self.file_bytes)
        return path


_DATA = b"\0\1"
_THREE = packed(
    {
        "__metadata__": {"format": "pt"},
        "a": entry("F32", [2], [0, 8]),
        "b": entry("F16", [2, 2], [8, 16]),
        "c": entry("U8", [3], [16, 19]),
    },
    bytes(19),
)
_HEADER_END = len(_THREE) - 19


def _text(old: str, new: str) -> bytes:
    """The valid file with one part of its header replaced."""
    assert VALID_TEXT.count(old) == 1, old
    return with_length(VALID_TEXT.replace(old, new).encode("utf-8", "surrogatepass"), _DATA)


def _beside(field: str) -> bytes:
    """The valid file with a field that the format does not know."""
    return _text('"dtype"', f'"x":{field},"dtype"')


def _lengths() -> Iterator[BadHeader]:
    small, large, length = (
        Problem.HEADER_TOO_SMALL,
        Problem.HEADER_TOO_LARGE,
        Problem.INVALID_HEADER_LENGTH,
    )
    for count in range(8):
        yield BadHeader(f"cut to {count} bytes", _THREE[:count], small)
    for count in (8, 9, _HEADER_END // 2, _HEADER_END - 1):
        yield BadHeader(f"header cut at byte {count}", _THREE[:count], length)
    valid = VALID_TEXT.encode()
    claims = {
        "10^8 bytes in a small file": (100_000_000, length),
        "10^8 + 1 bytes in a small file": (100_000_001, large),
        "2^63 bytes": (1 << 63, large),
        "2^64 - 1 bytes": ((1 << 64) - 1, large),
        "2^64 - 8 bytes, which wraps to the file's beginning": ((1 << 64) - 8, large),
        "one byte more than the file": (len(valid) + 3, length),
    }
    for name, (claim, problem) in claims.items():
        yield BadHeader(f"header claims {name}", with_length(valid, _DATA, claim), problem)
    yield BadHeader(
        "header of 10^8 + 1 bytes that are there",
        with_length(b"{}", b"", 100_000_001),
        large,
        file_bytes=100_000_009,
    )
    yield BadHeader("git lfs pointer", b"version https://git-lfs.github.com/spec/v1\n", large)
    yield BadHeader("web page", b"<!DOCTYPE html><html></html>", large)
    yield BadHeader("zip archive", b"PK\x03\x04\0\0\0\0\0\0\0\0", length)
    yield BadHeader("all zero", bytes(64), Problem.INVALID_HEADER_DESERIALIZATION)


def _utf8() -> Iterator[BadHeader]:
    bad = {
        "a lone continuation byte": b"\x80",
        "an overlong slash": b"\xc0\xaf",
        "an encoded surrogate": b"\xed\xa0\x80",
        "a code point beyond Unicode": b"\xf4\x90\x80\x80",
        "half a character": b"\xc3",
        "latin-1": "é".encode("latin-1"),
    }
    for name, raw in bad.items():
        header = VALID_TEXT.encode().replace(b'"a"', b'"' + raw + b'"')
        yield BadHeader(f"not UTF-8: {name}", with_length(header, _DATA), Problem.INVALID_HEADER)


def _json() -> Iterator[BadHeader]:
    contents = {
        "empty header": with_length(b""),
        "blank header": with_length(b"   "),
        "byte order mark": with_length(b"\xef\xbb\xbf" + VALID_TEXT.encode(), _DATA),
        "cut in the middle of JSON": with_length(VALID_TEXT[:30].encode(), _DATA),
        "NUL padding": with_length(VALID_TEXT.encode() + b"\0\0", _DATA),
        "form feed behind": with_length(VALID_TEXT.encode() + b"\f", _DATA),
        "no-break space behind": with_length(VALID_TEXT.encode() + b"\xc2\xa0", _DATA),
        "two values": with_length(VALID_TEXT.encode() * 2, _DATA),
        "comment": with_length(VALID_TEXT.encode() + b"//", _DATA),
        "trailing comma": _text("}}", "},}"),
        "trailing comma in a list": _text("[2]", "[2,]"),
        "single quotes": with_length(VALID_TEXT.replace('"', "'").encode(), _DATA),
        "NaN": _beside("NaN"),
        "Infinity": _beside("Infinity"),
        "-Infinity": _beside("-Infinity"),
        "number beyond doubles": _beside("1e400"),
        "integer beyond doubles": _beside("9" * 400),
        "integer of 5,000 digits": _beside("9" * 5000),
        "negative integer of 5,000 digits": _beside("-" + "9" * 5000),
        "lone high surrogate": _text('"a"', r'"\ud800"'),
        "lone low surrogate": _text('"a"', r'"\udc00"'),
        "reversed surrogates": _text('"a"', r'"\ude00\ud83d"'),
        "surrogate in an unknown field": _beside(r'"\uD800"'),
        "surrogate in an unknown list": _beside(r'[["\ud800"]]'),
        "surrogate in an unknown key": _beside(r'{"\ud800":1}'),
        "control character": _text('"a"', '"a\x01"'),
        "tab in a name": _text('"a"', '"a\t"'),
        "bad escape": _text('"a"', r'"\x41"'),
        "short escape": _text('"a"', r'"\u12"'),
        "underscore in an escape": _text('"a"', r'"\u1_23"'),
        "leading zero": _text("[2]", "[02]"),
        "plus sign": _text("[2]", "[+2]"),
        "digits of another script": _text("[2]", "[\u0662]"),
        "126 lists in a field": _beside("[" * 126 + "]" * 126),
        "126 objects in a field": _beside('{"a":' * 126 + "1" + "}" * 126),
        "a million brackets": with_length(b"[" * 1_000_000),
        "a million brackets that close": with_length(b"[" * 1_000_000 + b"]" * 1_000_000),
        "a million objects": with_length(b'{"a":' * 1_000_000),
        "brackets behind an escaped quote": _beside(r'"\\"' + ',"y":' + "[" * 200_000),
        "top level is a list": packed([1]),
        "top level is a text": packed("a"),
        "top level is null": packed(None),
        "top level is a tensor": packed(entry(), _DATA),
    }
    for name, content in contents.items():
        yield BadHeader(name, content, Problem.INVALID_HEADER_DESERIALIZATION)


def _metadata() -> Iterator[BadHeader]:
    for name, value in {
        "a number": 1,
        "a list": [],
        "a text": "x",
        "a number inside": {"a": 1},
        "null inside": {"a": None},
        "an object inside": {"a": {"b": "c"}},
        "a tensor": entry(),
    }.items():
        content = packed({"__metadata__": value, "a": entry()}, _DATA)
        yield BadHeader(f"metadata is {name}", content, Problem.INVALID_HEADER_DESERIALIZATION)
    for first, second in (("{}", "{}"), ("null", "null"), ("null", "{}")):
        text = f'{{"__metadata__":{first},"__metadata__":{second},{VALID_TEXT[1:]}'
        yield BadHeader(
            f"metadata twice: {first} and {second}",
            with_length(text.encode(), _DATA),
            Problem.INVALID_HEADER_DESERIALIZATION,
        )


def _fields() -> Iterator[BadHeader]:
    values: dict[str, object] = {
        "null": None,
        "a number": 1,
        "a text": "x",
        "true": True,
        "an empty object": {},
        "an empty list": [],
        "a list of two": ["U8", [2]],
        "a list of four": ["U8", [2], [0, 2], 1],
        "a complex128": entry("C128"),
        "of a lower-case dtype": entry("u8"),
        "of an unknown dtype": entry("F8"),
        "of dtype null": entry(None),
        "of dtype 1": entry(1),
        "of a dtype in a list": entry(["U8"]),
        "of a dtype object with data": entry({"U8": []}),
        "of a dtype object of two": entry({"U8": None, "I8": None}),
        "of shape null": entry(shape=None),
        "of a shape in a text": entry(shape="2"),
        "of a negative shape": entry(shape=[-2]),
        "of a floating-point shape": entry(shape=[2.0]),
        "of a boolean shape": entry("U8", [True], [0, 1]),
        "of a nested shape": entry(shape=[[2]]),
        "of a shape of 2^64": entry(shape=[1 << 64]),
        "of a shape of 10^30": entry(shape=[10**30]),
        "of one offset": entry(offsets=[0]),
        "of three offsets": entry(offsets=[0, 2, 2]),
        "of offsets null": entry(offsets=None),
        "of negative offsets": entry(offsets=[-1, 1]),
        "of floating-point offsets": entry(offsets=[0.0, 2.0]),
        "of boolean offsets": entry("U8", [1], [False, True]),
        "of offsets in an object": entry(offsets={"0": 0, "1": 2}),
    }
    for key in ("dtype", "shape", "data_offsets"):
        values[f"without {key}"] = {k: v for k, v in entry().items() if k != key}
    for name, value in values.items():
        content = packed({"a": value}, _DATA)
        problem = Problem.INVALID_HEADER_DESERIALIZATION
        yield BadHeader(f"tensor is {name}", content, problem, "a")


def _field_texts() -> Iterator[BadHeader]:
    for key, text in (("dtype", '"U8"'), ("shape", "[2]"), ("data_offsets", "[0,2]")):
        yield BadHeader(
            f"tensor has {key} twice",
            _text(f'"{key}"', f'"{key}":{text},"{key}"'),
            Problem.INVALID_HEADER_DESERIALIZATION,
            "a",
        )
    for name, text in {"2e0": "[2e0]", "-0": "[-0]"}.items():
        content = _text("[2]", text)
        problem = Problem.INVALID_HEADER_DESERIALIZATION
        yield BadHeader(f"tensor is of shape {name}", content, problem, "a")


def _offsets() -> Iterator[BadHeader]:
    tables: dict[str, tuple[dict[str, object], int]] = {
        "hole at the beginning": ({"b": entry(offsets=[1, 3])}, 3),
        "hole in the middle": ({"a": entry(), "b": entry(offsets=[3, 5])}, 5),
        "overlap": ({"a": entry(), "b": entry(offsets=[1, 3])}, 3),
        "overlap of the same place": ({"a": entry(), "b": entry()}, 2),
        "end before the beginning": ({"b": entry(offsets=[0, 2]), "a": entry(offsets=[2, 0])}, 2),
        "begins at 2^64 - 1": ({"b": entry(offsets=[(1 << 64) - 1, (1 << 64) - 1])}, 0),
        "empty tensor inside another": (
            {"a": entry(), "b": entry("U8", [0], [1, 1])},
            2,
        ),
        "tensor of another size inside": (
            {"b": entry("U8", [1], [0, 1]), "a": entry("U8", [4], [0, 4])},
            4,
        ),
    }
    for name, (table, size) in tables.items():
        wrong = list(table)[-1]
        yield BadHeader(name, packed(table, bytes(size)), Problem.INVALID_OFFSET, wrong)


def _sizes() -> Iterator[BadHeader]:
    big = 1 << 40
    for name, dtype, shape, offsets, problem in (
        ("too many elements", "U8", [big, big], [0, 2], Problem.VALIDATION_OVERFLOW),
        ("too many before a 0", "U8", [big, big, 0], [0, 0], Problem.VALIDATION_OVERFLOW),
        ("too many bits", "F64", [1 << 60], [0, 2], Problem.VALIDATION_OVERFLOW),
        ("2^64 - 1 bytes", "U8", [(1 << 64) - 1], [0, 2], Problem.VALIDATION_OVERFLOW),
        ("three halves of a byte", "F4", [3], [0, 2], Problem.MISALIGNED_SLICE),
        ("a scalar of half a byte", "F4", [], [0, 1], Problem.MISALIGNED_SLICE),
        ("six bits", "F6_E2M3", [1], [0, 1], Problem.MISALIGNED_SLICE),
        ("eighteen bits", "F6_E3M2", [3], [0, 2], Problem.MISALIGNED_SLICE),
        ("place too small", "F32", [1], [0, 2], Problem.TENSOR_INVALID_INFO),
        ("place too large", "U8", [1], [0, 2], Problem.TENSOR_INVALID_INFO),
        ("place without end", "U8", [2], [0, (1 << 64) - 1], Problem.TENSOR_INVALID_INFO),
        ("place of nothing", "U8", [2], [0, 0], Problem.TENSOR_INVALID_INFO),
        ("scalar in two bytes", "U8", [], [0, 2], Problem.TENSOR_INVALID_INFO),
        ("zero elements in two bytes", "U8", [0], [0, 2], Problem.TENSOR_INVALID_INFO),
        ("half a tebibyte in two bytes", "F16", [1 << 38], [0, 2], Problem.TENSOR_INVALID_INFO),
    ):
        yield BadHeader(name, packed({"a": entry(dtype, shape, offsets)}, _DATA), problem, "a")


def _coverage() -> Iterator[BadHeader]:
    incomplete = Problem.METADATA_INCOMPLETE_BUFFER
    yield BadHeader("one byte behind the last tensor", _THREE + b"\0", incomplete, "c")
    yield BadHeader("the file twice", _THREE * 2, incomplete, "c")
    for count in (_HEADER_END, *(_HEADER_END + at for at in (1, 7, 8, 9, 15, 16, 17, 18))):
        yield BadHeader(f"data cut at byte {count}", _THREE[:count], incomplete, "c")
    yield BadHeader("no tensor, but data", packed({}, _DATA), incomplete)
    terabyte = packed({"a": entry("U8", [1 << 40], [0, 1 << 40])}, _DATA)
    yield BadHeader("a tebibyte of which two bytes are there", terabyte, incomplete, "a")


def _stricter() -> Iterator[BadHeader]:
    twice = VALID_TEXT[:-1] + "," + VALID_TEXT[1:]
    other = VALID_TEXT[:-1] + "," + VALID_TEXT[1:].replace("U8", "I8")
    key = '{"__metadata__":{"k":"1","k":"2"},' + VALID_TEXT[1:]
    for name, text, problem, tensor in (
        ("space before the header", " " + VALID_TEXT, Problem.INVALID_HEADER_START, None),
        ("newline before the header", "\n" + VALID_TEXT, Problem.INVALID_HEADER_START, None),
        ("the same tensor twice", twice, Problem.DUPLICATE_TENSOR, "a"),
        ("a tensor twice with two dtypes", other, Problem.DUPLICATE_TENSOR, "a"),
        ("a metadata key twice", key, Problem.DUPLICATE_METADATA_KEY, None),
        ("tensor as a list", '{"a":["U8",[2],[0,2]]}', Problem.ARRAY_FORM, "a"),
        (
            "dtype as an object",
            VALID_TEXT.replace('"U8"', '{"U8":null}'),
            Problem.ARRAY_FORM,
            "a",
        ),
    ):
        yield BadHeader(name, with_length(text.encode(), _DATA), problem, tensor)


STRICTER_HEADERS = tuple(_stricter())
"""Files that safetensors accepts, and we do not by default."""

BAD_HEADERS = (
    *_lengths(),
    *_utf8(),
    *_json(),
    *_metadata(),
    *_fields(),
    *_field_texts(),
    *_offsets(),
    *_sizes(),
    *_coverage(),
)
"""Files that safetensors refuses."""

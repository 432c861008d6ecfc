"""JSON as serde_json reads it: what safetensors refuses, refused here, and nothing recurses.

Python's own ``json`` accepts NaN, lone surrogates and duplicate keys, and recurses in C for each
bracket. Here objects keep every pair, numbers too large for 64 bits or a double are told apart,
and nesting is measured before anything is parsed.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NoReturn

import numpy as np

MAX_DEPTH = 127
"""Brackets that may be open at once; one more is serde_json's "recursion limit exceeded"."""

MAX_NUMBER_CHARS = 4300
"""Longest number that is looked at; Python refuses to convert longer ones too."""

_MAX_UNSIGNED = (1 << 64) - 1
# The largest double, less a few units in its last place: serde_json rounds there and overflows
# where Python does not.
_MAX_DOUBLE = 1.797693134862315e308
_PIECE_BYTES = 1 << 20
_STRING = re.compile(rb'"[^"]*"?')

# An opening bracket is one step down, a closing one is one step up, as signed bytes.
_TO_STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
_NOT_STRUCTURE = bytes(set(range(256)) - set(b'"[]{}'))

Hook = Callable[[list[tuple[str, Any]]], object]


class JsonProblem(ValueError):
    """The text is not JSON, or not JSON that every reader understands alike."""


class Members(tuple[tuple[str, Any], ...]):
    """A JSON object: all its pairs in order, duplicates too; arrays are lists."""

    __slots__ = ()


def decode(raw: bytes | bytearray, hook: Hook = Members) -> object:
    """Parse UTF-8 JSON strictly.

    Args:
        raw: The whole text; white space around the value is allowed, a byte order mark is not.
        hook: Makes the value of an object from its pairs. Being a Python function, it also lets
            other threads run while a long text is parsed.

    Returns:
        `hook`'s values for objects, lists, strings, ints from -10^19 to 2^64 - 1, floats (also
        for integers beyond these, and for -0), bools, None.

    Raises:
        JsonProblem: If the text is not valid.
        UnicodeDecodeError: If it is not UTF-8.

    Source:
        RFC 8259, with the limits of serde_json 1.0.
    """
    text = raw.decode("utf-8")
    _check_depth(raw)
    if "\\ud" in text or "\\uD" in text:
        hook = _checking_strings(hook)
    decoder = json.JSONDecoder(
        object_pairs_hook=hook,
        parse_int=_integer,
        parse_float=_double,
        parse_constant=_refuse_constant,
    )
    try:
        value = decoder.decode(text)
    except json.JSONDecodeError as err:
        raise JsonProblem(f"{err.msg} at line {err.lineno} column {err.colno}") from err
    except RecursionError as err:
        raise JsonProblem("too little stack is left to parse it") from err
    _check_strings(value)
    return value


def _check_depth(raw: bytes | bytearray) -> None:
    """Refuse more than `MAX_DEPTH` open brackets, before a parser recurses into them."""
    if b"\\" in raw:
        raw = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    pieces = (raw[at : at + _PIECE_BYTES] for at in range(0, len(raw), _PIECE_BYTES))
    steps = b"".join(piece.translate(_TO_STEPS, _NOT_STRUCTURE) for piece in pieces)
    # Two quotes side by side change nothing about which brackets are inside a string.
    steps = _STRING.sub(b"", steps.replace(b'""', b""))
    depth = 0
    for at in range(0, len(steps), _PIECE_BYTES):
        piece = np.frombuffer(steps, np.int8, min(_PIECE_BYTES, len(steps) - at), at)
        depths = np.cumsum(piece, dtype=np.int64)
        if depth + int(depths.max()) > MAX_DEPTH:
            raise JsonProblem(f"brackets are nested more than {MAX_DEPTH} deep")
        depth += int(depths[-1])


def _integer(text: str) -> int | float:
    if len(text) <= 20:
        value = int(text)
        if value > _MAX_UNSIGNED:
            return float(value)
        return value if value or text == "0" else -0.0
    return _double(text)


def _double(text: str) -> float:
    if len(text) > MAX_NUMBER_CHARS:
        raise JsonProblem(f"a number is {len(text):,} characters long")
    value = float(text)
    if math.fabs(value) > _MAX_DOUBLE:
        raise JsonProblem(f"number out of range: {text[:40]}")
    return value


def _refuse_constant(text: str) -> NoReturn:
    raise JsonProblem(f"{text} is not JSON")


def _checking_strings(hook: Hook) -> Hook:
    def check(pairs: list[tuple[str, Any]]) -> object:
        for key, value in pairs:
            _check_strings(key)
            _check_strings(value)
        return hook(pairs)

    return check


def _check_strings(value: object) -> None:
    """Refuse half of a surrogate pair in a string or a (nested) list of strings."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError as err:
            raise JsonProblem("a string holds half of a surrogate pair") from err
    elif isinstance(value, list):
        for item in value:
            _check_strings(item)

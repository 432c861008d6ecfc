"""Parts of safetensors files, right and wrong ones, and what the real library says of them."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import safetensors

from comfy.loading.errors import HeaderProblem as Problem

# Beginnings of the texts of safetensors 0.8.0, behind "Error while deserializing: ".
_TEXTS = {
    "header too small": Problem.HEADER_TOO_SMALL,
    "header too large": Problem.HEADER_TOO_LARGE,
    "invalid header length": Problem.INVALID_HEADER_LENGTH,
    "invalid UTF-8 in header": Problem.INVALID_HEADER,
    "invalid JSON in header": Problem.INVALID_HEADER_DESERIALIZATION,
    "invalid offset for tensor": Problem.INVALID_OFFSET,
    "overflow computing buffer size": Problem.VALIDATION_OVERFLOW,
    "The slice is slicing for subbytes": Problem.MISALIGNED_SLICE,
    "invalid shape, data type, or offset": Problem.TENSOR_INVALID_INFO,
    "incomplete metadata": Problem.METADATA_INCOMPLETE_BUFFER,
}


def safetensors_verdict(content: bytes) -> Problem | None:
    """The rule that safetensors says these bytes break, or None if it accepts them."""
    try:
        safetensors.deserialize(content)  # type: ignore[no-untyped-call]
    except safetensors.SafetensorError as err:
        return _of_text(str(err))
    return None


def safe_open_verdict(path: Path) -> Problem | None:
    """The same for a file, by the way in which it is mapped."""
    try:
        with safetensors.safe_open(path, framework="pt"):
            return None
    except safetensors.SafetensorError as err:
        return _of_text(str(err))


def _of_text(text: str) -> Problem:
    _, _, reason = text.partition(": ")
    for beginning, problem in _TEXTS.items():
        if reason.startswith(beginning):
            return problem
    raise AssertionError(f"safetensors has a new message: {text}")


def with_length(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """A file of these parts; `length` is what it claims of its header."""
    return struct.pack("<Q", len(header) if length is None else length) + header + data


def packed(header: object, data: bytes = b"") -> bytes:
    """A file with the JSON of `header`."""
    return with_length(json.dumps(header, separators=(",", ":")).encode(), data)


def entry(
    dtype: object = "U8", shape: object = (2,), offsets: object = (0, 2)
) -> dict[str, object]:
    """The description of one tensor; two bytes by default."""
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


VALID_TEXT = '{"a":{"dtype":"U8","shape":[2],"data_offsets":[0,2]}}'
"""A valid header for two bytes of data."""

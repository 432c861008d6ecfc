"""Malformed indexes of sharded checkpoints; the shards ``a.safetensors`` and ``b.bin`` exist."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from comfy.loading.errors import HeaderProblem as Problem


@dataclass(frozen=True)
class BadIndex:
    """One malformed index.

    Attributes:
        name: What is wrong with it.
        content: Its bytes.
        problem: Which rule it breaks.
        told: What the error must say.
    """

    name: str
    content: bytes
    problem: Problem
    told: str

    def __str__(self) -> str:
        return self.name


def _texts() -> Iterator[tuple[str, bytes, str]]:
    good = '{"weight_map":{"w":"a.safetensors"}}'
    yield "empty", b"", "not valid JSON"
    yield "not UTF-8", b'{"weight_map":{"\xff":"a.safetensors"}}', "not UTF-8"
    yield "cut", good[:20].encode(), "not valid JSON"
    yield "NaN", good.replace("{", '{"metadata":NaN,', 1).encode(), "NaN"
    yield "a lone surrogate", good.replace('"w"', r'"\ud800"').encode(), "surrogate"
    yield "deep nesting", b"[" * 100_000, "nested more than 127 deep"
    yield "a list", b"[]", "the index is not an object"
    yield "a tensor twice", good.replace("}}", ',"w":"b.bin"}}').encode(), "has 'w' twice"
    yield "a key twice", good.replace("{", '{"weight_map":{},', 1).encode(), "'weight_map' twice"


def _documents() -> Iterator[tuple[str, object, str]]:
    table = {"w": "a.safetensors"}
    yield "no weight map", {"metadata": {}}, "'weight_map' is not an object"
    yield "a weight map in a list", {"weight_map": ["a.safetensors"]}, "is not an object"
    yield "an empty weight map", {"weight_map": {}}, "names no tensor"
    yield "a number as file", {"weight_map": {"w": 1}}, "file of tensor 'w' is not a text"
    yield "metadata in a list", {"metadata": [], "weight_map": table}, "'metadata' is not an object"
    for size in (-1, "1", True, 1 << 64, None):
        document = {"metadata": {"total_size": size}, "weight_map": table}
        yield f"a total size of {size!r}", document, "not a number of bytes"
    for name in (
        "../a.safetensors",
        "x/../../a.safetensors",
        "./a.safetensors",
        "x//a.safetensors",
        "/etc/a.safetensors",
        "C:a.safetensors",
        "C:\\a.safetensors",
        "..\\a.safetensors",
        "a.safetensors\0.bin",
        "a.safetensors/",
        "",
        ".",
        "..",
    ):
        yield f"the file {name!r}", {"weight_map": {"w": name}}, "not a path below its folder"
    yield "an index as file", {"weight_map": {"w": "x.index.json"}}, "an index itself"


def _missing() -> Iterator[tuple[str, object, str]]:
    many = {str(at): f"c{at}.safetensors" for at in range(9)}
    yield "a missing file", {"weight_map": {"w": "c.safetensors"}}, "1 of its 1 files"
    yield "a missing one of two", {"weight_map": {"w": "a.safetensors", "v": "c"}}, "1 of its 2"
    yield "a folder as file", {"weight_map": {"w": "folder"}}, "1 of its 1 files"
    yield "many missing files", {"weight_map": many}, "c4.safetensors, ..."


BAD_INDEXES = (
    *(BadIndex(name, text, Problem.INVALID_INDEX, told) for name, text, told in _texts()),
    *(
        BadIndex(name, json.dumps(document).encode(), Problem.INVALID_INDEX, told)
        for name, document, told in _documents()
    ),
    *(
        BadIndex(name, json.dumps(document).encode(), Problem.MISSING_SHARD, told)
        for name, document, told in _missing()
    ),
)
"""Contents that must be refused with `InvalidWeightFile`."""

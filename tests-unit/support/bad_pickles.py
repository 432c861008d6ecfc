"""Malformed and malicious pickled checkpoints, each with what the refusal must tell."""

from __future__ import annotations

import functools
import os
import pickle
import struct
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from comfy.loading.errors import HeaderProblem as Problem
from support.pickle_parts import Call, Storage, Tensor, patched, write_archive, write_legacy

_INVALID, _UNSAFE = Problem.INVALID_PICKLE, Problem.UNSAFE_PICKLE
_BIG = 1 << 40


@dataclass(frozen=True)
class BadPickle:
    """One malformed file.

    Attributes:
        name: What is wrong with it.
        make: Writes it to a path.
        problem: Which rule it breaks.
        told: What the error must say.
    """

    name: str
    make: Callable[[Path], object]
    problem: Problem
    told: str

    def __str__(self) -> str:
        return self.name

    def write(self, path: Path) -> Path:
        """Make the file."""
        self.make(path)
        return path


def calls() -> dict[str, Call]:
    """Calls that a pickle must never make; each would be seen."""
    return {
        "posix.system": Call(os.system, ("touch was_run",)),
        "builtins.eval": Call(eval, ("open('was_run', 'w')",)),
        "builtins.exec": Call(exec, ("open('was_run', 'w')",)),
        "builtins.getattr": Call(getattr, ("", "join")),
        "io.open": Call(open, ("was_run", "w")),
        "posix.mkdir": Call(os.mkdir, ("was_run",)),
        "commands.Popen": Call(subprocess.Popen, (["touch", "was_run"],)),
        "functools.partial": Call(functools.partial, (os.system, "touch was_run")),
        "torch.storage._load_from_bytes": Call(
            torch.storage._load_from_bytes,
            (pickle.dumps(1),),
        ),
        "torch.serialization.load": Call(torch.load, ("elsewhere",)),
        "torch.nn.modules.linear.Linear": Call(torch.nn.Linear, (2, 2)),
        "torch.hub.load": Call(torch.hub.load, ("somebody/something", "was_run")),
        "builtins.object": Call(object),
    }


def _unsafe() -> Iterator[BadPickle]:
    for name, call in calls().items():
        state = {"w": Tensor(), "x": call}
        yield BadPickle(
            f"zip that calls {name}", functools.partial(write_archive, value=state), _UNSAFE, name
        )
        yield BadPickle(
            f"legacy that calls {name}", functools.partial(write_legacy, value=state), _UNSAFE, name
        )
    raw = b"cposix\nsystem\n(X\x05\x00\x00\x00touchtR."
    yield BadPickle("plain pickle", lambda p: p.write_bytes(b"\x80\x02" + raw), _UNSAFE, "posix")
    stacked = b"\x80\x04\x8c\x02nt\x8c\x06system\x93)R."
    yield BadPickle("stacked name", lambda p: write_archive(p, table=stacked), _UNSAFE, "nt.system")
    yield BadPickle("whole module", _save_module, _UNSAFE, "torch.nn.modules.linear.Linear")
    yield BadPickle("torchscript by its code", _with("code/model.py"), _UNSAFE, "TorchScript")
    yield BadPickle("torchscript by its constants", _with("constants.pkl"), _UNSAFE, "TorchScript")
    sparse = {"s": torch.eye(2).to_sparse(), "m": torch.nn.Linear(1, 1)}
    yield BadPickle(
        "module behind a sparse one", lambda p: torch.save(sparse, p), _UNSAFE, "Linear"
    )


def _save_module(path: Path) -> None:
    torch.save({"m": torch.nn.Linear(2, 2)}, path)


def _with(record: str) -> Callable[[Path], object]:
    return lambda path: write_archive(path, {"w": 1}, records={record: b"\x80\x02N."})


def _unknown() -> Iterator[BadPickle]:
    for name, content, told in (
        ("empty file", b"", "b''"),
        ("one byte", b"P", "b'P'"),
        ("text", b"hello, this is a text", "hello"),
        ("safetensors", b"\x02\0\0\0\0\0\0\0{}", "neither a zip archive nor a pickle"),
        ("gguf", b"GGUF\3\0\0\0", "GGUF"),
        ("web page", b"<!DOCTYPE html>", "<!DOCTYP"),
    ):
        make = functools.partial(_write, content)
        yield BadPickle(name, make, Problem.UNKNOWN_FORMAT, told)


def _write(content: bytes, path: Path) -> None:
    path.write_bytes(content)


def _tensors() -> Iterator[BadPickle]:
    for name, tensor, told in (
        ("more elements than the storage", Tensor(size=(5,)), "20 bytes of a storage that has 16"),
        ("begins behind the storage", Tensor(offset=1), "20 bytes"),
        ("begins far behind", Tensor(offset=1 << 62), "of a storage that has 16"),
        ("strides beyond the storage", Tensor(size=(2, 2), stride=(3, 1)), "20 bytes"),
        ("negative size", Tensor(size=(-4,)), "-4 is not a size"),
        ("negative stride", Tensor(stride=(-1,)), "-1 is not a size"),
        ("negative offset", Tensor(offset=-1), "-1 is not a size"),
        ("fractional size", Tensor(size=(4.0,)), "4.0 is not a size"),
        ("boolean size", Tensor(size=(True,)), "True is not a size"),
        ("huge size", Tensor(size=(1 << 70,)), "is not a size"),
        ("uncountable elements", Tensor(size=(_BIG, _BIG), stride=(0, 0)), "can be counted"),
        ("a thousand axes", Tensor(size=(1,) * 1000, stride=(1,) * 1000), "a tensor of 1000 axes"),
        ("fewer strides than axes", Tensor(size=(2, 2)), "2 axes and 1 strides"),
        ("size in a text", Tensor(size="4"), "not a tuple"),
        ("no storage", Tensor(storage=1), "no storage"),
        ("storage without a type", Tensor(Storage(kind=1)), "a storage in a wrong way"),
        ("storage of a fractional size", Tensor(Storage(numel=4.0)), "a storage in a wrong way"),
        ("storage of a negative size", Tensor(Storage(numel=-4)), "-4 elements"),
        ("storage of exabytes", Tensor(Storage(numel=1 << 62)), "elements"),
        ("storage of a numeric key", Tensor(Storage(key=0)), "a storage in a wrong way"),
        ("storage that is not there", Tensor(Storage(key="1")), "'data/1' is missing"),
        ("storage in another folder", Tensor(Storage(key="../data.pkl")), "../data.pkl"),
        ("storage larger than its record", Tensor(Storage(numel=5)), "20"),
        ("storage of a tebibyte", Tensor(Storage(numel=_BIG), size=(_BIG,)), "4,398,046,511,104"),
    ):
        state = {"w": tensor}
        yield BadPickle(
            f"zip: {name}", functools.partial(write_archive, value=state), _INVALID, told
        )


def _directories() -> dict[str, tuple[Callable[[Path], object], str]]:
    good = {"w": Tensor()}
    return {
        "cut": (lambda p: p.write_bytes(write_archive(p, good).read_bytes()[:-30]), "not there"),
        "only a local header": (lambda p: p.write_bytes(b"PK\x03\x04" + bytes(40)), "not there"),
        "big-endian": (
            lambda p: write_archive(p, good, records={"byteorder": b"big", "data/0": bytes(16)}),
            "big-endian",
        ),
        "no table": (lambda p: write_archive(p, good, prefix="a/b/"), "0 tables of weights"),
        "two tables": (_two_tables, "2 tables of weights"),
        "two records of one name": (_duplicate, "two records named 'archive/data/0'"),
        "record without bytes": (
            lambda p: write_archive(p, good, records={"data/0": b""}),
            "needs 16 bytes and the record has 0",
        ),
        "compressed by bzip2": (
            lambda p: write_archive(p, good, compression=zipfile.ZIP_BZIP2),
            "compressed in an unknown way",
        ),
        "encrypted": (lambda p: _central(write_archive(p, good), 8, b"\1\0"), "is encrypted"),
        "record behind the end": (
            lambda p: _central(write_archive(p, good), 42, b"\0\0\0\x10"),
            "begins behind its end",
        ),
        "record elsewhere": (
            lambda p: _central(write_archive(p, good), 42, b"\x10\0\0\0"),
            "is not where its table says",
        ),
        "record of another name": (
            lambda p: patched(write_archive(p, good), b"data/0", b"data/1", count=1),
            "is not where its table says",
        ),
    }


def _sizes() -> dict[str, tuple[Callable[[Path], object], str]]:
    good = {"w": Tensor()}
    deflated = functools.partial(write_archive, value=good, compression=zipfile.ZIP_DEFLATED)
    return {
        "sizes that differ though stored": (
            lambda p: _central(write_archive(p, good), 24, struct.pack("<I", 64)),
            "contradicts itself",
        ),
        "inflates to less": (
            lambda p: _central(deflated(p), 24, struct.pack("<I", 17)),
            "needs 16 bytes and the record has 17",
        ),
        "bomb by its declared size": (
            lambda p: _central(deflated(p), 24, struct.pack("<I", 1 << 31)),
            "cannot have 2,147,483,648 bytes",
        ),
        "bomb by its content": (_bomb, "inflates to too many bytes"),
        "wrong checksum": (
            lambda p: _central(deflated(p), 16, b"\1\2\3\4"),
            "are not the 16 that were saved",
        ),
        "damaged compression": (_damage, "is damaged"),
        "compressed table of the wrong size": (
            lambda p: _central(deflated(p), 24, struct.pack("<I", 300), record=0),
            "inflates to",
        ),
        "overlapping compressed records": (_overlap, "overlap"),
        "table larger than allowed": (_large_table, "not 100,000,000"),
    }


def _archives() -> Iterator[BadPickle]:
    for name, (make, told) in {**_directories(), **_sizes()}.items():
        yield BadPickle(f"zip: {name}", make, _INVALID, told)


def _central(path: Path, at: int, new: bytes, *, record: int = 1) -> Path:
    """Overwrite a field of one record in the table of contents."""
    content = bytearray(path.read_bytes())
    start = -1
    for _ in range(record + 1):
        start = content.index(b"PK\x01\x02", start + 1)
    content[start + at : start + at + len(new)] = new
    path.write_bytes(content)
    return path


def _two_tables(path: Path) -> None:
    write_archive(path, {"w": 1}, records={})
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("other/data.pkl", b"\x80\x02N.")


def _duplicate(path: Path) -> None:
    write_archive(path, {"w": Tensor()}, records={"data/0": bytes(16), "data/1": bytes(16)})
    patched(path, b"data/1", b"data/0")


def _bomb(path: Path) -> None:
    records = {"data/0": bytes(1 << 20)}
    write_archive(path, {"w": Tensor()}, records=records, compression=zipfile.ZIP_DEFLATED)
    _central(path, 24, struct.pack("<I", 16))


def _damage(path: Path) -> None:
    write_archive(path, {"w": Tensor()}, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo("archive/data/0")
    content = bytearray(path.read_bytes())
    content[info.header_offset + 30 + len(info.filename)] = 0xFF
    path.write_bytes(content)


def _overlap(path: Path) -> None:
    """Storages whose compressed bytes, says the table, all reach to the end of the archive."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (4096,), dtype=torch.uint8, generator=generator)
    state = {str(at): Tensor(Storage(str(at), 1024), size=(1024,)) for at in range(3)}
    records = {f"data/{at}": bytes(noise.tolist()) for at in range(3)}
    write_archive(path, state, records=records, compression=zipfile.ZIP_DEFLATED)
    with zipfile.ZipFile(path) as archive:
        infos, end = archive.infolist(), archive.start_dir
    for number, info in enumerate(infos[1:], 1):
        size = end - info.header_offset - 30 - len(info.filename)
        _central(path, 20, struct.pack("<I", size), record=number)


def _large_table(path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(256, (100_000,), dtype=torch.uint8, generator=generator)
    write_archive(path, table=bytes(noise.tolist()), compression=zipfile.ZIP_DEFLATED)
    _central(path, 24, struct.pack("<I", 100_000_001), record=0)


def _legacy() -> Iterator[BadPickle]:
    good = {"w": Tensor()}
    for name, changes, told in (
        ("another magic number", {"magic": 1}, "not one that torch.save wrote"),
        ("another version", {"version": 1002}, "its version is 1002"),
        ("no description of the system", {"system": 1}, "its version is"),
        ("big-endian", {"system": {"little_endian": False}}, "big-endian"),
        ("keys that are no list", {"keys": 1}, "the list of its storages is not a list"),
        ("unknown key", {"keys": ("1",)}, "is wrong at '1'"),
        ("unhashable key", {"keys": ([],)}, "is wrong at []"),
        ("the same key twice", {"keys": ("0", "0"), "data": bytes(200)}, "does not have 16"),
        ("a key too few", {"keys": ()}, "storage '0' is not in the file"),
        ("shorter length", {"data": bytes(24)}, "does not have 16 bytes"),
        ("longer length", {"data": b"\5" + bytes(27)}, "does not have 16 bytes"),
        ("no keys", {"keys": "x", "data": b""}, "is not a list"),
    ):
        make = functools.partial(write_legacy, value=good, **changes)
        yield BadPickle(f"legacy: {name}", make, _INVALID, told)
    yield BadPickle("legacy: a plain pickle", _plain, _INVALID, "not one that torch.save wrote")
    yield BadPickle("legacy: tar", _tar, _INVALID, "tar format")


def _plain(path: Path) -> None:
    path.write_bytes(pickle.dumps({"w": [1.0]}, 2))


def _tar(path: Path) -> None:
    member = path.with_suffix(".storages")
    member.write_bytes(bytes(16))
    with tarfile.open(path, "w") as archive:
        archive.add(member, "storages")
    member.unlink()


def _values() -> Iterator[BadPickle]:
    cycle: list[object] = []
    cycle.append(cycle)
    deep: object = ()
    for _ in range(70):
        deep = (deep,)
    half: object = ()
    for _ in range(40):
        half = (half,)
    joined: object = half
    for _ in range(40):
        joined = [joined]
    laughs: list[object] = ["ha"] * 10
    for _ in range(12):
        laughs = [laughs] * 10
    for name, value, told in (
        ("a list", [Tensor()], "holds a list"),
        ("a tensor", Tensor(), "holds a PickledTensor"),
        ("nothing", None, "holds a NoneType"),
        ("a list in itself", {"w": cycle}, "contains itself"),
        ("70 tuples", {"w": deep}, "nested more than 64 deep"),
        ("40 lists around 40 known tuples", {"a": half, "b": joined}, "nested more than 64 deep"),
        ("a billion laughs", {"w": laughs}, "repeated without end"),
    ):
        make = functools.partial(write_archive, value=value)
        yield BadPickle(f"holds {name}", make, _INVALID, told)


INFLATING = frozenset(
    f"zip: {name}"
    for name in (
        "bomb by its content",
        "wrong checksum",
        "damaged compression",
        "overlapping compressed records",
    )
)
"""Cases whose damage shows only when their few bytes are inflated."""

BAD_PICKLES = (*_unsafe(), *_unknown(), *_tensors(), *_archives(), *_legacy(), *_values())
"""Files that must be refused with `InvalidWeightFile`."""

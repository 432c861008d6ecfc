"""Pickled checkpoints (.ckpt, .pt, .pth, .bin): described as ranges of the file, never run.

Both formats of ``torch.save`` are read by a pickle machine of our own, which can only build plain
values (`pickle_machine`, `pickle_names`): the zip archive (`pickle_zip`) and the older stream of
pickles followed by the storages. Nothing is mapped, and no weight byte is read, except those of
archives that somebody compressed. Tensors of kinds that have no range in a file (sparse,
quantised) go through ``torch.load(weights_only=True)``, whole.

Source:
    ``torch/serialization.py`` of torch 2.13 (both formats).
"""

from __future__ import annotations

import io
import logging
import re
from dataclasses import dataclass, replace
from typing import Any

import torch

from comfy.loading.encodings import ENCODINGS
from comfy.loading.errors import (
    HeaderProblem,
    InvalidWeightFile,
    LoadError,
    NotASlice,
    TruncatedWeightFile,
)
from comfy.loading.pickle_machine import (
    MAX_INSTRUCTIONS,
    MAX_PICKLE_BYTES,
    PickleMachine,
    PickleProblem,
    UnsafeName,
)
from comfy.loading.pickle_names import Layout, Names, NeedsTorch, StorageType
from comfy.loading.pickle_zip import Archive, PositionalFile
from comfy.loading.reader import read_exactly
from comfy.loading.weight_file import WeightFile
from comfy.loading.weight_slice import WeightSlice

logger = logging.getLogger(__name__)

_ZIP_MAGIC = b"PK\x03\x04"
_TAR_MAGIC_AT = 257
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_MAX_NESTING = 64
_TORCH_REFUSAL = re.compile(r"GLOBAL (\S+) was not an allowed global")
_MAX_STORAGE_BYTES = 1 << 62
_ENCODING_NAMES = {
    encoding.torch_dtype: name for name, encoding in ENCODINGS.items() if not encoding.is_raw
}


@dataclass(frozen=True, slots=True)
class PickledTensor:
    """A tensor of a pickled checkpoint whose bytes are still in the file.

    Attributes:
        slice: The part of its storage that it uses, with one axis.
        size: Shape.
        stride: Distance of neighbours along each axis, in elements.
    """

    slice: WeightSlice
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def is_contiguous(self) -> bool:
        """Whether the elements are in the file in the order of the shape, without gaps."""
        expected = 1
        for length, step in zip(reversed(self.size), reversed(self.stride), strict=True):
            if length != 1 and step != expected and self.slice.nbytes:
                return False
            expected *= length
        return True

    def as_slice(self) -> WeightSlice:
        """The range under the tensor's full shape.

        Raises:
            NotASlice: If the tensor is a strided view of it.
        """
        if not self.is_contiguous:
            raise NotASlice(
                f"a tensor of shape {self.size} and stride {self.stride} is not contiguous.",
                path=self.slice.file.path,
                tensor=self.slice.name,
            )
        return replace(self.slice, shape=self.size)


@dataclass(frozen=True, slots=True)
class PickleIndex:
    """What a pickled checkpoint holds.

    Attributes:
        entries: By key, after taking it out of a ``state_dict`` or a dictionary of one
            dictionary. Values are `PickledTensor`, tensors (from compressed records, or of kinds
            without a range), and plain values, nested at most 64 deep and without cycles.
    """

    entries: dict[str, object]


@dataclass(frozen=True, slots=True)
class _Storage:
    """What a pickle means by a persistent id."""

    dtype: torch.dtype
    nbytes: int
    offset: int
    inflated: torch.Tensor | None = None


def read_pickle(file: WeightFile) -> PickleIndex:
    """Read the table of a pickled checkpoint; runs no code of it, maps nothing.

    Args:
        file: The file; the slices refer to it.

    Raises:
        InvalidWeightFile: UNSAFE_PICKLE if it asks for anything that weights do not need,
            UNKNOWN_FORMAT if it is no pickle, INVALID_PICKLE if it is damaged.
        TruncatedWeightFile: If storages reach beyond its end.
        NotEnoughMemory: If compressed records do not fit into memory.
        WeightReadFailed: If the system refuses.
        WeightFileChanged: If the path leads to other bytes now.
    """
    with file.reading() as fd:
        try:
            try:
                root = _read_root(file, fd)
            except NeedsTorch as need:
                root = _load_with_torch(file, fd, need.name)
            return PickleIndex(_unwrap(root))
        except UnsafeName as err:
            raise InvalidWeightFile(
                HeaderProblem.UNSAFE_PICKLE,
                f"the pickle asks for '{err.name}', which no weights need. A pickle can run any"
                " code while it is loaded, so it was refused; nothing of it was run.",
                path=file.path,
                hint="Get the model as .safetensors, or convert it where it can do no harm.",
            ) from err
        except PickleProblem as err:
            raise InvalidWeightFile(
                HeaderProblem.INVALID_PICKLE,
                f"the pickle cannot be read: {err}. The file has {file.size:,} bytes.",
                path=file.path,
                got=file.size,
            ) from err


def _read_root(file: WeightFile, fd: int) -> object:
    start = bytearray(min(_TAR_MAGIC_AT + 5, file.size))
    read_exactly(fd, memoryview(start), 0, path=file.path)
    if start.startswith(_ZIP_MAGIC):
        return _ZipReader(file, fd).read()
    if start[_TAR_MAGIC_AT:] == b"ustar":
        raise PickleProblem("it is in the tar format of PyTorch before 2017; save it anew")
    if start.startswith(b"\x80"):
        return _read_legacy(file, fd)
    looks = "It looks like safetensors; rename it so." if start[8:9] == b"{" else ""
    raise InvalidWeightFile(
        HeaderProblem.UNKNOWN_FORMAT,
        f"it begins with {bytes(start[:8])!r}, which is neither a zip archive nor a pickle."
        f" The file has {file.size:,} bytes.",
        path=file.path,
        offset=0,
        got=file.size,
        hint=looks or "The file is damaged or of another format; download it again.",
    )


class _Reader:
    """Runs pickles of one file, and makes tensors of the storages that they mention."""

    def __init__(self, file: WeightFile, stream: io.BufferedIOBase) -> None:
        self.file = file
        names = Names(self._rebuild, self._form)
        self.machine = PickleMachine(stream, names.find, self._persistent)

    def place(self, key: str, dtype: torch.dtype, nbytes: int) -> _Storage:
        """Tell where the bytes of a storage are."""
        raise NotImplementedError

    def _persistent(self, identity: object) -> _Storage:
        if type(identity) is not tuple or len(identity) not in (5, 6) or identity[0] != "storage":
            raise PickleProblem("it refers to something that is not a storage")
        kind, key, _, numel = identity[1:5]
        if not isinstance(kind, StorageType) or type(key) is not str or type(numel) is not int:
            raise PickleProblem("it describes a storage in a wrong way")
        if len(identity) == 6 and identity[5] is not None:
            raise NeedsTorch("a view of a storage")
        nbytes = numel * kind.dtype.itemsize
        if not 0 <= nbytes <= _MAX_STORAGE_BYTES:
            raise PickleProblem(f"it has a storage of {numel:,} elements")
        return self.place(key, kind.dtype, nbytes)

    def _form(self, storage: object) -> tuple[torch.dtype, int]:
        if not isinstance(storage, _Storage):
            raise PickleProblem("a tensor in it has no storage")
        return storage.dtype, storage.nbytes

    def _rebuild(self, storage: Any, layout: Layout) -> object:
        itemsize = layout.dtype.itemsize
        if storage.inflated is not None:
            used = storage.inflated[layout.begin : layout.begin + layout.nbytes]
            return used.view(layout.dtype).as_strided(layout.size, layout.stride)
        piece = WeightSlice(
            self.file,
            storage.offset + layout.begin,
            layout.nbytes,
            layout.dtype,
            (layout.nbytes // itemsize,),
            _ENCODING_NAMES.get(layout.dtype, str(layout.dtype).removeprefix("torch.")),
            self.machine.key_being_set(),
        )
        return PickledTensor(piece, layout.size, layout.stride)


class _ZipReader(_Reader):
    """The archive that ``torch.save`` writes since PyTorch 1.6."""

    def __init__(self, file: WeightFile, fd: int) -> None:
        self._archive = Archive(file, fd)
        self._places: dict[str, int | torch.Tensor] = {}
        super().__init__(file, io.BytesIO(self._archive.read("data.pkl", MAX_PICKLE_BYTES)))

    def read(self) -> object:
        archive = self._archive
        if archive.is_program:
            raise InvalidWeightFile(
                HeaderProblem.UNSAFE_PICKLE,
                "it is a TorchScript archive: a program with its weights, which was not run.",
                path=self.file.path,
                hint="Save the module's state_dict instead, or get the model as .safetensors.",
            )
        order = archive.read("byteorder", 16) if archive.has("byteorder") else b"little"
        if order != b"little":
            raise PickleProblem(
                f"its numbers are {order.decode('ascii', 'replace')}-endian; save it on a machine"
                " with an ordinary processor"
            )
        return self.machine.run()

    def place(self, key: str, dtype: torch.dtype, nbytes: int) -> _Storage:
        if nbytes == 0:
            return _Storage(dtype, 0, 0)
        record = f"data/{key}"
        size, is_compressed = self._archive.size_of(record), self._archive.is_compressed(record)
        if size < nbytes or (is_compressed and size != nbytes):
            raise PickleProblem(
                f"its storage '{key}' needs {nbytes:,} bytes and the record has {size:,}"
            )
        if key not in self._places:
            self._places[key] = (
                self._archive.inflate(record) if is_compressed else self._archive.offset_of(record)
            )
        place = self._places[key]
        if isinstance(place, torch.Tensor):
            return _Storage(dtype, nbytes, 0, place)
        return _Storage(dtype, nbytes, place)


class _LegacyReader(_Reader):
    """The stream of pickles that ``torch.save`` wrote before: storages come after the tensors.

    Args:
        file: The file.
        stream: Positioned at the pickle of the tensors.
        places: Offset of each storage; None on the first reading, which finds their sizes.
    """

    def __init__(
        self, file: WeightFile, stream: io.BufferedIOBase, places: dict[str, int] | None = None
    ) -> None:
        super().__init__(file, stream)
        self.sizes: dict[str, tuple[int, int]] = {}
        self._places = places

    def place(self, key: str, dtype: torch.dtype, nbytes: int) -> _Storage:
        # The first mention counts: its element is the unit in which the file gives the length.
        _, known = self.sizes.setdefault(key, (dtype.itemsize, nbytes))
        if nbytes > known:
            raise PickleProblem(f"its storage '{key}' has {known:,} and also {nbytes:,} bytes")
        if self._places is None:
            return _Storage(dtype, nbytes, 0)
        if key not in self._places:
            raise PickleProblem(f"its storage '{key}' is not in the file")
        return _Storage(dtype, nbytes, self._places[key])


def _read_legacy(file: WeightFile, fd: int) -> object:
    stream = io.BufferedReader(PositionalFile(file, fd))
    first = _LegacyReader(file, stream)
    if first.machine.run() != _LEGACY_MAGIC:
        raise PickleProblem("it is a pickle, but not one that torch.save wrote")
    version, system = first.machine.run(), first.machine.run()
    if version != _LEGACY_VERSION or not isinstance(system, dict):
        raise PickleProblem(f"its version is {version!r:.20}, not {_LEGACY_VERSION}")
    if not system.get("little_endian", True):
        raise PickleProblem("its numbers are big-endian; save it on an ordinary processor")
    at = stream.tell()
    first.machine.run()
    keys = first.machine.run()
    places = _legacy_places(file, fd, stream.tell(), keys, first.sizes)
    stream.seek(at)
    return _LegacyReader(file, stream, places).machine.run()


def _legacy_places(
    file: WeightFile, fd: int, at: int, keys: object, sizes: dict[str, tuple[int, int]]
) -> dict[str, int]:
    """Walk over the storages: each is its number of elements (8 bytes) and its bytes."""
    places: dict[str, int] = {}
    if not isinstance(keys, list):
        raise PickleProblem("the list of its storages is not a list")
    for key in keys:
        if type(key) is not str or key not in sizes or key in places:
            raise PickleProblem(f"the list of its storages is wrong at {key!r:.40}")
        itemsize, nbytes = sizes[key]
        if at + 8 + nbytes > file.size:
            raise TruncatedWeightFile(
                file.path, at + 8, nbytes, max(0, file.size - at - 8), f"storage {key}"
            )
        count = bytearray(8)
        read_exactly(fd, memoryview(count), at, path=file.path)
        if int.from_bytes(count, "little") * itemsize != nbytes:
            raise PickleProblem(f"its storage '{key}' does not have {nbytes:,} bytes")
        places[key] = at + 8
        at += 8 + nbytes
    return places


def _load_with_torch(file: WeightFile, fd: int, name: str) -> object:
    """Load everything with torch's own safe loader, into host memory."""
    logger.info("%s: read whole by torch.load, because of %s", file.path, name)
    stream = io.BufferedReader(PositionalFile(file, fd, max_read=file.size))
    try:
        return torch.load(stream, map_location="cpu", weights_only=True, mmap=False)
    except (LoadError, MemoryError):
        raise
    except Exception as err:  # torch raises a dozen kinds for a damaged file
        unsafe = _TORCH_REFUSAL.search(str(err))
        if unsafe:
            raise UnsafeName(unsafe[1]) from err
        # The whole text advises to load it without protection.
        reason = str(err).rpartition("WeightsUnpickler error:")[2].strip().partition("\n")[0]
        raise PickleProblem(f"torch.load refuses it ({reason:.200})") from err


def _unwrap(root: object) -> dict[str, object]:
    """Find the table of weights, and make sure that whoever walks through it comes to an end."""
    _, height = _measure(root, 0, {})
    if height > _MAX_NESTING:
        raise PickleProblem(f"its values are nested more than {_MAX_NESTING} deep")
    if not isinstance(root, dict):
        raise PickleProblem(f"it holds a {type(root).__name__}, not a dictionary of weights")
    inner = root.get("state_dict")
    if inner is None and len(root) == 1:
        inner = next(iter(root.values()))
    return inner if isinstance(inner, dict) else root


def _measure(value: object, depth: int, known: dict[int, tuple[int, int]]) -> tuple[int, int]:
    """Number of values inside, and how deep; what is shared counts each time, cycles are refused."""
    if not isinstance(value, (dict, list, tuple)):
        return 1, 0
    if id(value) not in known:
        if depth > _MAX_NESTING:
            raise PickleProblem(f"its values are nested more than {_MAX_NESTING} deep")
        known[id(value)] = MAX_INSTRUCTIONS, 0  # met again before it is measured: a cycle
        count, height = 1, 0
        for item in value.values() if isinstance(value, dict) else value:
            inside, below = _measure(item, depth + 1, known)
            count, height = count + inside, max(height, below + 1)
        known[id(value)] = count, height
    if known[id(value)][0] >= MAX_INSTRUCTIONS:
        raise PickleProblem("a value in it contains itself, or is repeated without end")
    return known[id(value)]

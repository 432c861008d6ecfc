"""Writing safetensors files: atomically, streaming, at most one tensor in memory at a time.

The bytes are those that the safetensors library would write. A tensor whose bytes are still in a
file goes from file to file in pieces and is not brought into memory; a `DeferredTensor` is computed
when its turn comes, written, and dropped.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch

from comfy.loading.deferred import DeferredTensor
from comfy.loading.encodings import ENCODINGS, Encoding
from comfy.loading.errors import CannotBeSaved, WeightSaveFailed
from comfy.loading.file_locks import UNFINISHED_MARK, lock
from comfy.loading.file_tensor import FileTensor
from comfy.loading.header import MAX_HEADER_BYTES
from comfy.loading.reader import Progress

PIECE_BYTES = 16 * 1024 * 1024
_ALIGNMENT = 8
_CREATE_FLAGS = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
)

# The library writes tensors by the rank of their dtype, widest first, then by name.
_RANKS = {name: rank for rank, name in enumerate(ENCODINGS)}
_BY_DTYPE = {one.torch_dtype: one for one in ENCODINGS.values() if not one.is_raw}


@dataclass(frozen=True, slots=True)
class _Entry:
    """One tensor to write, as the header describes it."""

    name: str
    tensor: torch.Tensor
    encoding: Encoding
    shape: tuple[int, ...]
    nbytes: int

    @classmethod
    def of(cls, name: object, tensor: object) -> _Entry:
        """Describe a tensor.

        Raises:
            CannotBeSaved: If the format has no place for it.
        """
        if not isinstance(name, str):
            raise CannotBeSaved(f"a tensor's name must be a string, not {name!r}.")
        if name == "__metadata__":
            raise CannotBeSaved("the name '__metadata__' is not free for a tensor.", tensor=name)
        if not isinstance(tensor, torch.Tensor):
            raise CannotBeSaved(
                f"'{name}' is a {type(tensor).__name__}, not a tensor.", tensor=name
            )
        if tensor.layout is not torch.strided or tensor.device.type == "meta":
            where = "on the meta device" if tensor.device.type == "meta" else "sparse"
            raise CannotBeSaved(f"tensor '{name}' is {where}: it has no bytes.", tensor=name)
        encoding = _BY_DTYPE.get(tensor.dtype)
        if encoding is None:
            raise CannotBeSaved(
                f"tensor '{name}' has dtype {tensor.dtype}, which the format lacks.",
                tensor=name,
                hint="Convert it first.",
            )
        shape = tuple(tensor.shape)
        nbytes = math.prod(shape) * tensor.dtype.itemsize
        if encoding.packing > 1 and shape:
            shape = (*shape[:-1], shape[-1] * encoding.packing)
        return cls(name, tensor, encoding, shape, nbytes)


def _header(entries: list[_Entry], metadata: Mapping[str, str] | None) -> bytes:
    table: dict[str, object] = {}
    if metadata is not None:
        for key, value in metadata.items():
            if not isinstance(key, str) or not isinstance(value, str):
                raise CannotBeSaved(
                    f"metadata must map strings to strings, found {key!r}: {value!r}.",
                    hint="Use json.dumps for other values.",
                )
        table["__metadata__"] = dict(metadata)
    offset = 0
    for entry in entries:
        table[entry.name] = {
            "dtype": entry.encoding.name,
            "shape": entry.shape,
            "data_offsets": (offset, offset + entry.nbytes),
        }
        offset += entry.nbytes
    try:
        text = json.dumps(table, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError as err:
        raise CannotBeSaved(f"a name or a piece of metadata is not valid text: {err}.") from err
    text += b" " * (-len(text) % _ALIGNMENT)
    if len(text) > MAX_HEADER_BYTES:
        raise CannotBeSaved(
            f"the header would take {len(text):,} bytes, readers accept {MAX_HEADER_BYTES:,}.",
            wanted=len(text),
            got=MAX_HEADER_BYTES,
            hint="Save less metadata, or several files.",
        )
    return len(text).to_bytes(8, "little") + text


def _pieces(tensor: torch.Tensor, staging: torch.Tensor) -> Iterator[memoryview]:
    """Give a tensor's bytes in order, each piece valid until the next is asked for.

    Args:
        tensor: Detached; anywhere, of any strides.
        staging: Host bytes that pieces from elsewhere pass through.
    """
    if not tensor.numel():
        return
    if not tensor.is_contiguous():
        for part in _contiguous_parts(tensor):
            yield from _pieces(part, staging)
        return
    flat = tensor.reshape(-1).view(torch.uint8)
    is_at_hand = type(tensor) is torch.Tensor and tensor.device.type == "cpu"
    for start in range(0, flat.numel(), PIECE_BYTES):
        piece = flat[start : start + PIECE_BYTES]
        if not is_at_hand:
            here = staging[: piece.numel()]
            here.copy_(piece)
            piece = here
        yield piece.numpy().data


def _contiguous_parts(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    """Copy a strided tensor in parts of at most `PIECE_BYTES`, where its rows are that small."""
    if isinstance(tensor, FileTensor) and tensor.is_in_file:
        # Rows of a transposed matrix lie all over its range: one read, not one for each part.
        tensor = tensor.clone()
    if tensor.dtype.itemsize == 1:
        tensor = tensor.view(torch.uint8)  # torch cannot copy float4
    row_bytes = tensor[0].numel() * tensor.dtype.itemsize
    if row_bytes > PIECE_BYTES:
        for row in tensor:
            if row.is_contiguous():
                yield row
            else:
                yield from _contiguous_parts(row)
        return
    for rows in torch.split(tensor, max(1, PIECE_BYTES // row_bytes)):
        yield rows.contiguous()


def _resolved(tensor: torch.Tensor) -> torch.Tensor:
    """Detach, and carry out a conjugation or negation that torch has only noted so far."""
    tensor = tensor.detach()
    if tensor.is_conj() or tensor.is_neg():
        tensor = tensor.resolve_conj().resolve_neg()
    return tensor


def _needs_staging(tensor: torch.Tensor) -> bool:
    return isinstance(tensor, (FileTensor, DeferredTensor)) or tensor.device.type != "cpu"


def _all_pieces(entry: _Entry, staging: torch.Tensor) -> Iterator[memoryview]:
    """Give the bytes of one entry in order; see `_pieces`.

    Raises:
        CannotBeSaved: If a recipe makes a tensor of another size or dtype than it promised.
    """
    if not isinstance(entry.tensor, DeferredTensor):
        yield from _pieces(_resolved(entry.tensor), staging)
        return
    made = 0
    for part in entry.tensor.parts():
        made += part.nbytes
        if part.dtype != entry.tensor.dtype or made > entry.nbytes:
            raise _broken_promise(entry, part.dtype, made)
        yield from _pieces(_resolved(part), staging)
        del part  # while the next one is computed
    if made != entry.nbytes:
        raise _broken_promise(entry, entry.tensor.dtype, made)


def _broken_promise(entry: _Entry, dtype: torch.dtype, nbytes: int) -> CannotBeSaved:
    return CannotBeSaved(
        f"tensor '{entry.name}' was to have {entry.nbytes:,} bytes of {entry.tensor.dtype}, and "
        f"came out with {nbytes:,} bytes of {dtype}.",
        tensor=entry.name,
        wanted=entry.nbytes,
        got=nbytes,
    )


class _Replacement:
    """A temporary file beside its target, which takes the target's place when it is whole."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        # A link stays a link: what it leads to is replaced.
        self.target = os.path.realpath(path)
        folder, name = os.path.split(self.target)
        self._folder = folder
        mark = f"{UNFINISHED_MARK}-{secrets.token_hex(8)}"
        self._temporary = os.path.join(folder, f".{name[:32]}{mark}.saving")
        self._fd: int | None = None

    def open(self) -> None:
        with self._told():
            if os.path.isdir(self.target):
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            # To replace /dev/null by a file would be the end of it.
            if os.path.exists(self.target) and not os.path.isfile(self.target):
                raise OSError(errno.EINVAL, "it is a device or a pipe, not a file")
            self._fd = os.open(self._temporary, _CREATE_FLAGS, 0o666)
        lock(self._fd)

    def write(self, data: memoryview | bytes) -> None:
        assert self._fd is not None
        rest = memoryview(data)
        with self._told():
            while rest:
                rest = rest[os.write(self._fd, rest) :]

    def commit(self) -> None:
        assert self._fd is not None
        with self._told():
            os.fsync(self._fd)
            fd, self._fd = self._fd, None
            os.close(fd)
            os.replace(self._temporary, self.target)
            self._sync_folder()

    def discard(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):
                os.close(fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)

    def _sync_folder(self) -> None:
        """Make the new name last, where the system lets folders be opened."""
        flag = getattr(os, "O_DIRECTORY", None)
        if flag is None:
            return
        # Who may write here need not be allowed to read, and some network filesystems refuse; the
        # file itself is on the disk already.
        with contextlib.suppress(OSError):
            fd = os.open(self._folder, os.O_RDONLY | flag)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as err:
            raise WeightSaveFailed(self.target, err) from err


@contextlib.contextmanager
def _replacing(path: str | os.PathLike[str]) -> Iterator[_Replacement]:
    replacement = _Replacement(path)
    try:
        replacement.open()
        yield replacement
        replacement.commit()
    except BaseException:
        replacement.discard()
        raise


def save_state_dict(
    state_dict: Mapping[str, torch.Tensor],
    path: str | os.PathLike[str],
    metadata: Mapping[str, str] | None = None,
    progress: Progress | None = None,
) -> None:
    """Write a safetensors file that is either whole or not there.

    The file is written beside `path` and takes its place at the end, so a file that is open,
    mapped, or the source of these very tensors may be saved over. Tensors that share memory are
    written one by one.

    Args:
        state_dict: Name to tensor, of any strides, on any device, or yet to be computed.
        path: A link is followed; permissions are those of any new file.
        metadata: Strings for the header.
        progress: Told (bytes done, bytes in all); what it raises ends the save.

    Raises:
        CannotBeSaved: If the format has no place for a tensor, a name or a piece of metadata.
        WeightSaveFailed: If the system refuses, for want of space for example.
        LoadError: If a tensor's own file cannot be read.
    """
    entries = [_Entry.of(name, tensor) for name, tensor in state_dict.items()]
    entries.sort(key=lambda entry: (-_RANKS[entry.encoding.name], entry.name))
    header = _header(entries, metadata)
    done, total = 0, sum(entry.nbytes for entry in entries)
    staged = (entry.nbytes for entry in entries if _needs_staging(entry.tensor))
    staging = torch.empty(min(PIECE_BYTES, max(staged, default=0)), dtype=torch.uint8)
    with _replacing(path) as output:
        output.write(header)
        for entry in entries:
            for piece in _all_pieces(entry, staging):
                output.write(piece)
                done += len(piece)
                if progress is not None:
                    progress(done, total)

"""The zip archive that ``torch.save`` writes: which bytes of the file each record is.

Records are stored uncompressed by torch, so that each is a range of the file like any other. An
archive that somebody packed again may be compressed; its records are inflated, within the bounds
that its table and the pickle agree on. All reads are positional; nothing is mapped.

Source:
    APPNOTE.TXT 6.3.10 (the zip format), ``caffe2/serialize/inline_container.h`` (the records).
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from typing import Any

import torch

from comfy.loading.errors import (
    HeaderProblem,
    InvalidWeightFile,
    LoadError,
    NotEnoughMemory,
    TruncatedWeightFile,
)
from comfy.loading.memory import host_pool
from comfy.loading.reader import read_exactly
from comfy.loading.weight_file import WeightFile

MAX_DIRECTORY_BYTES = 64 << 20
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_PIECE_BYTES = 1 << 20
# Deflate cannot do better than 258 bytes for 2 bits.
_MAX_RATIO = 1032
_ENCRYPTED = 0x1
_UTF8_NAME = 0x800
# What `zipfile` raises on bytes that are not a table of contents.
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    ValueError,
    LookupError,
    OverflowError,
    NotImplementedError,
    EOFError,
    OSError,
    struct.error,
)


class PositionalFile(io.RawIOBase):
    """A weight file as a Python file: it seeks by remembering, and reads by position.

    Args:
        file: Whose bytes these are.
        fd: Its descriptor, lent by ``file.reading()`` for as long as this object is used.
        max_read: Longest single read; a longer one is refused.
    """

    def __init__(self, file: WeightFile, fd: int, max_read: int = MAX_DIRECTORY_BYTES) -> None:
        super().__init__()
        self._file = file
        self._fd = fd
        self._max_read = max_read
        self._position = 0

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Tell the position of the next byte."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Move to a position; one before the beginning is an ``OSError``."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._file.size}[whence]
        if start + offset < 0:
            raise OSError(22, "a position before the beginning of the file")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any, /) -> int:
        """Fill a buffer as far as the file reaches."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._file.size - self._position))
        read_exactly(self._fd, view[:count], self._position, path=self._file.path)
        self._position += count
        return count

    def read(self, size: int | None = -1, /) -> bytes:
        """Read `size` bytes, or all that are left; never allocates more than there are."""
        left = max(0, self._file.size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        if count > self._max_read:
            raise InvalidWeightFile(
                HeaderProblem.INVALID_PICKLE,
                f"its table of contents claims to have {count:,} bytes.",
                path=self._file.path,
                offset=self._position,
                wanted=count,
                got=self._max_read,
            )
        data = bytearray(count)
        self.readinto(data)
        return bytes(data)


class Archive:
    """The records of one archive, while its descriptor is lent.

    Attributes:
        file: The archive.
        prefix: Folder of all records in it, with a slash.
    """

    def __init__(self, file: WeightFile, fd: int) -> None:
        self.file = file
        self._fd = fd
        self._entries = self._read_directory()
        self.prefix = self._find_prefix()
        self._inflated = 0

    def _wrong(self, message: str, *, offset: int | None = None) -> InvalidWeightFile:
        return InvalidWeightFile(
            HeaderProblem.INVALID_PICKLE,
            f"{message} The file has {self.file.size:,} bytes.",
            path=self.file.path,
            offset=offset,
            got=self.file.size,
            hint="The file is incomplete or damaged; download it again.",
        )

    def _read_directory(self) -> dict[str, zipfile.ZipInfo]:
        try:
            with zipfile.ZipFile(PositionalFile(self.file, self._fd)) as archive:
                infos = archive.infolist()
        except LoadError:
            raise
        except _ZIP_ERRORS as err:
            raise self._wrong(f"its table of contents, at its end, is not there: {err}.") from err
        entries: dict[str, zipfile.ZipInfo] = {}
        for info in infos:
            if info.filename in entries:
                raise self._wrong(f"it has two records named '{info.filename}'.")
            entries[info.filename] = info
        return entries

    def _find_prefix(self) -> str:
        tables = [name for name in self._entries if name.endswith("/data.pkl")]
        tables = [name for name in tables if name.count("/") == 1]
        if len(tables) != 1:
            raise self._wrong(f"it is a zip archive with {len(tables)} tables of weights, not 1.")
        return tables[0].removesuffix("data.pkl")

    @property
    def is_program(self) -> bool:
        """Whether this is a TorchScript archive: weights together with code."""
        code = f"{self.prefix}code/"
        has_code = any(name.startswith(code) for name in self._entries)
        return has_code or f"{self.prefix}constants.pkl" in self._entries

    def is_compressed(self, record: str) -> bool:
        """Whether a record has to be inflated."""
        return self._entry(record).compress_type != zipfile.ZIP_STORED

    def size_of(self, record: str) -> int:
        """Bytes of a record, as the table says."""
        return self._entry(record).file_size

    def has(self, record: str) -> bool:
        """Whether there is such a record."""
        return self.prefix + record in self._entries

    def _entry(self, record: str) -> zipfile.ZipInfo:
        info = self._entries.get(self.prefix + record)
        if info is None:
            raise self._wrong(f"its record '{record}' is missing.")
        if info.flag_bits & _ENCRYPTED:
            raise self._wrong(f"its record '{record}' is encrypted.")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._wrong(f"its record '{record}' is compressed in an unknown way.")
        if info.compress_type == zipfile.ZIP_STORED and info.compress_size != info.file_size:
            raise self._wrong(f"its table contradicts itself about the size of '{record}'.")
        if info.file_size > _MAX_RATIO * (info.compress_size + 1):
            raise self._wrong(
                f"its record '{record}' cannot have {info.file_size:,} bytes,"
                f" being compressed to {info.compress_size:,}."
            )
        return info

    def offset_of(self, record: str) -> int:
        """Where a record's bytes begin in the file, in bytes.

        Raises:
            InvalidWeightFile: If the record's own header is not where the table says.
            TruncatedWeightFile: If its bytes reach beyond the end of the file.
        """
        info = self._entry(record)
        at = info.header_offset
        header = bytearray(_LOCAL_HEADER.size)
        wanted = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")
        name = bytearray(len(wanted))
        if not 0 <= at <= self.file.size - len(header) - len(name):
            raise self._wrong(f"its record '{record}' begins behind its end.", offset=at)
        read_exactly(self._fd, memoryview(header), at, path=self.file.path)
        fields = _LOCAL_HEADER.unpack(header)
        name_bytes, extra_bytes = fields[-2:]
        read_exactly(self._fd, memoryview(name), at + len(header), path=self.file.path)
        if fields[0] != b"PK\x03\x04" or name_bytes != len(wanted) or name != wanted:
            raise self._wrong(f"its record '{record}' is not where its table says.", offset=at)
        start = at + len(header) + name_bytes + extra_bytes
        if start + info.compress_size > self.file.size:
            raise TruncatedWeightFile(
                self.file.path, start, info.compress_size, max(0, self.file.size - start), record
            )
        return int(start)

    def read(self, record: str, max_bytes: int) -> bytes:
        """All bytes of a small record, inflated if need be."""
        size = self.size_of(record)
        if size > max_bytes:
            raise self._wrong(f"its record '{record}' has {size:,} bytes, not {max_bytes:,}.")
        data = bytearray(size)
        if self.is_compressed(record):
            self._inflate(record, memoryview(data))
        else:
            start = self.offset_of(record)
            read_exactly(self._fd, memoryview(data), start, path=self.file.path, tensor=record)
        return bytes(data)

    def inflate(self, record: str) -> torch.Tensor:
        """All bytes of a compressed record, as a host tensor of ``uint8``.

        Raises:
            InvalidWeightFile: If they are not as many as the table says, or damaged.
            NotEnoughMemory: If the host cannot hold them.
        """
        size = self.size_of(record)
        self._inflated += self._entry(record).compress_size
        if self._inflated > self.file.size:
            raise self._wrong("its compressed records overlap.")
        free = host_pool().free
        if size > free:
            raise NotEnoughMemory(size, free, "host memory", path=self.file.path)
        tensor = torch.empty(size, dtype=torch.uint8)
        array: Any = tensor.numpy()  # numpy's stub does not tell that it is a buffer
        self._inflate(record, memoryview(array))
        return tensor

    def _inflate(self, record: str, target: memoryview) -> None:
        """Fill `target` with a record's bytes, exactly; holds one piece beside it."""
        done = checksum = 0
        try:
            for data in self._inflated_pieces(record):
                if done + len(data) > len(target):
                    raise self._wrong(f"its record '{record}' inflates to too many bytes.")
                target[done : done + len(data)] = data
                done += len(data)
                checksum = zlib.crc32(data, checksum)
        except zlib.error as err:
            raise self._wrong(f"its record '{record}' is damaged: {err}.") from err
        if done != len(target) or checksum != self._entry(record).CRC:
            raise self._wrong(
                f"its record '{record}' inflates to {done:,} bytes, which are not the"
                f" {len(target):,} that were saved."
            )

    def _inflated_pieces(self, record: str) -> Iterator[bytes]:
        size = self._entry(record).compress_size
        start = self.offset_of(record)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        for at in range(0, size, _PIECE_BYTES):
            piece = bytearray(min(_PIECE_BYTES, size - at))
            read_exactly(
                self._fd, memoryview(piece), start + at, path=self.file.path, tensor=record
            )
            rest = bytes(piece)
            while rest and not inflater.eof:
                yield inflater.decompress(rest, _PIECE_BYTES)
                rest = inflater.unconsumed_tail
        yield inflater.flush()

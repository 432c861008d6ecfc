"""The zip archive: a file read by position, and where its records are."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from comfy.loading.errors import InvalidWeightFile, TruncatedWeightFile
from comfy.loading.pickle_zip import Archive, PositionalFile
from comfy.loading.weight_file import FileTable
from support.pickle_parts import write_archive


@pytest.fixture
def digits(tmp_path: Path) -> Iterator[PositionalFile]:
    """A file of ten bytes; one read may take eight."""
    path = tmp_path / "digits"
    path.write_bytes(b"0123456789")
    file = FileTable().open(path)
    with file.reading() as fd:
        yield PositionalFile(file, fd, max_read=8)


class TestPositionalFile:
    """A weight file as a Python file."""

    def test_reads_from_where_it_is(self, digits: PositionalFile) -> None:
        assert (digits.read(3), digits.read(2), digits.tell()) == (b"012", b"34", 5)

    @pytest.mark.parametrize(
        ("offset", "whence", "rest"),
        [(8, io.SEEK_SET, b"89"), (-1, io.SEEK_END, b"9"), (3, io.SEEK_CUR, b"56789")],
    )
    def test_seeks(self, offset: int, whence: int, rest: bytes, digits: PositionalFile) -> None:
        digits.seek(2)
        digits.seek(offset, whence)
        assert digits.read() == rest

    def test_seeking_before_the_beginning_is_a_system_error(self, digits: PositionalFile) -> None:
        with pytest.raises(OSError, match="before the beginning"):
            digits.seek(-11, io.SEEK_END)

    def test_reading_ends_at_the_end(self, digits: PositionalFile) -> None:
        digits.seek(8)
        assert (digits.read(100), digits.read(100), digits.read()) == (b"89", b"", b"")
        digits.seek(100)
        assert digits.read(1) == b""

    def test_fills_buffers(self, digits: PositionalFile) -> None:
        buffer = bytearray(b"xxxx")
        digits.seek(7)
        assert digits.readinto(buffer) == 3
        assert buffer == b"789x"

    def test_refuses_long_reads(self, digits: PositionalFile) -> None:
        with pytest.raises(InvalidWeightFile, match="claims to have 9 bytes"):
            digits.read(9)

    def test_serves_a_buffered_reader(self, digits: PositionalFile) -> None:
        assert list(io.BufferedReader(digits)) == [b"0123456789"]

    def test_does_not_move_the_descriptor(self, digits: PositionalFile) -> None:
        digits.read(3)
        assert os.lseek(digits._fd, 0, os.SEEK_CUR) == 0


def _archive(path: Path) -> Iterator[Archive]:
    file = FileTable().open(path)
    with file.reading() as fd:
        yield Archive(file, fd)


class TestArchive:
    """The records of an archive."""

    @pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    @pytest.mark.parametrize("size", [0, 1, 1000, (1 << 20) - 1, 1 << 20, 3_000_000])
    def test_records_are_read_whole(self, kind: int, size: int, tmp_path: Path) -> None:
        content = bytes(range(256)) * (size // 256) + bytes(size % 256)
        records = {"data/x": content, "version": b"3"}
        path = write_archive(tmp_path / "a.pt", 1, records=records, compression=kind)
        for archive in _archive(path):
            assert archive.read("data/x", size) == content
            assert archive.read("version", 1) == b"3"
            assert archive.size_of("data/x") == size

    def test_incompressible_and_extremely_compressible_records_inflate(
        self, tmp_path: Path
    ) -> None:
        noise = bytes(torch.randint(256, (1_500_000,), dtype=torch.uint8).tolist())
        records = {"data/a": noise, "data/b": bytes(20_000_000)}
        path = write_archive(
            tmp_path / "a.pt", 1, records=records, compression=zipfile.ZIP_DEFLATED
        )
        for archive in _archive(path):
            first, second = archive.inflate("data/a"), archive.inflate("data/b")
            assert zlib.crc32(first.numpy()) == zlib.crc32(noise)
            assert second.numel() == 20_000_000
            assert not second.any()

    @pytest.mark.parametrize("more", [1, 100, 250])
    def test_bytes_that_the_inflater_holds_back_are_fetched(
        self, more: int, tmp_path: Path
    ) -> None:
        # A run of zeros that is a little longer than one piece ends inside the last instruction.
        records = {"data/0": bytes((1 << 20) + more)}
        path = write_archive(
            tmp_path / "a.pt", 1, records=records, compression=zipfile.ZIP_DEFLATED
        )
        for archive in _archive(path):
            assert archive.inflate("data/0").numel() == (1 << 20) + more

    def test_offset_is_that_of_the_bytes(self, tmp_path: Path) -> None:
        path = tmp_path / "a.pt"
        torch.save({"a": torch.full((5,), 7, dtype=torch.uint8)}, path)
        for archive in _archive(path):
            start = archive.offset_of("data/0")
            assert path.read_bytes()[start : start + 5] == b"\7" * 5
            assert start % 64 == 0

    def test_name_beyond_ascii_is_found(self, tmp_path: Path) -> None:
        records = {"data/é\N{GRINNING FACE}": b"x"}
        path = write_archive(tmp_path / "a.pt", 1, records=records, prefix="modèle/")
        for archive in _archive(path):
            assert archive.prefix == "modèle/"
            assert archive.read("data/é\N{GRINNING FACE}", 1) == b"x"

    def test_bytes_before_the_archive_are_allowed(self, tmp_path: Path) -> None:
        path = write_archive(tmp_path / "a.pt", 1, records={"data/0": b"abc"})
        path.write_bytes(b"PK\x03\x04, but not yet" + path.read_bytes())
        for archive in _archive(path):
            assert archive.read("data/0", 3) == b"abc"

    def test_record_that_reaches_beyond_the_end_is_truncated(self, tmp_path: Path) -> None:
        path = write_archive(tmp_path / "a.pt", 1, records={"data/0": b"abc"})
        content = bytearray(path.read_bytes())
        entry = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
        content[entry + 20 : entry + 28] = (5000).to_bytes(4, "little") * 2
        path.write_bytes(content)
        for archive in _archive(path):
            with pytest.raises(TruncatedWeightFile) as caught:
                archive.offset_of("data/0")
            assert caught.value.wanted == 5000

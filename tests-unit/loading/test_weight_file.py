"""Files with an identity: opened once, shared, and refused when their bytes are others."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from comfy.loading import weight_file
from comfy.loading.errors import WeightFileChanged, WeightReadFailed
from comfy.loading.testing import descriptors_of
from comfy.loading.weight_file import FileTable, WeightFile


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "model.bin"
    file.write_bytes(bytes(range(200)))
    return file


@pytest.fixture
def table() -> FileTable:
    return FileTable()


@pytest.fixture
def file(table: FileTable, path: Path) -> WeightFile:
    return table.open(path)


def read(file: WeightFile, offset: int, nbytes: int) -> bytes:
    buffer = bytearray(nbytes)
    file.read_into(memoryview(buffer), offset)
    return bytes(buffer)


def test_reads_bytes_and_counts_them(file: WeightFile) -> None:
    assert read(file, 10, 5) == bytes(range(10, 15))
    assert file.bytes_read == 5


def test_two_who_open_one_file_share_it(table: FileTable, path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.bin"
    os.link(path, link)
    first = table.open(path)
    assert table.open(str(path)) is first
    assert table.open(link) is first
    assert first.path == str(path)


def test_file_nobody_uses_is_forgotten(table: FileTable, path: Path) -> None:
    table.open(path)
    gc.collect()
    assert len(table) == 0
    assert descriptors_of(path) == 0


def test_descriptor_is_closed_after_a_read(file: WeightFile, path: Path) -> None:
    read(file, 0, 1)
    assert not file.is_open
    assert descriptors_of(path) == 0


def test_hold_keeps_the_descriptor_open(file: WeightFile, path: Path) -> None:
    hold = file.hold()
    read(file, 0, 1)
    assert descriptors_of(path) == 1
    del hold
    assert descriptors_of(path) == 0


def test_descriptor_is_closed_on_exec(file: WeightFile) -> None:
    with file.reading() as fd:
        assert not os.get_inheritable(fd)


def test_replaced_file_is_refused(file: WeightFile, path: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(bytes(200))
    os.replace(other, path)
    with pytest.raises(WeightFileChanged) as caught:
        read(file, 0, 1)
    assert caught.value.path == str(path)
    assert caught.value.found != caught.value.expected


def test_file_replaced_while_it_is_held_is_refused(
    file: WeightFile, path: Path, tmp_path: Path
) -> None:
    hold = file.hold()
    other = tmp_path / "other"
    other.write_bytes(bytes(200))
    os.replace(other, path)
    with pytest.raises(WeightFileChanged):
        read(file, 0, 1)
    del hold


def test_file_written_in_place_is_refused(file: WeightFile, path: Path) -> None:
    hold = file.hold()
    with path.open("r+b") as out:
        out.write(b"changed")
    with pytest.raises(WeightFileChanged):
        read(file, 0, 1)
    del hold


def test_truncated_file_is_refused(file: WeightFile, path: Path) -> None:
    os.truncate(path, 50)
    with pytest.raises(WeightFileChanged) as caught:
        read(file, 100, 1)
    assert "50 bytes" in str(caught.value)


def test_deleted_file_is_refused_once_its_descriptor_is_closed(
    file: WeightFile, path: Path
) -> None:
    read(file, 0, 1)
    path.unlink()
    with pytest.raises(WeightFileChanged, match="it is gone"):
        read(file, 0, 1)


def test_file_deleted_while_it_is_held_still_has_its_bytes(file: WeightFile, path: Path) -> None:
    hold = file.hold()
    path.unlink()
    assert read(file, 10, 2) == bytes([10, 11])
    del hold


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize("is_replaced", [False, True])
def test_a_renamed_file_is_opened_by_its_new_name(
    file: WeightFile, path: Path, table: FileTable, is_held: bool, is_replaced: bool
) -> None:
    hold = file.hold() if is_held else None
    kept = path.rename(path.with_name("kept.bin"))
    if is_replaced:
        path.write_bytes(b"a new version")
    assert table.open(kept) is file
    del hold
    assert read(file, 10, 2) == bytes([10, 11])


def test_missing_file_is_a_file_not_found_error(table: FileTable, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        table.open(tmp_path / "nothing.safetensors")
    assert isinstance(caught.value, WeightReadFailed)
    assert "nothing.safetensors" in str(caught.value)


def test_folder_is_refused(table: FileTable, tmp_path: Path) -> None:
    with pytest.raises(WeightReadFailed):
        table.open(tmp_path)


def test_idle_descriptors_are_capped(
    table: FileTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weight_file, "MAX_IDLE_DESCRIPTORS", 3)
    files, holds = [], []
    for number in range(8):
        path = tmp_path / f"{number}.bin"
        path.write_bytes(bytes([number]) * 10)
        files.append(table.open(path))
        holds.append(files[-1].hold())
    assert sum(file.is_open for file in files) <= 4
    for number, file in enumerate(files):
        assert read(file, 3, 1) == bytes([number])
    del holds

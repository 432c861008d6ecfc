"""Faults happen when and where they should, and leaks are seen."""

from __future__ import annotations

import errno
import mmap
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from support import census, faults
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "weights"
    file.write_bytes(b"x" * 1000)
    return file


def test_a_progress_callback_acts_once_at_its_byte() -> None:
    acts: list[str] = []
    progress = faults.AtByte(50, lambda: acts.append("now"))
    for done in (0, 49):
        progress(done, 100)
    assert not progress.has_acted
    for done in (50, 100):
        progress(done, 100)
    assert acts == ["now"]
    assert progress.calls == [(0, 100), (49, 100), (50, 100), (100, 100)]


@pytest.mark.parametrize(
    ("fault", "seen_by_holder", "seen_by_path"),
    [
        (lambda p: faults.truncate(p, 10), b"x" * 10, b"x" * 10),
        (lambda p: faults.replace(p, b"new"), b"x" * 1000, b"new"),
        (lambda p: faults.replace(p), b"x" * 1000, bytes(1000)),
        (lambda p: faults.overwrite(p, 1, b"yy"), b"xyy" + b"x" * 997, b"xyy" + b"x" * 997),
        (lambda p: faults.delete(p), b"x" * 1000, None),
    ],
    ids=["truncate", "replace", "replace-same-size", "overwrite", "delete"],
)
def test_files_change_under_who_holds_them(
    path: Path, fault: Callable[[Path], None], seen_by_holder: bytes, seen_by_path: bytes | None
) -> None:
    with open(path, "rb", buffering=0) as file:
        fault(path)
        assert os.pread(file.fileno(), 2000, 0) == seen_by_holder
    assert (path.read_bytes() if path.exists() else None) == seen_by_path
    assert len(list(path.parent.iterdir())) <= 1


def test_reads_fail_while_the_identity_stays(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        fd = file.fileno()
        before = os.fstat(fd)
        with faults.unreadable(path) as exchanged:
            assert exchanged == 1
            with pytest.raises(OSError) as caught:
                os.preadv(fd, [bytearray(10)], 0)
            assert caught.value.errno == errno.EBADF
            assert os.fstat(fd).st_ino == before.st_ino
            assert os.fstat(fd).st_mtime_ns == before.st_mtime_ns
        assert os.pread(fd, 3, 0) == b"xxx"


def test_a_descriptor_closed_meanwhile_is_not_brought_back(path: Path) -> None:
    before = census.descriptors()
    fd = os.open(path, os.O_RDONLY)
    with faults.unreadable(path):
        os.close(fd)
        other = os.open(path.parent, os.O_RDONLY)
        assert other == fd
    assert census.descriptors()[fd] == str(path.parent)
    os.close(other)
    assert census.descriptors().keys() == before.keys()


def test_a_full_disk_refuses_to_let_files_grow(tmp_path: Path) -> None:
    with faults.full_disk(100), pytest.raises(OSError) as caught:
        (tmp_path / "big").write_bytes(bytes(200))
    assert caught.value.errno == errno.EFBIG
    (tmp_path / "big").write_bytes(bytes(200))


def test_descriptors_of_a_deleted_file_are_found(path: Path) -> None:
    with open(path, "rb") as file:
        path.unlink()
        assert census.descriptors_of(path) == [file.fileno()]


def test_mapped_files_are_seen(path: Path) -> None:
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ):
        assert str(path) in census.mapped_files()
    assert str(path) not in census.mapped_files()


def test_shared_memory_and_private_memory_are_told_apart() -> None:
    before = census.memory()
    with mmap.mmap(-1, 8 * MIB) as shared:
        shared.write(bytes(8 * MIB))
        during = census.memory()
        assert during.rss_shmem - before.rss_shmem == pytest.approx(8 * MIB, abs=MIB)
    assert during.total == during.rss_anon + during.rss_file + during.rss_shmem


def test_a_block_that_gives_everything_back_passes(path: Path, simgpu: SimulatedDevice) -> None:
    with faults.nothing_left_behind(device_bytes=lambda: simgpu.allocated_bytes):
        data = torch.ones(16 * MIB, dtype=torch.uint8).to("simgpu")
        path.read_bytes()
        del data


class _Kept:
    """Things that outlive a block."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stop = threading.Event()

    def memory(self) -> object:
        block = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        block.write(bytes(len(block)))
        return block

    def descriptor(self) -> object:
        return open(self.path, "rb")

    def mapping(self) -> object:
        with open(self.path, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def thread(self) -> object:
        thread = threading.Thread(target=self.stop.wait, name="straggler")
        thread.start()
        return thread

    def device(self) -> object:
        return torch.ones(10, device="simgpu")


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("memory", "bytes of memory"),
        ("descriptor", "descriptor of"),
        ("mapping", "mapping of"),
        ("thread", "thread straggler"),
        ("device", "40 bytes on the device"),
    ],
)
def test_what_is_left_behind_is_told(
    path: Path, simgpu: SimulatedDevice, kind: str, told: str
) -> None:
    maker = _Kept(path)
    kept = []
    try:
        with (
            pytest.raises(AssertionError, match=told),
            faults.nothing_left_behind(within_s=0.05, device_bytes=lambda: simgpu.allocated_bytes),
        ):
            kept.append(getattr(maker, kind)())
    finally:
        maker.stop.set()
    for thing in kept:
        if hasattr(thing, "close"):
            thing.close()
        if isinstance(thing, threading.Thread):
            thread: threading.Thread = thing
            thread.join()

"""Each cache policy leaves what it promises, counted by the kernel."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from comfy.loading import page_cache
from comfy.loading.errors import TruncatedWeightFile
from comfy.loading.page_cache import (
    PolicyReader,
    drop,
    merge,
    probe_direct,
    resident_bytes,
    resident_ranges,
    subtract,
)
from comfy.loading.pages import anonymous, writable_bytes
from comfy.loading.weight_file import FileTable, WeightFile

MIB = 1024 * 1024
SIZE = 16 * MIB + 1234
WINDOW = 2 * MIB


@pytest.fixture
def file(tmp_path: Path) -> WeightFile:
    path = tmp_path / "weights.bin"
    block = os.urandom(MIB)
    with path.open("wb") as out:
        for number in range(16):
            out.write(number.to_bytes(4, "little") + block[4:])
        out.write(b"e" * 1234)
        out.flush()
        os.fsync(out.fileno())
    file = FileTable().open(path)
    with file.reading() as fd:
        if resident_bytes(fd) is None:
            pytest.skip("this system cannot tell what is in the page cache")
        drop(fd, 0, SIZE)
        if resident_bytes(fd):
            pytest.skip("this filesystem keeps its pages")
    return file


def warm(file: WeightFile, start: int, end: int) -> None:
    """Bring exactly a range into the cache."""
    with file.reading() as fd:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        os.pread(fd, end - start, start)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_NORMAL)


def read_all(file: WeightFile, reader: PolicyReader) -> bytes:
    region = writable_bytes(anonymous(WINDOW + 8192))
    parts = []
    for offset in range(7, SIZE, WINDOW):
        nbytes = min(WINDOW, SIZE - offset)
        first = reader.read(region, offset, nbytes)
        parts.append(bytes(region[first : first + nbytes]))
    return b"".join(parts)


def cached(file: WeightFile) -> int:
    with file.reading() as fd:
        found = resident_bytes(fd)
    assert found is not None
    return found


@pytest.mark.parametrize("cache", ["keep", "drop", "evict"])
@pytest.mark.parametrize("direct", [False, True])
def test_every_policy_gives_the_bytes(file: WeightFile, cache: str, direct: bool) -> None:
    with PolicyReader(file, cache, direct=direct) as reader:
        found = read_all(file, reader)
    assert found == Path(file.path).read_bytes()[7:]


def test_keep_leaves_a_warm_copy(file: WeightFile) -> None:
    with PolicyReader(file, "keep") as reader:
        read_all(file, reader)
    assert cached(file) >= SIZE * 0.99


@pytest.mark.parametrize("direct", [False, True])
def test_drop_leaves_nothing_of_a_cold_file(file: WeightFile, direct: bool) -> None:
    with PolicyReader(file, "drop", direct=direct) as reader:
        read_all(file, reader)
    assert cached(file) <= SIZE * 0.01


@pytest.mark.parametrize("direct", [False, True])
def test_drop_leaves_what_was_there_before(file: WeightFile, direct: bool) -> None:
    warm(file, 4 * MIB, 8 * MIB)
    before = cached(file)
    with PolicyReader(file, "drop", direct=direct) as reader:
        read_all(file, reader)
    assert before >= 4 * MIB
    assert abs(cached(file) - before) <= SIZE * 0.01


def test_drop_without_dontcache_leaves_what_was_there_before(
    file: WeightFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_cache, "dontcache_works", lambda fd: False)
    warm(file, 4 * MIB, 8 * MIB)
    before = cached(file)
    with PolicyReader(file, "drop") as reader:
        read_all(file, reader)
    assert abs(cached(file) - before) <= SIZE * 0.02


@pytest.mark.parametrize("direct", [False, True])
def test_evict_leaves_nothing_of_a_warm_file(file: WeightFile, direct: bool) -> None:
    warm(file, 0, SIZE)
    with PolicyReader(file, "evict", direct=direct) as reader:
        read_all(file, reader)
    assert cached(file) <= SIZE * 0.01


def test_evict_leaves_nothing_of_a_file_that_is_cached_in_large_folios(tmp_path: Path) -> None:
    path = tmp_path / "large.bin"
    with path.open("wb") as out:
        for _ in range(4):
            out.write(os.urandom(16 * MIB))
        out.flush()
        os.fsync(out.fileno())
    file = FileTable().open(path)
    with file.reading() as fd:
        drop(fd, 0, file.size)
        # Sequential reads make the system cache in folios larger than a page.
        for offset in range(0, file.size, MIB):
            os.pread(fd, MIB, offset)
    region = writable_bytes(anonymous(3 * MIB))
    with PolicyReader(file, "evict") as reader:
        for offset in range(5000, file.size, 700_000):
            reader.read(region, offset, min(700_000, file.size - offset))
    assert cached(file) <= file.size * 0.01


def test_refused_direct_read_is_read_buffered(
    file: WeightFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, refused = os.preadv, []

    def refuse_large_blocks(fd: int, buffers: list[memoryview], offset: int, *flags: int) -> int:
        if os.get_blocking(fd) and (fd_flags(fd) & os.O_DIRECT) and not refused:
            refused.append(offset)
            raise OSError(errno.EINVAL, "not aligned enough for this disk")
        return real(fd, buffers, offset, *flags)

    def fd_flags(fd: int) -> int:
        return fcntl.fcntl(fd, fcntl.F_GETFL)

    monkeypatch.setattr(os, "preadv", refuse_large_blocks)
    with PolicyReader(file, "keep", direct=True) as reader:
        found = read_all(file, reader)
    assert refused
    assert found == Path(file.path).read_bytes()[7:]


def test_read_past_the_end_is_a_truncation(file: WeightFile) -> None:
    region = writable_bytes(anonymous(WINDOW))
    for direct in (False, True):
        with (
            PolicyReader(file, "keep", direct=direct) as reader,
            pytest.raises(TruncatedWeightFile),
        ):
            reader.read(region, SIZE - 100, 200, "tail")


def test_direct_probe_tells_a_block_size(file: WeightFile) -> None:
    with file.reading() as fd:
        assert probe_direct(fd, file.size) in (0, page_cache.DIRECT_BLOCK_BYTES)


def test_tmpfs_has_no_direct_reads_before_it_learned_them_or_reads_right(tmp_path: Path) -> None:
    shm = Path("/dev/shm")
    if not shm.is_dir():
        pytest.skip("no tmpfs here")
    path = shm / f"comfy-loading-test-{os.getpid()}"
    try:
        path.write_bytes(bytes(range(256)) * 64)
        file = FileTable().open(path)
        with PolicyReader(file, "drop", direct=True) as reader:
            region = writable_bytes(anonymous(16384))
            first = reader.read(region, 100, 300)
            assert bytes(region[first : first + 300]) == path.read_bytes()[100:400]
    finally:
        path.unlink()


def test_resident_ranges_find_the_warm_part(file: WeightFile) -> None:
    warm(file, 4 * MIB, 8 * MIB)
    with file.reading() as fd:
        ranges = resident_ranges(fd, 0, SIZE)
    assert len(ranges) == 1
    (start, end) = ranges[0]
    assert start <= 4 * MIB
    assert end >= 8 * MIB
    assert end - start <= 6 * MIB


@pytest.mark.parametrize(
    ("ranges", "joined"),
    [
        ([], []),
        ([(0, 5), (5, 9)], [(0, 9)]),
        ([(5, 9), (0, 6)], [(0, 9)]),
        ([(0, 9), (2, 3)], [(0, 9)]),
        ([(0, 2), (3, 5)], [(0, 2), (3, 5)]),
    ],
)
def test_merge(ranges: list[tuple[int, int]], joined: list[tuple[int, int]]) -> None:
    assert merge(ranges) == joined


@pytest.mark.parametrize(
    ("holes", "left"),
    [
        ([], [(10, 20)]),
        ([(0, 30)], []),
        ([(0, 12)], [(12, 20)]),
        ([(18, 25)], [(10, 18)]),
        ([(12, 14), (16, 18)], [(10, 12), (14, 16), (18, 20)]),
        ([(0, 5), (25, 30)], [(10, 20)]),
    ],
)
def test_subtract(holes: list[tuple[int, int]], left: list[tuple[int, int]]) -> None:
    assert list(subtract((10, 20), holes)) == left

"""Positional reads: all bytes or a typed error; threads that never stay behind."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy.loading.errors import LoadCancelled, TruncatedWeightFile, WeightReadFailed
from comfy.loading.reader import CancelToken, in_threads, read_exactly


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    path = tmp_path / "bytes"
    path.write_bytes(bytes(range(100)))
    descriptor = os.open(path, os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


def test_reads_the_bytes_at_an_offset(fd: int) -> None:
    buffer = bytearray(10)
    read_exactly(fd, memoryview(buffer), 20, path="x")
    assert bytes(buffer) == bytes(range(20, 30))


def test_end_of_file_is_a_truncation_with_numbers(fd: int) -> None:
    with pytest.raises(TruncatedWeightFile) as caught:
        read_exactly(fd, memoryview(bytearray(10)), 95, path="/models/x.bin", tensor="bias")
    error = caught.value
    assert (error.offset, error.wanted, error.got, error.tensor) == (95, 10, 5, "bias")
    assert isinstance(error, EOFError)
    assert "x.bin" in str(error)
    assert "'bias' needs 10 bytes at byte 95" in str(error)


def test_end_of_file_after_enough_bytes_is_fine(fd: int) -> None:
    buffer = bytearray(16)
    read_exactly(fd, memoryview(buffer), 95, path="x", enough=5)
    assert bytes(buffer[:5]) == bytes(range(95, 100))


def test_short_reads_of_the_system_are_continued(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def stingy(descriptor: int, buffers: list[memoryview], offset: int) -> int:
        return real(descriptor, [buffers[0][:7]], offset)

    monkeypatch.setattr(os, "preadv", stingy)
    buffer = bytearray(60)
    read_exactly(fd, memoryview(buffer), 3, path="x")
    assert bytes(buffer) == bytes(range(3, 63))


def test_refusal_of_the_system_keeps_errno_path_and_offset(tmp_path: Path) -> None:
    write_only = os.open(tmp_path / "w", os.O_WRONLY | os.O_CREAT)
    try:
        with pytest.raises(WeightReadFailed) as caught:
            read_exactly(write_only, memoryview(bytearray(4)), 8, path="/models/w")
    finally:
        os.close(write_only)
    error = caught.value
    assert isinstance(error, OSError)
    assert (error.errno, error.path, error.offset) == (errno.EBADF, "/models/w", 8)
    assert error.strerror


def test_cancel_token_raises_once_cancelled() -> None:
    token = CancelToken()
    token.check("x")
    token.cancel()
    assert token.is_cancelled
    with pytest.raises(LoadCancelled) as caught:
        token.check("/models/x")
    assert caught.value.path == "/models/x"


def _readers() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name.startswith("weight-reader")]


@pytest.mark.parametrize("threads", [1, 3])
def test_every_item_is_worked_on_once(threads: int) -> None:
    found = list(in_threads(range(50), lambda item: item * 2, threads, threading.Event()))
    assert sorted(found) == [item * 2 for item in range(50)]
    assert not _readers()


def test_error_in_a_thread_is_raised_and_no_thread_stays() -> None:
    def act(item: int) -> int:
        if item == 5:
            raise WeightReadFailed("x", OSError(errno.EIO, "broken"))
        return item

    with pytest.raises(WeightReadFailed):
        list(in_threads(range(50), act, 3, threading.Event()))
    assert not _readers()


def test_leaving_early_discards_what_nobody_took() -> None:
    stop, discarded = threading.Event(), []
    barrier = threading.Event()

    def act(item: int) -> int:
        if item:
            barrier.wait(5)
        return item

    results = in_threads(range(4), act, 2, stop, discarded.append)
    first = next(results)
    barrier.set()
    results.close()
    assert first == 0
    assert stop.is_set()
    assert not _readers()
    assert set(discarded) <= {1, 2, 3}


def test_error_of_the_consumer_stops_the_threads() -> None:
    results = in_threads(range(1000), lambda item: item, 2, threading.Event())
    with pytest.raises(KeyError):
        results.throw(KeyError("consumer"))
    assert not _readers()

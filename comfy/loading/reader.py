"""Positional reads on a descriptor: all bytes or a typed error, from any number of threads."""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from comfy.loading.errors import LoadCancelled, TruncatedWeightFile, WeightReadFailed

# Linux returns at most 2^31 - 4096 bytes for one read, macOS refuses more than 2^31 - 1.
MAX_READ_BYTES = 1 << 30
# A thread that the system could start at all runs its first line long before this.
_START_S = 0.2

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all) as a load goes on, from the loading thread."""

_T = TypeVar("_T")
_R = TypeVar("_R")
_seek_lock = threading.Lock()


class CancelToken:
    """A user's wish to stop, seen by a load within one piece of reading."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask every load that was given this token to stop."""
        self._event.set()

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._event.is_set()

    def check(self, path: str | None = None) -> None:
        """Raise `LoadCancelled` if `cancel` was called."""
        if self._event.is_set():
            raise LoadCancelled(path)


def _read_once(fd: int, buffer: memoryview, offset: int, flags: int) -> int:
    """Read some bytes at `offset`; 0 means the end of the file."""
    if sys.platform == "win32":  # pragma: no cover - no positional read in the C runtime
        with _seek_lock:
            os.lseek(fd, offset, os.SEEK_SET)
            data = os.read(fd, len(buffer))
        buffer[: len(data)] = data
        return len(data)
    if flags:
        return os.preadv(fd, [buffer], offset, flags)
    return os.preadv(fd, [buffer], offset)


def read_exactly(
    fd: int,
    buffer: memoryview,
    offset: int,
    *,
    path: str,
    tensor: str | None = None,
    flags: int = 0,
    enough: int | None = None,
) -> None:
    """Fill `buffer` from `offset`, looping over short reads.

    Args:
        fd: Descriptor open for reading.
        buffer: Writable, contiguous, format "B".
        offset: Absolute position in the file, in bytes.
        path: Named in errors.
        tensor: Named in errors.
        flags: ``RWF_*`` flags of ``preadv2``.
        enough: Bytes after which the end of the file is no error (a direct read asks for whole
            blocks, and the last one may reach past the end); the whole buffer if None.

    Raises:
        TruncatedWeightFile: If the file ends first.
        WeightReadFailed: If the system refuses; interrupted calls are retried.
    """
    needed = len(buffer) if enough is None else enough
    done = 0
    while done < needed:
        piece = buffer[done : done + MAX_READ_BYTES]
        try:
            count = _read_once(fd, piece, offset + done, flags)
        except InterruptedError:
            continue
        except OSError as err:
            if err.errno == errno.EAGAIN:
                continue
            raise WeightReadFailed(path, err, offset=offset + done) from err
        if count == 0:
            raise TruncatedWeightFile(path, offset, needed, done, tensor)
        done += count


def in_threads(
    work: Iterable[_T],
    act: Callable[[_T], _R | None],
    threads: int,
    stop: threading.Event,
    discard: Callable[[_R], None] | None = None,
) -> Generator[_R, None, None]:
    """Call `act` on each item from several threads, and yield results as they come.

    An error, in a thread or in the consumer, stops all; no thread is left when it is raised.

    Args:
        work: Items, taken in order under a lock.
        act: Called once for each; must release the GIL where it waits. None means "stopped".
        threads: How many, at least 1.
        stop: Set when it is time to end; `act` may look at it while it waits.
        discard: Gets results that nobody will take.

    Yields:
        Results, in order of completion.
    """
    items = _Shared(iter(work))
    results: queue.SimpleQueue[_Result[_R]] = queue.SimpleQueue()

    def loop() -> None:
        try:
            for item in items:
                result = None if stop.is_set() else act(item)
                if result is None:
                    break
                results.put(_Result(value=result))
        except BaseException as err:  # noqa: BLE001 - handed to the consumer and raised there
            stop.set()
            results.put(_Result(error=err))
        results.put(_Result(is_last=True))

    pool = [threading.Thread(target=loop, name=f"weight-reader-{i}") for i in range(threads)]
    begun: list[threading.Thread] = []
    try:
        for thread in pool:
            begun.append(thread)
            thread.start()
        yield from _collect(results, len(pool))
    finally:
        stop.set()
        _join(begun)
        while discard is not None and not results.empty():
            left = results.get().value
            if left is not None:
                discard(left)


def _join(threads: Iterable[threading.Thread]) -> None:
    """Wait for the end of threads, also of one whose start was interrupted."""
    for thread in threads:
        deadline = time.monotonic() + _START_S
        while thread.ident is None and time.monotonic() < deadline:
            time.sleep(0.001)
        with contextlib.suppress(RuntimeError):
            thread.join()


@dataclass(frozen=True, slots=True)
class _Result(Generic[_R]):
    """What one thread has to say: a result, an error, or that it ends."""

    value: _R | None = None
    error: BaseException | None = None
    is_last: bool = False


def _collect(results: queue.SimpleQueue[_Result[_R]], threads: int) -> Iterator[_R]:
    running = threads
    while running:
        result = results.get()
        if result.error is not None:
            raise result.error
        if result.is_last:
            running -= 1
        elif result.value is not None:
            yield result.value


class _Shared(Iterator[_T]):
    """An iterator that several threads may advance."""

    def __init__(self, items: Iterator[_T]) -> None:
        self._items = items
        self._lock = threading.Lock()

    def __next__(self) -> _T:
        with self._lock:
            return next(self._items)

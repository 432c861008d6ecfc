"""What the machine allows at best, measured beside every round: the disk's rate, and memory's.

Without them a load cannot be judged: a slow one on a slow disk is fine. Imports no torch, so that
a measurement starts at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from comfy.loading.commands.one_run import Job, Outcome

_MIB = 1024 * 1024
_COPY_BYTES = 8 * _MIB
_HUGE_PAGE_BYTES = 2 * _MIB
# Larger than the caches of processors, so that the source comes from memory, too.
_SOURCE_BYTES = 64 * _MIB
_SMALL_BYTES = 64 * 1024
_DIRECT = getattr(os, "O_DIRECT", 0)
_FLAGS = os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def _pages(nbytes: int) -> memoryview:
    """Private pages, not touched yet."""
    if not hasattr(mmap, "MAP_PRIVATE"):  # pragma: no cover - Windows
        return memoryview(mmap.mmap(-1, nbytes))
    return memoryview(mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def _touched(nbytes: int) -> memoryview:
    """Memory that was used before, in huge pages where the system has them.

    They let a disk work with few large requests: here they double its rate (virtio disk, 2 CPUs,
    Linux 6.18, 2026-11).
    """
    block = _pages(nbytes + _HUGE_PAGE_BYTES)
    mapping = block.obj
    if isinstance(mapping, mmap.mmap) and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            mapping.madvise(mmap.MADV_HUGEPAGE)
    lead = -ctypes.addressof(ctypes.c_char.from_buffer(block)) % _HUGE_PAGE_BYTES
    used = block[lead : lead + nbytes]
    used[:] = os.urandom(4096) * (nbytes // 4096)
    return used


# -- the disk ----------------------------------------------------------------------------------


def prepare_disk(job: Job) -> Callable[[], Outcome]:
    """Read the files around the page cache and throw the bytes away, as ``fio --direct=1`` does.

    Args:
        job: Its arguments: ``threads``, each with one piece of ``piece_mib`` in flight.
    """
    threads, piece = job.arguments["threads"], job.arguments["piece_mib"] * _MIB
    buffers = [_touched(piece) for _ in range(threads)]

    def act() -> Outcome:
        direct = True
        nbytes = 0
        for path in job.files:
            fd, is_direct = _open(path)
            direct = direct and is_direct
            try:
                nbytes += _read_all(fd, os.fstat(fd).st_size, buffers)
            finally:
                os.close(fd)
        return Outcome(nbytes=nbytes, notes={"direct": direct, "threads": threads})

    return act


def _open(path: str) -> tuple[int, bool]:
    """Open for direct reads, or buffered ones where the filesystem has no others."""
    if _DIRECT:
        try:
            fd = os.open(path, _FLAGS | _DIRECT)
            os.preadv(fd, [_pages(4096)], 0)
            return fd, True
        except OSError:
            pass  # as on tmpfs and many network filesystems
    return os.open(path, _FLAGS), False


def _read_all(fd: int, size: int, buffers: Sequence[memoryview]) -> int:
    offsets = _Offsets(size, len(buffers[0]))
    done: list[int] = []
    failures: list[BaseException] = []

    def read(buffer: memoryview) -> None:
        try:
            done.extend(_read_piece(fd, buffer, offset) for offset in offsets)
        except BaseException as err:  # noqa: BLE001 - raised below, in the caller's thread
            failures.append(err)

    threads = [threading.Thread(target=read, args=(buffer,)) for buffer in buffers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return sum(done)


def _read_piece(fd: int, buffer: memoryview, offset: int) -> int:
    got = 0
    while got < len(buffer):
        count = os.preadv(fd, [buffer[got:]], offset + got)
        got += count
        # The last piece ends within a block, behind which no direct read can begin.
        if count == 0 or got % 4096:
            break
    return got


class _Offsets(Iterator[int]):
    """Where pieces begin, handed out to several threads."""

    def __init__(self, size: int, step: int) -> None:
        self._offsets = iter(range(0, size, step))
        self._lock = threading.Lock()

    def __next__(self) -> int:
        with self._lock:
            return next(self._offsets)


# -- memory ------------------------------------------------------------------------------------


def prepare_memory(job: Job) -> Callable[[], Outcome]:
    """Copy as many bytes as the weights have into fresh memory of the same kind, in one thread.

    Whoever leaves the caller with memory of its own has to touch each page of it once, which on
    many machines costs more than the disk does.

    Args:
        job: Its sizes are those of the weights.
    """
    source = _touched(_SOURCE_BYTES)

    def act() -> Outcome:
        kept: list[Any] = []
        at = 0
        started = time.perf_counter()
        for size in job.sizes:
            target = _pages(size) if size >= _SMALL_BYTES else memoryview(bytearray(size))
            kept.append(target)
            for start in range(0, size, _COPY_BYTES):
                piece = min(_COPY_BYTES, size - start)
                at = at if at + piece <= _SOURCE_BYTES else 0
                target[start : start + piece] = source[at : at + piece]
                at += piece
        seconds = time.perf_counter() - started
        return Outcome(tensors=kept, nbytes=sum(job.sizes), notes={"copy_s": seconds})

    return act

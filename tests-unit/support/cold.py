"""The page cache from outside: make a file cold, and see how much of it is there.

Measured independently of `comfy.loading.page_cache`, which is among the things under test.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
from pathlib import Path

_CACHESTAT = 451
_ARCHITECTURES = ("x86_64", "aarch64", "riscv64")


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _CacheStat(ctypes.Structure):
    _fields_ = (
        ("cached", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


def evict(path: str | os.PathLike[str]) -> None:
    """Write a file's dirty pages to disk and take the file out of the page cache.

    Note:
        Pages that somebody maps stay; nothing happens on tmpfs, whose files *are* cache.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def warm(path: str | os.PathLike[str], start: int = 0, end: int | None = None) -> None:
    """Read bytes `start` to `end` of a file into the page cache; nothing beyond if it can."""
    stop = os.path.getsize(path) if end is None else end
    with open(path, "rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        buffer = bytearray(1 << 20)
        while start < stop:
            piece = memoryview(buffer)[: stop - start]
            start += os.preadv(file.fileno(), [piece], start)


def resident_bytes(path: str | os.PathLike[str]) -> int:
    """How much of a file is in the page cache, in bytes, whole pages counted."""
    fd = os.open(path, os.O_RDONLY)
    try:
        pages = _pages_by_cachestat(fd)
        if pages is None:
            pages = _pages_by_mincore(fd, os.path.getsize(path))
    finally:
        os.close(fd)
    return pages * mmap.PAGESIZE


def resident_fraction(path: str | os.PathLike[str]) -> float:
    """How much of a file is in the page cache: 0 for nothing, 1 for all."""
    size = Path(path).stat().st_size
    return min(1.0, resident_bytes(path) / size) if size else 0.0


def bytes_read() -> int:
    """What this process has read so far, from the cache or not; Linux only."""
    return int(Path("/proc/self/io").read_text().split("rchar:")[1].split()[0])


def _pages_by_cachestat(fd: int) -> int | None:
    """Ask Linux 6.5 or later; None if it does not know the call."""
    if platform.machine() not in _ARCHITECTURES:
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    whole, answer = _Range(0, 0), _CacheStat()
    if libc.syscall(_CACHESTAT, fd, ctypes.byref(whole), ctypes.byref(answer), 0) != 0:
        return None
    return int(answer.cached)


def _pages_by_mincore(fd: int, size: int) -> int:
    """Map without touching, and ask page by page."""
    if not size:
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    address = libc.mmap(None, size, mmap.PROT_READ, mmap.MAP_SHARED, fd, 0)
    if address == ctypes.c_void_p(-1).value:
        raise OSError(ctypes.get_errno(), "mmap failed")
    try:
        flags = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        if libc.mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), flags) != 0:
            raise OSError(ctypes.get_errno(), "mincore failed")
        return sum(flag & 1 for flag in flags)
    finally:
        libc.munmap(ctypes.c_void_p(address), ctypes.c_size_t(size))

"""Faults that really happen: files that change while they are read, disks that refuse or are full.

No mocks: the system itself reports each error, at a place and time that the test chooses.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import os
import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

from support import census
from support.census import MemoryCensus, descriptors, descriptors_of, mapped_files, thread_names

__all__ = [
    "AtByte",
    "MemoryCensus",
    "delete",
    "descriptors",
    "descriptors_of",
    "full_disk",
    "mapped_files",
    "nothing_left_behind",
    "overwrite",
    "replace",
    "thread_names",
    "truncate",
    "unreadable",
]

MIB = 1024 * 1024
StrPath = str | os.PathLike[str]


class AtByte:
    """A progress callback that acts once, when a load has come so far.

    Give it to a load as ``progress``: ``AtByte(MIB, lambda: truncate(path, 100))``.

    Attributes:
        has_acted: Whether it did; a test asserts it, or it tested nothing.
        calls: What it was told: (bytes done, bytes in all).
    """

    def __init__(self, nbytes: int, act: Callable[[], object]) -> None:
        self._nbytes = nbytes
        self._act = act
        self.has_acted = False
        self.calls: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        """Take note, and act if it is time."""
        self.calls.append((done, total))
        if not self.has_acted and done >= self._nbytes:
            self.has_acted = True
            self._act()


def truncate(path: StrPath, nbytes: int) -> None:
    """Cut a file in place; who has it open sees it end early."""
    os.truncate(path, nbytes)


def replace(path: StrPath, content: bytes | None = None) -> None:
    """Put another file at the path, as a download manager does.

    Args:
        path: Of the file; who has it open keeps the old bytes.
        content: Of the new file; the old size of zeros if None.
    """
    data = bytes(os.path.getsize(path)) if content is None else content
    other = Path(f"{os.fspath(path)}.other")
    other.write_bytes(data)
    other.replace(path)


def overwrite(path: StrPath, offset: int, data: bytes) -> None:
    """Change bytes of a file in place, under those who have it open."""
    with open(path, "r+b", buffering=0) as file:
        os.pwrite(file.fileno(), data, offset)


def delete(path: StrPath) -> None:
    """Remove a file; who has it open keeps the bytes."""
    os.unlink(path)


@contextlib.contextmanager
def unreadable(path: StrPath) -> Iterator[int]:
    """Let reads of a file fail with EBADF through every descriptor that is open now.

    Each is exchanged for one of the same file that may only write, so that the file's identity
    is unchanged and only the read itself fails.

    Yields:
        How many descriptors were exchanged.
    """
    exchanged = {fd: os.dup(fd) for fd in descriptors_of(path)}
    for fd in exchanged:
        blind = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(blind, fd, inheritable=False)
        os.close(blind)
    try:
        yield len(exchanged)
    finally:
        for fd, original in exchanged.items():
            if fd in descriptors_of(path) and _is_write_only(fd):
                os.dup2(original, fd, inheritable=False)
            os.close(original)


def _is_write_only(fd: int) -> bool:
    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY


@contextlib.contextmanager
def full_disk(nbytes: int) -> Iterator[None]:
    """Let no file grow beyond `nbytes`: writes fail with EFBIG, as on a disk that is full.

    Note:
        Concerns the whole process while it lasts; only files that are written.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (nbytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def nothing_left_behind(
    *,
    slack_bytes: int = 8 * MIB,
    within_s: float = 1.0,
    device_bytes: Callable[[], int] | None = None,
) -> Iterator[None]:
    """Assert that the block gives back all it took, within a second.

    Descriptors, mapped files and threads must be those of before; anonymous and shared memory
    may differ by the slack, device memory by nothing.

    Args:
        slack_bytes: Host memory that may stay, for allocators and code loaded on first use.
        within_s: How long to wait for it.
        device_bytes: Tells the bytes allocated on a device.

    Raises:
        AssertionError: Listing what is left.
    """
    gc.collect()
    # Else what others freed would be given back later, and hide what is left behind.
    _trim()
    before = _Belongings(device_bytes)
    yield
    deadline = time.monotonic() + within_s
    while left := _Belongings(device_bytes).beyond(before, slack_bytes):
        if time.monotonic() > deadline:
            raise AssertionError("left behind: " + "; ".join(left))
        time.sleep(0.01)
        gc.collect()
        _trim()


def _trim() -> None:
    """Give freed heap back to the system, which otherwise looks like memory in use."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class _Belongings:
    """What this process has."""

    def __init__(self, device_bytes: Callable[[], int] | None) -> None:
        self.files = Counter(descriptors().values())
        self.mapped = mapped_files()
        self.threads = Counter(thread_names())
        self.memory = census.memory()
        self.device = device_bytes() if device_bytes else 0

    def beyond(self, before: _Belongings, slack_bytes: int) -> list[str]:
        """Say, in words, what is there that was not there before."""
        found = [f"descriptor of {name}" for name in (self.files - before.files).elements()]
        # Shared libraries loaded on first use stay for good.
        new = {name for name in self.mapped - before.mapped if ".so" not in Path(name).name}
        found += [f"mapping of {name}" for name in sorted(new)]
        found += [f"thread {name}" for name in (self.threads - before.threads).elements()]
        private = self.memory.rss_anon + self.memory.rss_shmem
        more = private - before.memory.rss_anon - before.memory.rss_shmem
        if more > slack_bytes:
            found.append(f"{more:,} bytes of memory")
        if self.device > before.device:
            found.append(f"{self.device - before.device:,} bytes on the device")
        return found

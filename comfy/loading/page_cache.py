"""The page cache of a weight file: what is resident, and reads that leave behind what they should.

Three policies. *keep*: plain buffered reads; the cache is a warm copy for the next load. *drop*:
the cache afterwards is what it was before; only pages that the load brought in go. *evict*: none
of the pages that were read stay, whoever brought them in; the rule on unified memory, where each
cached page is taken from the weights.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import io
import logging
import mmap
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Literal

from comfy.loading.errors import WeightReadFailed
from comfy.loading.pages import PAGE_BYTES, round_down, round_up
from comfy.loading.reader import read_exactly
from comfy.loading.weight_file import WeightFile, open_raw

if sys.platform != "win32":
    import fcntl

logger = logging.getLogger(__name__)

CacheEffect = Literal["keep", "drop", "evict"]

# Largest of the block sizes in use; what the probe finds can be smaller, never larger.
DIRECT_BLOCK_BYTES = 4096
_SYS_CACHESTAT = 451
_RWF_DONTCACHE = 0x80
# A part of the file this small with some pages resident counts as resident: it is left alone.
_FINEST_BYTES = 64 * PAGE_BYTES
_DIRECT_REFUSALS = frozenset({errno.EINVAL, errno.EFAULT, errno.ENOMEM, errno.EOPNOTSUPP})

Range = tuple[int, int]


class _Span(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Counts(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in ("cached", "dirty", "writeback", "evicted", "recently_evicted")
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def resident_bytes(fd: int, offset: int = 0, length: int = 0) -> int | None:
    """Count the bytes of a range that the page cache holds; maps nothing.

    Args:
        fd: Descriptor of a regular file.
        offset: Start of the range, in bytes.
        length: Bytes; 0 means to the end of the file.

    Returns:
        Bytes in whole pages, or None where the system cannot tell (before Linux 6.5, other
        systems, some filesystems).

    Source:
        cachestat(2), Linux 6.5.
    """
    if sys.platform != "linux":
        return None
    span, counts = _Span(offset, length), _Counts()
    if _libc().syscall(_SYS_CACHESTAT, fd, ctypes.byref(span), ctypes.byref(counts), 0) != 0:
        return None
    return int(counts.cached) * PAGE_BYTES


def resident_ranges(fd: int, start: int, end: int) -> list[Range]:
    """Find the parts of ``[start, end)`` that the page cache holds, at least in part.

    Returns:
        Disjoint ranges in order, cut at 256 KiB; all of it where the system cannot tell, so that
        nothing is ever dropped by mistake.
    """
    if end <= start:
        return []
    cached = resident_bytes(fd, start, end - start)
    if cached == 0:
        return []
    length = end - start
    if cached is None or cached >= length or length <= _FINEST_BYTES:
        return [(start, end)]
    middle = min(round_up(start + length // 2, PAGE_BYTES), end)
    if middle == end:
        return [(start, end)]
    left, right = resident_ranges(fd, start, middle), resident_ranges(fd, middle, end)
    if left and right and left[-1][1] == right[0][0]:
        return [*left[:-1], (left[-1][0], right[0][1]), *right[1:]]
    return left + right


def drop(fd: int, offset: int, length: int) -> None:
    """Ask the system to forget clean cached pages of a range, widened to whole pages.

    Args:
        fd: Descriptor of the file.
        offset: Start of the range, in bytes.
        length: Bytes.

    Note:
        Pages that some process has mapped stay: unmap first.
    """
    if hasattr(os, "posix_fadvise") and length > 0:
        start = round_down(offset, PAGE_BYTES)
        end = round_up(offset + length, PAGE_BYTES)
        with contextlib.suppress(OSError):
            os.posix_fadvise(fd, start, end - start, os.POSIX_FADV_DONTNEED)


def subtract(whole: Range, holes: Sequence[Range]) -> Iterator[Range]:
    """Yield the parts of `whole` that are in none of the disjoint, ordered `holes`."""
    position, end = whole
    for start, stop in holes:
        if stop <= position:
            continue
        if start >= end:
            break
        if start > position:
            yield position, start
        position = max(position, stop)
    if position < end:
        yield position, end


def merge(ranges: Sequence[Range]) -> list[Range]:
    """Join ranges that touch or overlap, in any order given; the result is in order."""
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def probe_direct(fd: int, size: int) -> int:
    """Find out whether reads of this file can go around the page cache.

    Args:
        fd: Descriptor of the file.
        size: Its bytes.

    Returns:
        The block in bytes to which offset, length and address must be aligned; 0 where direct
        reads are refused (tmpfs, many network filesystems, other systems).
    """
    raw = _open_direct(fd)
    if raw is None:
        return 0
    try:
        buffer = _aligned_block()
        got = os.preadv(raw.fileno(), [buffer], 0)
        return DIRECT_BLOCK_BYTES if got == min(size, DIRECT_BLOCK_BYTES) else 0
    except OSError:
        return 0
    finally:
        raw.close()


def _aligned_block() -> memoryview:
    return memoryview(mmap.mmap(-1, DIRECT_BLOCK_BYTES))


def _open_direct(fd: int) -> io.FileIO | None:
    """Open the same file once more for direct reads; through the descriptor, so that it is the same."""
    if not hasattr(os, "O_DIRECT"):
        return None
    raw: io.FileIO | None = None
    try:
        raw = open_raw(f"/proc/self/fd/{fd}")
        fcntl.fcntl(raw, fcntl.F_SETFL, os.O_DIRECT)
    except OSError:
        if raw is not None:
            raw.close()
        return None
    return raw


class PolicyReader:
    """Reads windows of one file under a page-cache policy, from any number of threads.

    Use as a context manager; on leaving, what the policy wants gone is gone.
    """

    def __init__(
        self,
        file: WeightFile,
        cache: CacheEffect,
        *,
        direct: bool = False,
        before: Sequence[Range] | None = None,
        extent: Range | None = None,
    ) -> None:
        """Prepare; nothing is opened yet.

        Args:
            file: What to read.
            cache: Policy.
            direct: Go around the page cache where the filesystem allows.
            before: What was resident before anything was read; looked up on entering if None.
            extent: The part of the file that will be read; all of it if None.
        """
        self._file = file
        self._cache = cache
        self._direct = direct
        self._before = before
        self._extent = extent or (0, file.size)
        self._stack = contextlib.ExitStack()
        self._fd = -1
        self._direct_fd: int | None = None
        self._flags = 0
        self._lock = threading.Lock()
        self._touched: list[Range] = []

    def __enter__(self) -> PolicyReader:
        with self._stack:
            self._fd = self._stack.enter_context(self._file.reading())
            if self._direct:
                self._open_direct()
            if self._cache != "keep":
                _bypass_cache_on_mac(self._fd)
            if self._cache == "drop" and self._before is None:
                self._before = resident_ranges(self._fd, *self._extent)
            if self._cache == "drop" and self._direct_fd is None and dontcache_works(self._fd):
                self._flags = _RWF_DONTCACHE
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with self._stack:
            # Once more, as a whole: the system drops no large folio of which a window is a part.
            self._clean(self._all_touched())

    def _all_touched(self) -> list[Range]:
        merged = merge(self._touched)
        size = self._file.size
        if self._cache == "evict" and 2 * sum(end - start for start, end in merged) >= size:
            return [(0, size)]
        return merged

    def _open_direct(self) -> None:
        raw = _open_direct(self._fd)
        if raw is not None:
            self._direct_fd = self._stack.enter_context(raw).fileno()

    def read(self, region: memoryview, offset: int, nbytes: int, tensor: str | None = None) -> int:
        """Read ``nbytes`` at `offset` into `region`, at the place congruent to the file's blocks.

        Args:
            region: Page-aligned writable memory, format "B"; at least ``offset % block + nbytes``
                rounded up to a block.
            offset: Absolute position in the file, in bytes.
            nbytes: How many.
            tensor: Named in errors.

        Returns:
            Index in `region` of the first byte asked for.

        Raises:
            TruncatedWeightFile: If the file ends first.
            WeightReadFailed: If the system refuses.
        """
        lead = offset % DIRECT_BLOCK_BYTES
        path = self._file.path
        if self._direct_fd is not None and self._read_direct(region, offset, nbytes, lead, tensor):
            return lead
        target = region[lead : lead + nbytes]
        read_exactly(self._fd, target, offset, path=path, tensor=tensor, flags=self._flags)
        self._file.count(nbytes)
        self._note((offset, offset + nbytes))
        return lead

    def _read_direct(
        self, region: memoryview, offset: int, nbytes: int, lead: int, tensor: str | None
    ) -> bool:
        """Try a direct read; False means that the system refuses this one and buffered must do."""
        assert self._direct_fd is not None
        length = min(round_up(lead + nbytes, DIRECT_BLOCK_BYTES), len(region))
        try:
            read_exactly(
                self._direct_fd,
                region[:length],
                offset - lead,
                path=self._file.path,
                tensor=tensor,
                enough=lead + nbytes,
            )
        except WeightReadFailed as err:
            if err.errno not in _DIRECT_REFUSALS:
                raise
            logger.debug("%s: direct read refused (%s), reading buffered", self._file.path, err)
            return False
        self._file.count(nbytes)
        if self._cache == "evict":
            # Pages that somebody else brought in would stay: a direct read does not touch them.
            self._note((offset, offset + nbytes))
        return True

    def _note(self, touched: Range) -> None:
        """Clean up behind a window at once, so that the cache never holds more than a few."""
        if self._cache == "keep":
            return
        with self._lock:
            self._touched.append(touched)
        self._clean([touched])

    def _clean(self, touched: Sequence[Range]) -> None:
        if self._cache == "evict":
            for start, end in touched:
                drop(self._fd, start, end - start)
        elif self._cache == "drop":
            for window in touched:
                for start, end in subtract(window, self._before or ()):
                    drop(self._fd, start, end - start)


def _bypass_cache_on_mac(fd: int) -> None:
    """Read without filling the cache where the system has a switch for it, and no O_DIRECT."""
    if sys.platform == "darwin":  # pragma: no cover - there is no such machine in CI
        fcntl.fcntl(fd, fcntl.F_NOCACHE, 1)


def dontcache_works(fd: int) -> bool:
    """Find out whether reads can leave nothing behind; reads no byte.

    Args:
        fd: Descriptor of a file on the filesystem in question.

    Source:
        RWF_DONTCACHE of preadv2(2), Linux 6.14.
    """
    if sys.platform != "linux":
        return False
    try:
        os.preadv(fd, [bytearray(1)], (1 << 62), _RWF_DONTCACHE)
    except OSError:
        return False
    return True

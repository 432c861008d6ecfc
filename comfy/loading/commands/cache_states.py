"""Bringing files into a known state of the page cache before a measurement, and checking it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from typing import Literal

from comfy.loading.page_cache import resident_bytes

State = Literal["cold", "warm"]

# A state that is further off than this is not the one that was wanted.
TOLERANCE = 0.01
_BUFFER_BYTES = 8 * 1024 * 1024


def residency(paths: Sequence[str]) -> float | None:
    """Share of some files in the page cache; None where the system cannot tell."""
    cached = total = 0
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            found = resident_bytes(fd)
            size = os.fstat(fd).st_size
        finally:
            os.close(fd)
        if found is None:
            return None
        cached += min(found, size)
        total += size
    return cached / total if total else 0.0


def can_be_cold() -> bool:
    """Whether this system forgets pages on request."""
    return hasattr(os, "posix_fadvise")


def make_cold(paths: Sequence[str]) -> None:
    """Take files, and nothing else, out of the page cache. Needs no privileges.

    Note:
        Pages that some process has mapped stay, and so do files on tmpfs: check `residency`.
    """
    for path in paths:
        fd = os.open(path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                # Pages that were not yet written to the disk cannot be dropped.
                os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(fd)


def make_warm(paths: Sequence[str]) -> None:
    """Read files into the page cache."""
    buffer = memoryview(bytearray(_BUFFER_BYTES))
    for path in paths:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def reached(state: State, share: float | None) -> bool | None:
    """Tell whether files are in the wanted state; None if that cannot be told."""
    if share is None:
        return None
    return share < TOLERANCE if state == "cold" else share > 1 - TOLERANCE

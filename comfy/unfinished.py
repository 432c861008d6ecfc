"""Files that are being written: hidden, marked by their names, and locked for as long as it takes.

A process that is killed leaves such a file behind. Its lock is gone then, by which `remove_abandoned`
knows it from one that another process is writing at that moment.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator

if sys.platform == "win32":

    def _lock(handle: int) -> bool:
        """There are no such locks."""
        return False

else:
    import fcntl

    def _lock(handle: int) -> bool:
        """Lock an open file if nobody else has; a file system without locks has none to give."""
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


_MARK = ".unfinished"
# A file's name may have 255 bytes; what is put around it, and characters of four bytes, need room.
_KEPT = 40
# Between the making of a file and its lock; and where there are no locks, between write and write.
_LOCKED_AFTER_S = 1.0
_STALE_S = 3600.0


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of a write which has not ended."""
    return name.startswith(".") and _MARK in name


@contextlib.contextmanager
def beside(path: str, suffix: str = "") -> Iterator[str]:
    """A new, empty file in the folder of another, to be moved there when it is whole.

    Args:
        path: The other file; its folder must exist.
        suffix: What the name ends in, for writers that go by that.

    Yields:
        Its path. It is removed at the end if it is still there.

    Raises:
        OSError: It cannot be made.
    """
    folder, name = os.path.split(path)
    handle, made = tempfile.mkstemp(suffix, f".{name[:_KEPT]}{_MARK}-", folder)
    try:
        if sys.platform == "win32":
            # It could not be moved while it is open.
            os.close(handle)
        else:
            _lock(handle)
        yield made
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        if sys.platform != "win32":
            os.close(handle)


def remove_abandoned(folder: str) -> None:
    """Remove what killed processes left in a folder and below it; what cannot be removed stays."""
    for root, _, names in os.walk(folder):
        for name in filter(is_unfinished, names):
            with contextlib.suppress(OSError):
                _remove_if_abandoned(os.path.join(root, name))


def _remove_if_abandoned(path: str) -> None:
    age = time.time() - os.path.getmtime(path)
    if age < _LOCKED_AFTER_S:
        return
    handle = os.open(path, os.O_RDWR)
    try:
        is_free = _lock(handle) or age > _STALE_S
    finally:
        os.close(handle)
    if is_free:
        os.unlink(path)

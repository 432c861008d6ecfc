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

from comfy.loading.file_locks import UNFINISHED_MARK, lock

# A file's name may have 255 bytes; what is put around it, and characters of four bytes, need room.
_KEPT = 40
# Between the making of a file and its lock; and where there are no locks, between write and write.
_LOCKED_AFTER_S = 1.0
_STALE_S = 3600.0


def is_unfinished(name: str) -> bool:
    """Whether a file's name is that of a write which has not ended."""
    return name.startswith(".") and UNFINISHED_MARK in name


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
    handle, made = tempfile.mkstemp(suffix, f".{name[:_KEPT]}{UNFINISHED_MARK}-", folder)
    try:
        if sys.platform == "win32":
            # It could not be moved while it is open.
            os.close(handle)
        else:
            lock(handle)
        yield made
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(made)
        if sys.platform != "win32":
            os.close(handle)


def new_file_mode() -> int:
    """The rights that a new file gets."""
    # The only way to read the mask is to set it; a thread in between would get 0o077, no more.
    mask = os.umask(0o077)
    os.umask(mask)
    return 0o666 & ~mask


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
        is_free = lock(handle) or age > _STALE_S
    finally:
        os.close(handle)
    if is_free:
        os.unlink(path)

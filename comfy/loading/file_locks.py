"""The mark in the names of files that are being written, and their locks.

A process that is killed loses its locks. A program that starts may therefore remove a file with
this mark that it can lock.
"""

from __future__ import annotations

import sys

UNFINISHED_MARK = ".unfinished"

if sys.platform == "win32":

    def lock(handle: int) -> bool:
        """There are no such locks."""
        return False

else:
    import fcntl

    def lock(handle: int) -> bool:
        """Lock an open file if nobody else has; a file system without locks has none to give.

        Args:
            handle: Its descriptor; the lock ends when it is closed.

        Returns:
            Whether it is locked now.
        """
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True

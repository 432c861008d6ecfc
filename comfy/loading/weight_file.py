"""Weight files: open, with an identity, and shared by all who read them.

Reads are positional: no shared offset, so any number of threads may read at once.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from comfy.loading.errors import WeightFileChanged, WeightReadFailed
from comfy.loading.reader import read_exactly

MAX_IDLE_DESCRIPTORS = 64


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """Equal identities mean the same bytes, as far as the system tells.

    Attributes:
        device: Number of the filesystem.
        inode: Number of the file in it.
        size: Bytes.
        mtime_ns: Time of the last write, in nanoseconds.
    """

    device: int
    inode: int
    size: int
    mtime_ns: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileIdentity:
        """Take the identity out of what ``os.stat`` tells."""
        return cls(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)

    def __str__(self) -> str:
        return f"inode {self.inode} of {self.size:,} bytes written at {self.mtime_ns} ns"


class WeightFile:
    """One weight file: an identity, and one close-on-exec descriptor while somebody needs it.

    The descriptor is open while a tensor still has its bytes in the file (`hold`) or while a
    read runs (`reading`); otherwise it is closed, and opened again on demand if the identity
    still matches.

    Note:
        All methods are safe to call from several threads.
    """

    def __init__(self, path: str, raw: io.FileIO, identity: FileIdentity, table: FileTable) -> None:
        self.path = path
        self.identity = identity
        self.bytes_read = 0
        self.host_copies: weakref.WeakSet[object] = weakref.WeakSet()
        self.lock = threading.Lock()
        """Upstream's tag carries one lock per file; positional reads do not take it."""
        self._table = table
        self._lock = threading.RLock()
        self._raw: io.FileIO | None = raw
        self._users = 0
        self._holders = 0
        self._hold: weakref.ref[Hold] | None = None
        self._pinned = False
        self._finalizer = weakref.finalize(self, _close_quietly, raw)

    def __repr__(self) -> str:
        return f"WeightFile({self.path!r}, {self.size:,} bytes)"

    @property
    def size(self) -> int:
        """Bytes of the file, as of its opening."""
        return self.identity.size

    @property
    def is_open(self) -> bool:
        """Whether a descriptor is held at this moment."""
        return self._raw is not None

    def fileno(self) -> int:
        """A descriptor for tools that read by themselves; stays open as long as this object."""
        with self._lock:
            self._pinned = True
            return self._open_fd()

    @contextlib.contextmanager
    def reading(self) -> Iterator[int]:
        """Lend the descriptor, after checking that the file is still the same.

        Yields:
            The descriptor, open until the context ends. Use positional reads only.

        Raises:
            WeightFileChanged: If the path leads to other bytes now.
            WeightReadFailed: If the file can no longer be opened.
        """
        with self._lock:
            fd = self._open_fd()
            self._users += 1
        try:
            self.check_identity()
            yield fd
        finally:
            with self._lock:
                self._users -= 1
                self._close_if_idle()

    def read_into(self, buffer: memoryview, offset: int, tensor: str | None = None) -> None:
        """Fill `buffer` with the bytes at `offset`, all of them.

        Args:
            buffer: Writable, contiguous, format "B".
            offset: Absolute position in the file, in bytes.
            tensor: Name to tell in an error.

        Raises:
            TruncatedWeightFile: If the file ends before the buffer is full.
            WeightReadFailed: If the system refuses.
            WeightFileChanged: If the path leads to other bytes now.
        """
        with self.reading() as fd:
            read_exactly(fd, buffer, offset, path=self.path, tensor=tensor)
        self.count(len(buffer))

    def count(self, nbytes: int) -> None:
        """Add to the number of weight bytes read from this file."""
        with self._lock:
            self.bytes_read += nbytes
            self._table.count(self.path, nbytes)

    def check_identity(self) -> None:
        """Raise unless the bytes behind this object are those that were opened.

        A file that was deleted while its descriptor is open still has its bytes, and passes.

        Raises:
            WeightFileChanged: If size or time differ, or another file took the path.
        """
        with self._lock:
            raw = self._raw
            opened = FileIdentity.of(os.fstat(raw.fileno())) if raw is not None else None
        if opened is not None and opened != self.identity:
            raise WeightFileChanged(self.path, self.identity, opened)
        try:
            found = FileIdentity.of(os.stat(self.path))
        except FileNotFoundError:
            if opened is None:
                raise WeightFileChanged(self.path, self.identity, None) from None
            return
        except OSError as err:
            raise WeightReadFailed(self.path, err, doing="inspect") from err
        if found != self.identity:
            raise WeightFileChanged(self.path, self.identity, found)

    def found_at(self, path: str) -> None:
        """Note that a file of this identity was opened at a path: it may have been renamed.

        Raises:
            WeightFileChanged: If the bytes are others meanwhile.
        """
        if not self._is_at_path():
            self.path = path
        self.check_identity()

    def _is_at_path(self) -> bool:
        try:
            return FileIdentity.of(os.stat(self.path)) == self.identity
        except OSError:
            return False

    def hold(self) -> Hold:
        """Keep the descriptor open as long as somebody refers to the returned object.

        All who hold at one time get the same object: ten thousand tensors cost one.
        """
        with self._lock:
            hold = self._hold() if self._hold is not None else None
            if hold is None:
                self._open_fd()
                self._holders += 1
                hold = Hold(self)
                self._hold = weakref.ref(hold)
            return hold

    def _release_hold(self) -> None:
        with self._lock:
            self._holders -= 1
            self._close_if_idle()

    def close_if_reopenable(self) -> bool:
        """Give the descriptor back early, if no read runs and the path still leads here."""
        # Never waits: the caller may hold another file's lock, and two waiting crosswise never end.
        if not self._lock.acquire(blocking=False):
            return False
        try:
            if self._raw is None or self._users or self._pinned:
                return False
            same = self._is_at_path()
            if same:
                self._close()
            return same
        finally:
            self._lock.release()

    def _open_fd(self) -> int:
        if self._raw is None:
            try:
                raw = open_raw(self.path)
            except FileNotFoundError as err:
                raise WeightFileChanged(self.path, self.identity, None) from err
            except OSError as err:
                raise WeightReadFailed(self.path, err, doing="open") from err
            found = FileIdentity.of(os.fstat(raw.fileno()))
            if found != self.identity:
                raw.close()
                raise WeightFileChanged(self.path, self.identity, found)
            self._raw = raw
            self._finalizer = weakref.finalize(self, _close_quietly, raw)
            self._table.touch(self)
        return self._raw.fileno()

    def _close_if_idle(self) -> None:
        if not self._users and not self._holders and not self._pinned:
            self._close()

    def _close(self) -> None:
        if self._raw is not None:
            self._raw = None
            self._finalizer()


class Hold:
    """A claim on an open descriptor; ends with the object."""

    def __init__(self, file: WeightFile) -> None:
        end = weakref.finalize(self, WeightFile._release_hold, file)
        # At exit the system closes descriptors; running finalizers then may meet torn-down modules.
        end.atexit = False


def open_raw(path: str) -> io.FileIO:
    """Open a file for positional reads, close-on-exec.

    The descriptor belongs to an object from the first moment on: a Ctrl-C that arrives while the
    system opens the file cannot lose it, as it would lose the number that ``os.open`` returns.
    """
    return io.FileIO(path, "rb")


def _close_quietly(raw: io.FileIO) -> None:
    with contextlib.suppress(OSError):
        raw.close()


class FileTable:
    """Files by identity, so that all who open one file share one object; holds none alive.

    Note:
        At most `MAX_IDLE_DESCRIPTORS` files stay open while nobody reads; the one that was opened
        longest ago gives its descriptor back and is opened again on demand.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._files: weakref.WeakValueDictionary[FileIdentity, WeightFile] = (
            weakref.WeakValueDictionary()
        )
        self._recent: OrderedDict[int, weakref.ref[WeightFile]] = OrderedDict()
        self._bytes_read: dict[str, int] = {}

    def count(self, path: str, nbytes: int) -> None:
        """Add to the number of weight bytes read from a path, and keep it when the file closes."""
        with self._lock:
            self._bytes_read[path] = self._bytes_read.get(path, 0) + nbytes

    def bytes_read(self, path: str | None = None) -> int:
        """How many weight bytes were ever read from a path; from all of them if None."""
        with self._lock:
            if path is None:
                return sum(self._bytes_read.values())
            return self._bytes_read.get(path, 0)

    def alive(self) -> list[WeightFile]:
        """The files that something still refers to."""
        with self._lock:
            return list(self._files.values())

    def __len__(self) -> int:
        return len(self._files)

    def open(self, path: str | os.PathLike[str]) -> WeightFile:
        """Open a file for positional reads, or share it if it is open already.

        Raises:
            FileNotFoundError: If there is nothing at `path` (also a `WeightReadFailed`).
            WeightReadFailed: If it is a folder, or the system refuses.
        """
        name = os.path.abspath(os.fspath(path))
        try:
            # Before it is opened: a pipe would wait for its other end.
            if os.path.exists(name) and not os.path.isfile(name):
                raise IsADirectoryError(errno.EISDIR, "not a regular file")
            raw = open_raw(name)
            identity = FileIdentity.of(os.fstat(raw.fileno()))
        except FileNotFoundError as err:
            raise WeightFileMissing(name, err, doing="find") from err
        except OSError as err:
            raise WeightReadFailed(name, err, doing="open") from err
        with self._lock:
            known = self._files.get(identity)
            if known is None:
                file = self._files[identity] = WeightFile(name, raw, identity, self)
        if known is None:
            self.touch(file)
            return file
        # Not under the table's lock: files take theirs first, and the table's inside it.
        raw.close()
        known.found_at(name)
        return known

    def touch(self, file: WeightFile) -> None:
        """Note that `file` was opened, and let the oldest go if too many are open."""
        with self._lock:
            self._recent[id(file)] = weakref.ref(file)
            self._recent.move_to_end(id(file))
            if len(self._recent) <= MAX_IDLE_DESCRIPTORS:
                return
            candidates = list(self._recent.items())[: len(self._recent) - MAX_IDLE_DESCRIPTORS]
        for key, reference in candidates:
            old = reference()
            if old is None or not old.is_open or old.close_if_reopenable():
                with self._lock:
                    self._recent.pop(key, None)


class WeightFileMissing(WeightReadFailed, FileNotFoundError):
    """There is no file at the path."""

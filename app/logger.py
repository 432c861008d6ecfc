"""What the program says: to the terminal, and the last of it to pages that ask.

Everything written to standard output and error passes by here, the log included, so that a page
shows what a terminal shows.
"""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections import deque
from collections.abc import Callable
from datetime import datetime
from typing import Any, TextIO, TypedDict

logger = logging.getLogger(__name__)

RECENT_WRITES = 300
"""So many writes are kept for pages."""


class Entry(TypedDict):
    """One write: when, in ISO form, and what."""

    t: str
    m: str


Listener = Callable[[list[Entry]], None]
"""Gets what was written since it was called last."""


class RecentWrites:
    """The last writes, and whoever wants to hear of new ones.

    A write that begins with a carriage return takes the place of the one before, if that did not
    end its line: so a progress bar is one entry, as it is one line.
    """

    def __init__(self, capacity: int = RECENT_WRITES) -> None:
        """Begin with none.

        Args:
            capacity: So many are kept.
        """
        self._kept: deque[Entry] = deque(maxlen=capacity)
        self._new: deque[Entry] = deque(maxlen=capacity)
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        # The thread that tells now, and whether another has flushed since it began to.
        self._teller: int | None = None
        self._is_more = False

    def add(self, text: str) -> None:
        """Keep a write."""
        entry: Entry = {"t": datetime.now().isoformat(), "m": text}
        with self._lock:
            for entries in (self._kept, self._new):
                if text.startswith("\r") and entries and not entries[-1]["m"].endswith("\n"):
                    entries.pop()
                entries.append(entry)

    def entries(self) -> list[Entry]:
        """What is kept, oldest first."""
        with self._lock:
            return list(self._kept)

    def listen(self, listener: Listener) -> None:
        """Call it at each flush with what is new."""
        with self._lock:
            self._listeners.append(listener)

    def tell(self) -> None:
        """Give listeners what is new; what they write themselves is told the next time.

        A listener that raises is not called again.
        """
        thread = threading.get_ident()
        with self._lock:
            if self._teller is not None:
                self._is_more |= self._teller != thread
                return
            self._teller, self._is_more = thread, True
        # Without the lock: a listener may wait for a thread that writes.
        try:
            while told := self._rest():
                for listener in list(self._listeners):
                    self._tell_one(listener, told)
        except BaseException:
            self._teller = None
            raise

    def _rest(self) -> list[Entry]:
        """What has to be told now; with none the telling has ended."""
        with self._lock:
            told = list(self._new) if self._is_more else []
            self._is_more = False
            if told:
                self._new.clear()
            else:
                self._teller = None
            return told

    def _tell_one(self, listener: Listener, told: list[Entry]) -> None:
        try:
            listener(told)
        except Exception:
            self._listeners.remove(listener)
            logger.exception("What listened to the log failed, and hears no more of it.")


class WatchedStream(io.TextIOBase):
    """A stream whose writes are kept; everything else is as the stream itself has it."""

    def __init__(self, stream: TextIO, writes: RecentWrites) -> None:
        """Watch.

        Args:
            stream: Gets all writes.
            writes: Keeps them.
        """
        self.stream = stream
        self._writes = writes

    def write(self, text: str) -> int:
        """Write and keep."""
        self._writes.add(text)
        return self.stream.write(text)

    def flush(self) -> None:
        """Flush, and tell listeners."""
        self.stream.flush()
        self._writes.tell()

    def close(self) -> None:
        """Only flush: others may hold the stream."""
        if not self.stream.closed:
            self.flush()

    def isatty(self) -> bool:
        """Whether a terminal is behind it."""
        return self.stream.isatty()

    def fileno(self) -> int:
        """The descriptor behind it."""
        return self.stream.fileno()

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in the stub
        """How text becomes bytes."""
        return self.stream.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # a plain attribute in the stub
        """What happens to text that has no bytes in that encoding."""
        return self.stream.errors

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


_writes = RecentWrites()


class TerminalHandler(logging.Handler):
    """Writes to what is the program's standard output or error at that moment.

    A progress display takes the stream's place while it is shown, so that lines appear above it.
    """

    def __init__(self, stream_name: str) -> None:
        """Choose.

        Args:
            stream_name: "stdout" or "stderr".
        """
        super().__init__()
        self._stream_name = stream_name

    def emit(self, record: logging.LogRecord) -> None:
        """Write a message and flush."""
        try:
            stream = getattr(sys, self._stream_name)
            if stream is not None:
                stream.write(f"{self.format(record)}\n")
                stream.flush()
        except Exception:  # noqa: BLE001 - logging must not end what logs; it is told so
            self.handleError(record)


def setup_logger(
    log_level: str = "INFO", use_stdout: bool = False, keep_writes: bool = True
) -> None:
    """Send the log to the terminal, and keep what is written to it for pages.

    A second call changes level and stream; streams are watched once.

    Args:
        log_level: "DEBUG", "INFO", "WARNING", "ERROR" or "CRITICAL".
        use_stdout: Log to standard output; else to standard error.
        keep_writes: Whether anything is kept.

    Raises:
        ValueError: There is no such level.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        # A program without a terminal may have no streams.
        if keep_writes and stream is not None and not isinstance(stream, WatchedStream):
            setattr(sys, name, WatchedStream(stream, _writes))
    root = logging.getLogger()
    root.setLevel(log_level)
    for old in [one for one in root.handlers if isinstance(one, TerminalHandler)]:
        root.removeHandler(old)
    handler = TerminalHandler("stdout" if use_stdout else "stderr")
    handler.setFormatter(logging.Formatter("%(message)s"))
    root.addHandler(handler)


def get_logs() -> list[Entry]:
    """The last writes to standard output and error, oldest first."""
    return _writes.entries()


def on_flush(callback: Listener) -> None:
    """Call a function whenever something new was written and flushed.

    Args:
        callback: Gets the new entries; if it raises, it is not called again.
    """
    _writes.listen(callback)

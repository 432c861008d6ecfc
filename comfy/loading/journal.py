"""The journal of a Loader: what became of each file, while it is read and afterwards.

Pages and metrics show it. It holds numbers and texts only: no file stays open, and no tensor stays
in memory, because its name stands here.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from comfy.loading.errors import LoadError
from comfy.loading.usage import Gauge, MemoryReport, PeakSampler, sample

MOST_FILES = 256
# Below this a thread that samples memory costs more than what it sees is worth.
SAMPLED_FROM_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Work:
    """Bytes of one file on their way.

    Attributes:
        done: Bytes that have been read.
        total: Bytes that are to be read; 0 if unknown.
        seconds: Since it began.
    """

    done: int
    total: int
    seconds: float


@dataclass(frozen=True, slots=True)
class FileEntry:
    """What the journal knows of one file.

    Attributes:
        path: Of the file.
        report: Of the load that opened it last; None if none ended well.
        loads: How often it was opened.
        bytes_read: Weight bytes read from it, in all.
        seconds: In which they were read, each second once however many read at a time.
        peak_host: The most that this process's memory grew by while it was opened or brought home
            since it was opened last, in bytes.
        peak_device: The same of device memory, where that is not the host's.
        work: What is read now, or None.
        problem: Why the last attempt failed; empty if it did not.
    """

    path: str
    report: MemoryReport | None
    loads: int
    bytes_read: int
    seconds: float
    peak_host: int
    peak_device: int
    work: Work | None
    problem: str


@dataclass(frozen=True, slots=True)
class LoadTotal:
    """Loads of one strategy since the start.

    Attributes:
        count: How many ended well.
        seconds: What they took together.
    """

    count: int = 0
    seconds: float = 0.0


class _Problem(NamedTuple):
    """What went wrong with which file, all of them if None; no text if nothing did."""

    path: str | None
    text: str


class _Account:
    """The entry of one file while it can still change; see `FileEntry`."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.report: MemoryReport | None = None
        self.loads = 0
        self.seconds = 0.0
        self.peak_host = self.peak_device = 0
        self.problem = ""
        self.users = 0
        self.began = 0.0
        self.read_before = 0
        self.total = 0


class Journal:
    """Kept by a Loader and its Mover.

    Note:
        All methods may be called from several threads.
    """

    def __init__(
        self, bytes_read: Callable[[str], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Begin an empty one.

        Args:
            bytes_read: Tells how many weight bytes of a path were ever read.
            clock: Seconds.
        """
        self._bytes_read = bytes_read
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: OrderedDict[str, _Account] = OrderedDict()
        self._totals: dict[str, LoadTotal] = {}
        self._failures = 0

    @property
    def is_busy(self) -> bool:
        """Whether anything is read now."""
        with self._lock:
            return any(one.users for one in self._accounts.values())

    @property
    def failures(self) -> int:
        """How many loads failed."""
        return self._failures

    def totals(self) -> dict[str, LoadTotal]:
        """Loads that ended well, by strategy."""
        with self._lock:
            return dict(self._totals)

    def entries(self) -> list[FileEntry]:
        """All files that are remembered, the one opened last at the end."""
        now = self._clock()
        with self._lock:
            return [self._entry(one, now) for one in self._accounts.values()]

    @contextlib.contextmanager
    def working(
        self, sizes: Mapping[str, int], device_bytes: Gauge | None = None, *, watched: bool = False
    ) -> Iterator[None]:
        """Say that files are read until the context ends.

        Args:
            sizes: How many bytes are to be read, by path; 0 if that is unknown.
            device_bytes: Tells the device memory in use; None where it is the host's.
            watched: Sample memory meanwhile, if there is much to read.
        """
        self._begin(sizes)
        is_large = watched and sum(sizes.values()) >= SAMPLED_FROM_BYTES
        # Nothing is known of how it ended if an error comes that is not of our kind.
        problem: _Problem | None = None
        try:
            if is_large:
                with self._sampling(sizes, device_bytes):
                    yield
            else:
                yield
            problem = _Problem(None, "")
        except LoadError as err:
            problem = _Problem(err.path, _text(err))
            raise
        finally:
            self._end(sizes, problem)

    def expect(self, path: str, total: int) -> None:
        """Note how many bytes of a file that is being read there are to read."""
        with self._lock:
            account = self._accounts.get(path)
            if account is not None and account.users:
                account.total = max(account.total, total)

    def note_load(self, report: MemoryReport, paths: Collection[str]) -> None:
        """Note a load that ended well.

        Args:
            report: What it did.
            paths: The files that it opened; several for one checkpoint in shards.
        """
        host = max(0, report.peak.host - report.before.host)
        device = max(0, report.peak.device - report.before.device)
        with self._lock:
            for path in paths:
                account = self._account(path)
                account.report, account.problem = replace(report, path=path), ""
                account.loads += 1
                account.peak_host, account.peak_device = host, device
                self._accounts.move_to_end(path)
            before = self._totals.get(report.strategy, LoadTotal())
            total = LoadTotal(before.count + 1, before.seconds + report.seconds)
            self._totals[report.strategy] = total
            self._forget_oldest()

    def note_failure(self, path: str, error: LoadError) -> None:
        """Note a load that failed."""
        with self._lock:
            self._account(os.path.abspath(path)).problem = _text(error)
            self._failures += 1
            self._forget_oldest()

    @contextlib.contextmanager
    def _sampling(self, paths: Collection[str], device_bytes: Gauge | None) -> Iterator[None]:
        before = sample(device_bytes)
        sampler = PeakSampler(device_bytes=device_bytes)
        try:
            with sampler:
                yield
        finally:
            host = max(0, sampler.peak.host - before.host)
            device = max(0, sampler.peak.device - before.device)
            with self._lock:
                for path in paths:
                    account = self._account(path)
                    account.peak_host = max(account.peak_host, host)
                    account.peak_device = max(account.peak_device, device)

    def _begin(self, sizes: Mapping[str, int]) -> None:
        now = self._clock()
        with self._lock:
            for path, nbytes in sizes.items():
                account = self._account(path)
                if not account.users:
                    account.began, account.total = now, 0
                    account.read_before = self._bytes_read(path)
                account.users += 1
                account.total += nbytes

    def _end(self, paths: Collection[str], problem: _Problem | None) -> None:
        now = self._clock()
        with self._lock:
            for path in paths:
                account = self._account(path)
                account.users -= 1
                if problem is not None and problem.path in (None, path):
                    account.problem = problem.text
                # Opening a file whose weights stay there reads none, and says nothing of speed.
                if not account.users and self._bytes_read(path) > account.read_before:
                    account.seconds += now - account.began
            self._forget_oldest()

    def _account(self, path: str) -> _Account:
        if path not in self._accounts:
            self._accounts[path] = _Account(path)
        return self._accounts[path]

    def _forget_oldest(self) -> None:
        spare = len(self._accounts) - MOST_FILES
        if spare > 0:
            idle = [path for path, one in self._accounts.items() if not one.users]
            for path in idle[:spare]:
                del self._accounts[path]

    def _entry(self, account: _Account, now: float) -> FileEntry:
        read = self._bytes_read(account.path)
        work = None
        seconds = account.seconds
        if account.users:
            work = Work(read - account.read_before, account.total, now - account.began)
            seconds += work.seconds if work.done else 0.0
        return FileEntry(
            path=account.path,
            report=account.report,
            loads=account.loads,
            bytes_read=read,
            seconds=seconds,
            peak_host=account.peak_host,
            peak_device=account.peak_device,
            work=work,
            problem=account.problem,
        )


def _text(error: LoadError) -> str:
    """What an error says beside the name of the file."""
    return " ".join(part for part in (error.message, error.hint) if part)

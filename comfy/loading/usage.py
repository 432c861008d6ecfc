"""What a load really took: samples of this process's memory, their peak, and the report of a load."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import threading
import weakref
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any

import psutil

logger = logging.getLogger(__name__)

MIB = 1 << 20

Gauge = Callable[[], int]
"""Tells a number of bytes, now."""

_STATUS = "/proc/self/status"
_STATUS_BYTES = 8192


@dataclass(frozen=True, slots=True)
class MemorySample:
    """Memory at one moment, in bytes.

    Attributes:
        rss_anon: Private memory of this process: tensors, mostly.
        rss_file: Pages of mapped files that this process has touched; part of the page cache.
        rss_shmem: Shared memory; memory that is page-locked for a device counts here.
        device: Device memory; 0 where nobody told how to read it.
        cached: What the page cache holds of the file; 0 where nobody told how to read it.
    """

    rss_anon: int = 0
    rss_file: int = 0
    rss_shmem: int = 0
    device: int = 0
    cached: int = 0

    @property
    def host(self) -> int:
        """All of this process's resident memory."""
        return self.rss_anon + self.rss_file + self.rss_shmem

    @property
    def total(self) -> int:
        """Host and device; the page cache is left out, since mapped pages would count twice."""
        return self.host + self.device


def sample(device_bytes: Gauge | None = None, cached: Gauge | None = None) -> MemorySample:
    """Measure now.

    Args:
        device_bytes: Tells the device memory in use.
        cached: Tells what the page cache holds of the file.
    """
    with _ResidentMemory() as resident:
        return _sample(resident, device_bytes, cached)


def _sample(
    resident: _ResidentMemory, device_bytes: Gauge | None, cached: Gauge | None
) -> MemorySample:
    device = device_bytes() if device_bytes else 0
    return MemorySample(*resident.read(), device, cached() if cached else 0)


class _ResidentMemory:
    """Reads this process's resident memory again and again, through one descriptor."""

    def __init__(self) -> None:
        self._raw: io.FileIO | None = None

    def __enter__(self) -> _ResidentMemory:
        with contextlib.suppress(OSError):
            self._raw = io.FileIO(_STATUS, "rb")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._raw is not None:
            self._raw.close()
            self._raw = None

    def read(self) -> tuple[int, int, int]:
        """Anonymous, file-backed and shared resident bytes; all in the first where unknown."""
        if self._raw is None:
            return int(psutil.Process().memory_info().rss), 0, 0
        text = os.pread(self._raw.fileno(), _STATUS_BYTES, 0)
        return _field(text, b"RssAnon:"), _field(text, b"RssFile:"), _field(text, b"RssShmem:")


def _field(text: bytes, name: bytes) -> int:
    start = text.find(name)
    return int(text[start + len(name) :].split(None, 1)[0]) * 1024 if start >= 0 else 0


class PeakSampler:
    """Samples memory from a thread of its own, from entering to leaving.

    Attributes:
        peak: The highest value of each field, each at its own moment.
        peak_total: The highest total of one moment, in bytes.
        failure: What ended the sampling early, or None.

    Note:
        A sample costs some ten microseconds. Peaks shorter than the interval can be missed.
    """

    def __init__(
        self,
        interval_s: float = 0.01,
        device_bytes: Gauge | None = None,
        cached: Gauge | None = None,
    ) -> None:
        self.peak = MemorySample()
        self.peak_total = 0
        self.failure: Exception | None = None
        self._gauges = (device_bytes, cached)
        self._resident = _ResidentMemory()
        self._ended = threading.Event()
        # Weakly: a sampler that an interrupt kept from leaving must not sample for ever.
        work = weakref.ref(self), self._ended, interval_s
        self._thread = threading.Thread(
            target=_sample_until, args=work, name="memory-sampler", daemon=True
        )

    def __enter__(self) -> PeakSampler:
        self._resident.__enter__()
        self._measure()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        try:
            self._thread.join()
            self._measure()
        finally:
            self._resident.__exit__()

    def _measure(self) -> None:
        if self.failure is not None:
            return
        try:
            now = _sample(self._resident, *self._gauges)
        except Exception as err:  # noqa: BLE001 - measuring must not end a load; kept and logged
            self.failure = err
            logger.debug("memory is no longer sampled: %s", err)
            return
        self.peak = MemorySample(
            max(self.peak.rss_anon, now.rss_anon),
            max(self.peak.rss_file, now.rss_file),
            max(self.peak.rss_shmem, now.rss_shmem),
            max(self.peak.device, now.device),
            max(self.peak.cached, now.cached),
        )
        self.peak_total = max(self.peak_total, now.total)


def _sample_until(
    reference: weakref.ref[PeakSampler], ended: threading.Event, interval_s: float
) -> None:
    while not ended.wait(interval_s):
        sampler = reference()
        if sampler is None or sampler.failure is not None:
            return
        sampler._measure()
        del sampler


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What one load did and took.

    Attributes:
        path: The file.
        strategy: Name of the strategy that ran.
        row: Row of the decision table; 0 if the user named the strategy.
        reasons: Why this strategy, in words.
        before: Memory before the load.
        peak: Highest values during the load.
        after: Memory after the load.
        bytes_read: Weight bytes read from the file.
        bytes_uploaded: Weight bytes copied to a device.
        seconds: Time that the load took.
        file_bytes: Size of the file.
        cached_before: Bytes of the file in the page cache before; None if unknown.
        cached_after: The same after the load.
    """

    path: str
    strategy: str
    row: int
    reasons: tuple[str, ...]
    before: MemorySample
    peak: MemorySample
    after: MemorySample
    bytes_read: int
    bytes_uploaded: int
    seconds: float
    file_bytes: int
    cached_before: int | None = None
    cached_after: int | None = None

    def line(self) -> str:
        """Tell it all in one line, for the log."""
        why = ", ".join(self.reasons)
        if self.row:
            why = f"row {self.row}: {why}" if why else f"row {self.row}"
        host = max(0, self.peak.host - self.before.host) / MIB
        device = max(0, self.peak.device - self.before.device) / MIB
        parts = [
            f"{os.path.basename(self.path)}: {self._work()}",
            f"{self.strategy} ({why})" if why else self.strategy,
            f"peak +{host:.0f} MiB host",
            f"+{device:.0f} MiB device",
        ]
        if self.cached_before is not None and self.cached_after is not None:
            before, after = self._share(self.cached_before), self._share(self.cached_after)
            parts.append(f"cache {before:.0f} % -> {after:.0f} %")
        return ", ".join(parts)

    def _work(self) -> str:
        if not self.bytes_read:
            return f"{in_words(self.file_bytes)} in {self.seconds:.2f} s (nothing read yet)"
        rate = self.bytes_read / 1e9 / max(self.seconds, 1e-9)
        return f"{in_words(self.bytes_read)} in {self.seconds:.2f} s ({rate:.2f} GB/s)"

    def _share(self, cached: int) -> float:
        # The cache counts whole pages, so a small file can seem to be cached more than once.
        return min(100.0, 100 * cached / self.file_bytes) if self.file_bytes else 0.0

    def to_json(self) -> dict[str, Any]:
        """Make plain values of it, for ``json.dump``."""
        return {**asdict(self), "reasons": list(self.reasons)}


def in_words(nbytes: int) -> str:
    """Write a size in the unit that suits it, for example "5.86 GiB"."""
    for unit, size in (("GiB", 1 << 30), ("MiB", MIB), ("KiB", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.2f} {unit}"
    return f"{nbytes} bytes"

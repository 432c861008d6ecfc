"""One measurement, in a process of its own: prepare, say "ready", wait for "go", load, report.

The parent (`runs`) speaks JSON lines with it: a `Job` in, a `Result` out. Everything that is not
the load happens before the clock starts: imports, the device's context, touching buffers.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TextIO

import psutil

if sys.platform != "win32":
    import resource

_IO_FILE = "/proc/self/io"
_STATUS_FILE = "/proc/self/status"
_CLEAR_FILE = "/proc/self/clear_refs"
_RESET_PEAK = "5"


@dataclass(frozen=True, slots=True)
class Job:
    """What to load, and how.

    Attributes:
        target: "module:function"; called with the job, it prepares and returns the load.
        path: What one loads: a file, or the index of shards.
        files: All files that hold weights.
        sizes: Bytes of each weight.
        device: Where the weights shall be, as torch writes it.
        setup: "module:function" to call first, or "".
        arguments: For the target.
    """

    target: str
    path: str
    files: tuple[str, ...]
    sizes: tuple[int, ...] = ()
    device: str = "cpu"
    setup: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Read what the parent sent."""
        values = json.loads(text)
        return cls(**{**values, "files": tuple(values["files"]), "sizes": tuple(values["sizes"])})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a load left.

    Attributes:
        tensors: Kept alive until the process ends; names to tensors if they can be compared.
        nbytes: Bytes that the caller can use now.
        notes: More to tell.
        device_peak: Tells the most device memory that was in use; None if it is host memory.
        digest: Tells what the tensors hold, after the clock has stopped; None if unknown.
    """

    tensors: Any = None
    nbytes: int = 0
    notes: Mapping[str, Any] = field(default_factory=dict)
    device_peak: Callable[[], int] | None = None
    digest: Callable[[], str] | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """What one measurement found.

    Attributes:
        seconds: From "go" until every weight could be used.
        nbytes: Bytes of weights that can be used.
        cpu_s: CPU time, user and system, all threads.
        major_faults: Page faults that waited for the disk.
        switches: Context switches, voluntary and not.
        disk_bytes: Read from storage by this process; None if the system does not tell.
        baseline_bytes: Resident memory before.
        peak_bytes: Highest resident memory during the load.
        device_peak_bytes: Highest device memory; 0 where that is resident memory.
        notes: What the load tells about itself.
    """

    seconds: float
    nbytes: int
    cpu_s: float
    major_faults: int
    switches: int
    disk_bytes: int | None
    baseline_bytes: int
    peak_bytes: int
    device_peak_bytes: int
    notes: Mapping[str, Any]


def resolve(target: str) -> Any:
    """Import what "module:name" names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


class _Meter:
    """Counts what happens between its making and `result`."""

    def __init__(self) -> None:
        self._resettable = _reset_peak()
        self._baseline = _status("VmRSS") or _resident()
        self._usage = _usage()
        self._disk = _disk_bytes()
        self._started = time.perf_counter()

    def result(self, outcome: Outcome) -> Result:
        seconds = time.perf_counter() - self._started
        cpu, faults, switches = (
            now - then for now, then in zip(_usage(), self._usage, strict=True)
        )
        disk = _disk_bytes()
        peak = _status("VmHWM") if self._resettable else _peak_since_start()
        return Result(
            seconds=seconds,
            nbytes=outcome.nbytes,
            cpu_s=cpu,
            major_faults=int(faults),
            switches=int(switches),
            disk_bytes=None if disk is None or self._disk is None else disk - self._disk,
            baseline_bytes=self._baseline,
            peak_bytes=peak or _resident(),
            device_peak_bytes=outcome.device_peak() if outcome.device_peak else 0,
            notes=outcome.notes,
        )


def _reset_peak() -> bool:
    """Let the kernel's high-water mark begin here; it misses no peak, however short."""
    try:
        with open(_CLEAR_FILE, "w") as file:
            file.write(_RESET_PEAK)
    except OSError:
        return False
    return True


def _status(name: str) -> int:
    """A field of the process's status, in bytes; 0 if there is none."""
    with contextlib.suppress(OSError), open(_STATUS_FILE) as file:
        for line in file:
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0


def _resident() -> int:
    return int(psutil.Process().memory_info().rss)


def _peak_since_start() -> int:
    """For systems without a mark that can be reset: imports are part of it, and lie below it."""
    memory = psutil.Process().memory_info()
    if sys.platform == "win32":  # pragma: no cover
        return int(memory.peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def _usage() -> tuple[float, int, int]:
    """CPU seconds, major faults, context switches."""
    if sys.platform == "win32":  # pragma: no cover
        return time.process_time(), 0, 0
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_majflt, used.ru_nvcsw + used.ru_nivcsw


def _disk_bytes() -> int | None:
    with contextlib.suppress(OSError), open(_IO_FILE) as file:
        for line in file:
            if line.startswith("read_bytes:"):
                return int(line.split()[1])
    return None


def _converse(source: TextIO, say: Callable[[Mapping[str, Any]], None]) -> None:
    job = Job.from_json(source.readline())
    if job.setup:
        resolve(job.setup)()
    act = resolve(job.target)(job)
    say({"ready": True})
    if source.readline().strip() != "go":
        return
    meter = _Meter()
    outcome = act()
    say({"result": asdict(meter.result(outcome))})
    # The parent looks at the page cache now, while everything is still held.
    for request in source:
        if request.strip() != "digest":
            return
        say({"digest": outcome.digest() if outcome.digest else None})


def main(arguments: Sequence[str] = ()) -> int:
    """Talk with the parent on standard input and output; what libraries print goes to stderr."""
    sys.stdout.flush()
    private = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)

    def say(message: Mapping[str, Any]) -> None:
        private.write(json.dumps(message) + "\n")
        private.flush()

    try:
        _converse(sys.stdin, say)
    except BrokenPipeError:
        return 1  # the parent is gone, and with it everybody who would want to know
    except Exception as err:  # noqa: BLE001 - whatever a loader raises is the measurement's result
        traceback.print_exc()
        say({"failure": f"{type(err).__name__}: {err}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

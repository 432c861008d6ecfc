"""Peak memory of a piece of code, measured from outside, with a limit if wanted.

The code runs in a subprocess of its own, so that nothing else is in the figures, in a memory
control group of its own where the system allows it, so that page cache is in them too.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import selectors
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

from support import census
from support.cgroup import MemoryGroup, cgroup_reason, new_group
from support.environments import without_settings

__all__ = ["Measured", "MemoryGroup", "cgroup_reason", "new_group", "run_measured"]

SAMPLE_S = 0.005
_SUPPORT = Path(__file__).resolve().parent
_ROOTS = (_SUPPORT.parent.parent, _SUPPORT.parent)
# The shell puts the process into the group before Python starts: its pages count from the first.
_ENTER = ("/bin/sh", "-c", 'echo $$ > "$0" && exec "$@"')


@dataclass(frozen=True, slots=True)
class Measured:
    """What a piece of code cost. All sizes in bytes; RSS is anonymous + file + shared memory.

    Attributes:
        baseline_bytes: RSS after imports, before the code ran.
        peak_bytes: The largest RSS of all samples while it ran.
        after_bytes: RSS when it had run and its objects were still alive.
        hwm_bytes: The largest RSS as the kernel saw it; includes the imports where the system
            does not allow to reset it.
        group_baseline_bytes: The control group's usage before the code ran; None without one.
        group_peak_bytes: The group's peak while it ran, page cache included.
        seconds: How long the code took.
        returncode: Of the subprocess; -9 if it was killed.
        killed_for_memory: Whether the group's limit killed it.
        result: What the code left, through JSON.
        error: Name of the type of the exception it raised, or None.
        message: Text of that exception.
        output: What the subprocess printed, tracebacks included.
    """

    baseline_bytes: int
    peak_bytes: int
    after_bytes: int
    hwm_bytes: int
    group_baseline_bytes: int | None = None
    group_peak_bytes: int | None = None
    seconds: float = 0.0
    returncode: int = 0
    killed_for_memory: bool = False
    result: Any = None
    error: str | None = None
    message: str = ""
    output: str = ""

    @property
    def peak_over_baseline_bytes(self) -> int:
        """What the code added to the process at its worst moment."""
        return max(self.peak_bytes, self.hwm_bytes) - self.baseline_bytes

    @property
    def after_over_baseline_bytes(self) -> int:
        """What the code left in the process."""
        return self.after_bytes - self.baseline_bytes

    @property
    def group_peak_over_baseline_bytes(self) -> int | None:
        """What the code added to the group at its worst moment, page cache included."""
        if self.group_peak_bytes is None or self.group_baseline_bytes is None:
            return None
        return self.group_peak_bytes - self.group_baseline_bytes

    def succeeded(self) -> Measured:
        """Return itself, or raise with what the subprocess printed."""
        if self.error is not None or self.returncode != 0:
            raise AssertionError(
                f"the measured code failed (exit status {self.returncode}, {self.error}: "
                f"{self.message})\n{self.output}"
            )
        return self


class _Killed(Exception):
    """The subprocess ended before it said what was expected."""


class _Child:
    """The subprocess and the two pipes to it."""

    def __init__(self, spec: dict[str, Any], output: IO[str], group: MemoryGroup | None) -> None:
        orders_in, orders_out = os.pipe()
        reports_in, reports_out = os.pipe()
        spec = {**spec, "orders": orders_in, "reports": reports_out}
        command = [sys.executable, "-m", "support.measured_child", json.dumps(spec)]
        if group is not None:
            command = [*_ENTER, str(group.procs), *command]
        environment = without_settings()
        environment["PYTHONPATH"] = os.pathsep.join(map(str, _ROOTS))
        environment.update(spec["environment"])
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(orders_in, reports_out),
            env=environment,
        )
        os.close(orders_in)
        os.close(reports_out)
        self._orders = os.fdopen(orders_out, "w", buffering=1)
        self._reports = os.fdopen(reports_in, "r")

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._orders.close()
        self._reports.close()
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def order(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._orders.write("\n")

    def report(self, deadline: float, tick: Callable[[], None] | None = None) -> str:
        """Wait for a line, calling `tick` every few milliseconds meanwhile."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._reports, selectors.EVENT_READ)
            while not selector.select(SAMPLE_S if tick else 0.25):
                if time.monotonic() > deadline:
                    raise TimeoutError("the measured code took too long")
                if tick:
                    tick()
        line = self._reports.readline()
        if not line:
            raise _Killed
        return line


def _describe(
    code: str | Callable[..., object], setup: str, arguments: Mapping[str, object]
) -> dict[str, Any]:
    spec: dict[str, Any] = {"file": None, "function": None, "arguments": dict(arguments)}
    if isinstance(code, str):
        return {**spec, "setup": textwrap.dedent(setup), "body": textwrap.dedent(code)}
    return {**spec, **_named(code)}


def _named(function: Callable[..., object]) -> dict[str, str]:
    if function.__qualname__ != function.__name__:
        raise ValueError(f"{function.__qualname__} is not at the top level of its module")
    return {"file": inspect.getfile(function), "function": function.__name__}


@contextlib.contextmanager
def _group_if(wanted: bool) -> Iterator[MemoryGroup | None]:
    if not wanted:
        yield None
        return
    with new_group() as group:
        yield group


def _reset_hwm(pid: int) -> None:
    # Needs a kernel with CONFIG_PROC_PAGE_MONITOR; the imports' peak is lower than any load's.
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/clear_refs").write_text("5")


def _watch(
    child: _Child, group: MemoryGroup | None, limit_bytes: int | None, deadline: float
) -> Measured:
    """Lead the child through its protocol and count."""
    pid = child.process.pid
    child.report(deadline)
    _reset_hwm(pid)
    before = census.memory(pid)
    figures = Measured(before.total, before.total, before.total, before.hwm)
    if group is not None:
        group.reset_peak()
        usage = group.usage_bytes()
        figures = replace(figures, group_baseline_bytes=usage)
        if limit_bytes is not None:
            group.set_limit(usage + limit_bytes)
    peak = before.total
    hwm = before.hwm

    def tick() -> None:
        nonlocal peak, hwm
        # A killed process has no memory to count any more.
        with contextlib.suppress(OSError, KeyError):
            now = census.memory(pid)
            peak, hwm = max(peak, now.total), max(hwm, now.hwm)

    child.order()
    try:
        report = json.loads(child.report(deadline, tick))
    except _Killed:
        return replace(figures, peak_bytes=peak, hwm_bytes=hwm, error="Killed")
    tick()
    after = census.memory(pid)
    return replace(
        figures,
        peak_bytes=peak,
        hwm_bytes=hwm,
        after_bytes=after.total,
        seconds=report["seconds"],
        result=report["result"],
        error=report["error"],
        message=report.get("message", ""),
        output=report["traceback"],
    )


def _conduct(
    spec: dict[str, Any], use_group: bool, limit_bytes: int | None, deadline: float
) -> Measured:
    """Start the subprocess, watch it to its end, and clean up after it."""
    with tempfile.TemporaryFile("w+") as output, _group_if(use_group) as group:
        child = _Child(spec, output, group)
        try:
            figures = _watch(child, group, limit_bytes, deadline)
            child.order()
            child.process.wait(timeout=max(1.0, deadline - time.monotonic()))
        except _Killed:
            figures = Measured(0, 0, 0, 0, error="Killed", message="it ended while importing")
        finally:
            child.close()
        if group is not None:
            figures = replace(
                figures,
                group_peak_bytes=group.peak_bytes(),
                killed_for_memory=group.kills() > 0,
            )
        output.seek(0)
        printed = output.read() + figures.output
    return replace(figures, returncode=child.process.returncode, output=printed)


def run_measured(
    code: str | Callable[..., object],
    *,
    setup: str = "",
    arguments: Mapping[str, object] | None = None,
    before: Callable[..., object] | None = None,
    before_arguments: Mapping[str, object] | None = None,
    in_group: bool | None = None,
    limit_over_baseline_bytes: int | None = None,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = 240.0,
) -> Measured:
    """Run code in a subprocess and measure its memory from outside.

    Args:
        code: A function at the top level of a module, called with `arguments`, whose module is
            loaded before the measurement begins; or source text, which sees `arguments` as
            ``args`` and leaves what it has to say in ``result``.
        setup: Source text run before the measurement begins; only with source text.
        arguments: Simple values, passed through JSON.
        before: A function, as above, called before the measurement begins: what it leaves in the
            process and in the group, pages of libraries that it is the first to touch among it,
            belongs to the baselines.
        before_arguments: Its arguments.
        in_group: Whether to use a memory control group; None uses one where it can be had.
        limit_over_baseline_bytes: Limit of the group above its usage after imports.
        environment: Added to the subprocess's.
        timeout_s: After this the subprocess is ended.

    Raises:
        RuntimeError: If a group is wanted and `cgroup_reason` says no.
        TimeoutError: If it takes too long.
    """
    spec = _describe(code, setup, arguments or {})
    if before is not None:
        spec["before"] = {**_named(before), "arguments": dict(before_arguments or {})}
    spec["environment"] = dict(environment or {})
    use_group = cgroup_reason() is None if in_group is None else in_group
    if limit_over_baseline_bytes is not None and not use_group:
        raise RuntimeError(f"no limit without a control group: {cgroup_reason()}")
    return _conduct(spec, use_group, limit_over_baseline_bytes, time.monotonic() + timeout_s)

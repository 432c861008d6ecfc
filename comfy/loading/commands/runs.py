"""Running contestants fairly: one process each, in random order, in a state that was checked.

A run whose files were not cold (below 1 % in the page cache) or warm (above 99 %) when it began is
discarded, and that is told.
"""

from __future__ import annotations

import json
import os
import queue
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

import comfy.loading
from comfy.loading.commands.cache_states import (
    State,
    make_cold,
    make_warm,
    reached,
    residency,
)
from comfy.loading.commands.contestants import Contestant
from comfy.loading.commands.one_run import Job, Result

TIMEOUT_S = 600.0
# Some disks, those of virtual machines above all, are faster after a pause; all get the same one.
REST_S = 1.5
_START_TIMEOUT_S = 120.0
_CHILD = "comfy.loading.commands.one_run"
_ERROR_LINES = 3
# Of the user's settings these would make two runs differ from what the table says.
_OWN_VARIABLES = "COMFY_"


@dataclass(frozen=True, slots=True)
class Target:
    """A checkpoint that is loaded again and again.

    Attributes:
        path: What one loads.
        files: All files that hold weights.
        sizes: Bytes of each weight.
    """

    path: str
    files: tuple[str, ...]
    sizes: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Of all weights."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement and what was around it.

    Attributes:
        path: What was loaded.
        contestant: Its name.
        kind: Its kind.
        device: Where the weights went.
        is_private: See `Contestant`.
        maps: See `Contestant`.
        state: What was wanted of the page cache.
        round: Number, from 0.
        result: None if it failed or was discarded.
        problem: Why there is no result.
        was_discarded: The state was wrong; otherwise a run without result has failed.
        cached_before: Share in the page cache at the start; None if unknown.
        cached_left: Share right after the load, everything still held.
        cached_after_exit: Share after the process ended.
        others_share: Share of all CPUs that other programs used meanwhile.
        digest: What the tensors hold, where that was asked for.
    """

    path: str
    contestant: str
    kind: str
    device: str
    is_private: bool
    maps: bool
    state: State
    round: int
    result: Result | None = None
    problem: str = ""
    was_discarded: bool = False
    cached_before: float | None = None
    cached_left: float | None = None
    cached_after_exit: float | None = None
    others_share: float = 0.0
    digest: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Make plain values of it."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Step:
    """One run that is to be made."""

    target: Target
    contestant: Contestant
    state: State
    round: int
    wants_digest: bool = field(default=False)


def schedule(
    targets: Sequence[Target],
    contestants: Sequence[Contestant],
    states: Sequence[State],
    rounds: int,
    *,
    seed: int = 0,
    compare_bytes: bool = True,
) -> list[Step]:
    """Plan all runs: rounds outermost, and the order of contestants random within each.

    Args:
        targets: What to load; ceilings are measured for each.
        contestants: What to measure; disks only where the files are cold.
        states: Which states.
        rounds: How often.
        seed: Of the order.
        compare_bytes: Have loaders fingerprint what they loaded, in the first round.
    """
    generator = random.Random(seed)
    steps = []
    for number in range(rounds):
        for target in targets:
            for state in states:
                entries = [one for one in contestants if one.kind != "disk" or state == "cold"]
                generator.shuffle(entries)
                steps += [
                    Step(
                        target,
                        one,
                        state,
                        number,
                        compare_bytes and number == 0 and not one.is_ceiling,
                    )
                    for one in entries
                ]
    return steps


def run_once(step: Step, *, timeout_s: float = TIMEOUT_S, rest_s: float = REST_S) -> Run:
    """Bring the files into their state, and measure one contestant in a process of its own.

    Args:
        step: What to run. Stopping half-way leaves no process.
        timeout_s: After this the process is ended.
        rest_s: The load begins at least so long after the call.
    """
    one, target = step.contestant, step.target
    rested = time.perf_counter() + rest_s
    about: dict[str, Any] = {
        "path": target.path,
        "contestant": one.name,
        "kind": one.kind,
        "device": one.device,
        "is_private": one.is_private,
        "maps": one.maps,
        "state": step.state,
        "round": step.round,
    }
    job = Job(
        one.target, target.path, target.files, target.sizes, one.device, one.setup, one.arguments
    )
    try:
        with _Child(job) as child:
            child.expect("ready", _START_TIMEOUT_S)
            time.sleep(max(0.0, rested - time.perf_counter()))
            (make_cold if step.state == "cold" else make_warm)(target.files)
            before = residency(target.files)
            about["cached_before"] = before
            # What memory has to give does not depend on the files.
            if reached(step.state, before) is False and one.kind != "memory":
                return Run(**about, problem=_wrong_state(step.state, before), was_discarded=True)
            others = _OtherPrograms()
            child.say("go")
            result = Result(**child.expect("result", timeout_s))
            about["others_share"] = others.share(result.cpu_s)
            # What `auto` leaves is known only now.
            is_mapped = bool(result.notes.get("mapped", False))
            about["is_private"] = one.is_private and not is_mapped
            about["maps"] = one.maps or is_mapped
            left = residency(target.files)
            digest = None
            if step.wants_digest:
                child.say("digest")
                digest = child.expect("digest", timeout_s)
        after = residency(target.files)
    except _ChildFailed as err:
        return Run(**about, problem=str(err))
    return Run(**about, result=result, cached_left=left, cached_after_exit=after, digest=digest)


def _wrong_state(state: State, share: float | None) -> str:
    why = "another process has it mapped" if state == "cold" else "memory is short"
    return f"not {state}: {share:.1%} of the file in the page cache (perhaps {why})"


class _OtherPrograms:
    """The CPU time that programs other than the measured one take."""

    def __init__(self) -> None:
        self._busy = _busy_s()
        self._started = time.perf_counter()

    def share(self, own_s: float) -> float:
        """Tell what share of all CPUs it was since the object was made."""
        elapsed = max(1e-9, time.perf_counter() - self._started)
        others = _busy_s() - self._busy - own_s
        return min(1.0, max(0.0, others / elapsed / (psutil.cpu_count() or 1)))


def _busy_s() -> float:
    """CPU seconds of all programs since the machine started; a hypervisor's other guests count."""
    times = psutil.cpu_times()._asdict()
    idle = ("idle", "iowait", "guest", "guest_nice")
    return float(sum(value for name, value in times.items() if name not in idle))


class _ChildFailed(Exception):
    """The measuring process ended, said that it failed, or took too long."""


class _Child:
    """A measuring process and the conversation with it; ends with the context."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()

    def __enter__(self) -> _Child:
        self._errors = tempfile.TemporaryFile("w+", errors="replace")
        self._process = subprocess.Popen(
            [sys.executable, "-m", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            bufsize=1,
            env=_environment(os.environ),
            # Ctrl-C reaches only the parent, which then ends this process.
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.say(json.dumps(asdict(self._job)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._process.stdin is not None
        if error is not None:
            self._process.kill()
        try:
            self._process.stdin.close()
        except OSError:
            self._process.kill()
        try:
            self._process.wait(timeout=_START_TIMEOUT_S)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        finally:
            self._reader.join()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._errors.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def say(self, text: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(text + "\n")
            self._process.stdin.flush()
        except OSError as err:
            raise _ChildFailed(self._last_words()) from err

    def expect(self, key: str, timeout_s: float) -> Any:
        """Wait for a message.

        Raises:
            _ChildFailed: If another one comes, or none.
        """
        try:
            line = self._lines.get(timeout=timeout_s)
        except queue.Empty:
            raise _ChildFailed(f"it took more than {timeout_s:.0f} s") from None
        if not line:
            raise _ChildFailed(self._last_words())
        message: Mapping[str, Any] = json.loads(line)
        if key not in message:
            raise _ChildFailed(str(message.get("failure", line.strip())))
        return message[key]

    def _last_words(self) -> str:
        code = self._process.wait()
        self._errors.seek(0)
        lines = [line.strip() for line in self._errors if line.strip()]
        told = " / ".join(lines[-_ERROR_LINES:])
        how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
        return f"{how}{f': {told}' if told else ''}"


def _environment(parent: Mapping[str, str]) -> dict[str, str]:
    """The parent's, without the user's loading flags, and able to find this package."""
    kept = {name: value for name, value in parent.items() if not name.startswith(_OWN_VARIABLES)}
    root = str(Path(comfy.loading.__file__).parents[2])
    others = [path for path in sys.path if path]
    kept["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([root, *others]))
    return kept

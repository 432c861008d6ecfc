"""From runs to a table: medians, shares of what the machine allows, and what bounds each load."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from comfy.loading.commands.cache_states import State
from comfy.loading.commands.runs import Run

# Shares from which on a load is said to be as fast as what bounds it.
DISK_TARGET = 0.85
MEMORY_TARGET = 0.80
# Above this, other programs take so much of the CPUs that figures say little.
QUIET_SHARE = 0.15
_ITSELF = "itself"


@dataclass(frozen=True, slots=True)
class Score:
    """One contestant in one state on one checkpoint.

    Attributes:
        path: What was loaded.
        contestant: Its name.
        kind: Its kind.
        device: Where the weights went.
        is_private: See `Contestant`.
        maps: See `Contestant`.
        state: Of the page cache at the start.
        runs: How many counted.
        discarded: How many began in a wrong state.
        problem: The last reason for a run without result, or "".
        nbytes: Of the weights.
        seconds: Median, until every weight could be used.
        fastest_s: Of all runs.
        slowest_s: Of all runs.
        rate: Median, bytes per second.
        of_disk: Share of the disk's rate in the same round, median; None where it does not apply.
        of_memory: Share of the rate at which fresh memory takes bytes, likewise.
        peak_bytes: Highest memory over the baseline, host and device, of all runs; with pages
            of the file where it is mapped.
        cached_left: Share of the file in the page cache right after, median; None if unknown.
        disk_bytes: Read from storage, median; None if unknown.
        cpu_s: CPU time, median.
        others_share: Share of all CPUs that other programs used meanwhile, median.
        bound: What bounds it, in words.
        strategy: What `auto` took in the last run; "" for all others.
        same_bytes: Whether it loaded what the others did; None if nobody compared.
    """

    path: str
    contestant: str
    kind: str
    device: str
    is_private: bool
    maps: bool
    state: State
    runs: int
    discarded: int
    problem: str
    nbytes: int
    seconds: float | None = None
    fastest_s: float | None = None
    slowest_s: float | None = None
    rate: float | None = None
    of_disk: float | None = None
    of_memory: float | None = None
    peak_bytes: int | None = None
    cached_left: float | None = None
    disk_bytes: float | None = None
    cpu_s: float | None = None
    others_share: float | None = None
    bound: str = ""
    strategy: str = ""
    same_bytes: bool | None = None

    @property
    def label(self) -> str:
        """Name for a table."""
        return f"{self.contestant} ({self.strategy})" if self.strategy else self.contestant

    @property
    def peak_share(self) -> float | None:
        """Peak over the weights' size."""
        return None if self.peak_bytes is None or not self.nbytes else self.peak_bytes / self.nbytes

    @property
    def pool_share(self) -> float | None:
        """What it takes of one pool of memory over the weights' size: peak, and cache left.

        Pages of a mapped file are both; they count once.
        """
        if self.peak_share is None:
            return None
        return self.peak_share + (0.0 if self.maps else self.cached_left or 0.0)

    def to_json(self) -> dict[str, Any]:
        """Make plain values of it."""
        shares = {"peak_share": self.peak_share, "pool_share": self.pool_share}
        return {**asdict(self), **shares}


def score(runs: Sequence[Run]) -> list[Score]:
    """Sum up runs, in the order in which contestants first appear in `runs`' paths and states."""
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.path, run.state, f"{run.contestant} {run.device}"), []).append(run)
    ceilings = _Ceilings(runs)
    truth = _common_digest(runs)
    return [_score(group, ceilings, truth) for group in groups.values()]


class _Ceilings:
    """What disk and memory gave in each round."""

    def __init__(self, runs: Iterable[Run]) -> None:
        self._rates: dict[tuple[str, str, str, int, str], float] = {}
        for run in runs:
            if run.kind in ("disk", "memory") and run.result is not None and run.result.seconds:
                device = run.device if run.kind == "memory" else ""
                key = (run.kind, run.path, run.state, run.round, device)
                rate = run.result.nbytes / run.result.seconds
                self._rates[key] = max(rate, self._rates.get(key, 0.0))

    def disk(self, run: Run) -> float | None:
        """Bytes per second of the faster of the disk readers, in the same round."""
        return self._rates.get(("disk", run.path, run.state, run.round, ""))

    def memory(self, run: Run) -> float | None:
        """Bytes per second into fresh memory of the same kind, in the same round."""
        return self._rates.get(("memory", run.path, run.state, run.round, run.device))


def _score(group: Sequence[Run], ceilings: _Ceilings, truth: dict[str, str]) -> Score:
    first = group[-1]
    good = [run for run in group if run.result is not None]
    problems = [run.problem for run in group if run.problem]
    base = Score(
        path=first.path,
        contestant=first.contestant,
        kind=first.kind,
        device=first.device,
        is_private=first.is_private,
        maps=first.maps,
        state=first.state,
        runs=len(good),
        discarded=sum(run.was_discarded for run in group),
        problem=problems[-1] if problems else "",
        nbytes=max((_nbytes(run) for run in good), default=0),
    )
    if not good:
        return base
    seconds = [_seconds(run) for run in good]
    of_disk = _share(good, ceilings.disk) if first.kind != "disk" else None
    of_memory = _share(good, ceilings.memory) if _fills_memory(first) else None
    others = _median(run.others_share for run in good)
    bound = "" if first.kind in ("disk", "memory") else _bound(first, of_disk, of_memory)
    if bound == _ITSELF and (others or 0.0) > QUIET_SHARE:
        bound = "itself, or other programs"
    digests = [run.digest for run in good if run.digest is not None]
    return Score(
        **{
            **asdict(base),
            "seconds": statistics.median(seconds),
            "fastest_s": min(seconds),
            "slowest_s": max(seconds),
            "rate": statistics.median(_nbytes(run) / max(_seconds(run), 1e-9) for run in good),
            "of_disk": of_disk,
            "of_memory": of_memory,
            "peak_bytes": max(_peak(run) for run in good),
            "cached_left": _median(run.cached_left for run in good),
            "disk_bytes": _median(run.result.disk_bytes for run in good if run.result),
            "cpu_s": _median(run.result.cpu_s for run in good if run.result),
            "others_share": others,
            "bound": bound,
            "strategy": _taken(good[-1]),
            "same_bytes": all(one == truth.get(first.path) for one in digests) if digests else None,
        }
    )


def _bound(run: Run, of_disk: float | None, of_memory: float | None) -> str:
    """Say what keeps a load from being faster.

    The time it would take from the disk alone, and the time to fill fresh memory alone, are
    compared with the time it took. Their sum is what a loader needs that does one after the
    other; some machines allow no more, because filling memory takes the CPU that the disk needs.
    """
    disk = of_disk or 0.0
    memory = of_memory or 0.0
    if run.state == "cold" and disk >= DISK_TARGET:
        return "the disk"
    if memory >= MEMORY_TARGET:
        return "fresh memory"
    if run.state == "cold" and disk + memory >= DISK_TARGET:
        return "the disk, then fresh memory" if memory else "the disk, and itself"
    if run.state == "warm" and not run.is_private:
        return "page faults"
    return _ITSELF


def _taken(run: Run) -> str:
    """The strategy that `auto` took; "" if the contestant names it."""
    strategy = str(run.result.notes.get("strategy", "")) if run.result else ""
    return "" if strategy in run.contestant else strategy


def _fills_memory(run: Run) -> bool:
    """Whether the rate of fresh memory says anything about a run."""
    return run.is_private and run.kind not in ("disk", "memory")


def _share(runs: Iterable[Run], ceiling: Callable[[Run], float | None]) -> float | None:
    shares = []
    for run in runs:
        best = ceiling(run)
        if best:
            shares.append(_nbytes(run) / max(_seconds(run), 1e-9) / best)
    return statistics.median(shares) if shares else None


def _common_digest(runs: Iterable[Run]) -> dict[str, str]:
    """For each path the fingerprint that most contestants found."""
    votes: dict[str, list[str]] = {}
    for run in runs:
        if run.digest is not None:
            votes.setdefault(run.path, []).append(run.digest)
    return {path: statistics.mode(found) for path, found in votes.items()}


def _median(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def _seconds(run: Run) -> float:
    assert run.result is not None
    return run.result.seconds


def _nbytes(run: Run) -> int:
    assert run.result is not None
    return run.result.nbytes


def _peak(run: Run) -> int:
    assert run.result is not None
    return max(0, run.result.peak_bytes - run.result.baseline_bytes) + run.result.device_peak_bytes

"""How long the steps of samplers take: a count and a sum for each sampler since the start."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

MOST_SAMPLERS = 200
"""Packs may make a sampler with a new name for every run; what comes later counts as `OTHERS`."""

OTHERS = "others"


@dataclass(frozen=True, slots=True)
class StepTotal:
    """Steps of one sampler.

    Attributes:
        count: How many were done.
        seconds: What they took together.
    """

    count: int = 0
    seconds: float = 0.0


class StepTimes:
    """Adds up steps. All methods may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._totals: dict[str, StepTotal] = {}

    def totals(self) -> dict[str, StepTotal]:
        """By sampler."""
        with self._lock:
            return dict(self._totals)

    def timed(self, sampler: str, callback: Callable[..., Any] | None) -> Callable[..., Any]:
        """Make a callback that counts a step at each call, and then calls another.

        Args:
            sampler: Whose steps they are. The first one is counted from now on.
            callback: Gets the same arguments; None if nobody waits for it. Its own time, for a
                preview for instance, belongs to the step that follows, as the user waits for it.
        """
        before = self._clock()

        def counted(*args: Any, **kwargs: Any) -> Any:
            nonlocal before
            now = self._clock()
            self._add(sampler, now - before)
            before = now
            return None if callback is None else callback(*args, **kwargs)

        return counted

    def _add(self, sampler: str, seconds: float) -> None:
        with self._lock:
            if sampler not in self._totals and len(self._totals) >= MOST_SAMPLERS:
                sampler = OTHERS
            known = self._totals.get(sampler, StepTotal())
            self._totals[sampler] = StepTotal(known.count + 1, known.seconds + seconds)


STEP_TIMES = StepTimes()
"""Of this process."""

"""Memory over time: a ring of samples, taken only while somebody looks or something runs."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from app.memory_pools import load_options
from comfy_extras.memory_recording import SLACK_BYTES, Moment, measure

logger = logging.getLogger(__name__)

MOST_SAMPLES = 1200
BUSY_INTERVAL_S = 0.25
IDLE_INTERVAL_S = 1.0
# After the last question. The panel asks every three seconds.
LINGER_S = 8.0


@dataclass(frozen=True, slots=True)
class Bound:
    """What loading may take, in bytes; see docs/loading.md.

    Attributes:
        base: Held beside weights when the last run began.
        weights: W: the most that the models in use have had since then, each weight once.
        staging: Of the ring between file and device.
        slack: For everything that is small.
        peak: The most that was held since then, of host and device together.
    """

    base: int
    weights: int
    staging: int
    slack: int
    peak: int

    @property
    def total(self) -> int:
        """The bound itself."""
        return self.base + self.weights + self.staging + self.slack


class MemoryHistory:
    """Samples this process's memory; its thread ends by itself when nobody needs it.

    Note:
        All methods may be called from any thread.
    """

    def __init__(
        self,
        is_busy: Callable[[], bool],
        measured: Callable[[float], Moment] = measure,
        linger_s: float = LINGER_S,
        busy_interval_s: float = BUSY_INTERVAL_S,
    ) -> None:
        """Prepare; nothing is measured yet.

        Args:
            is_busy: Whether a prompt runs or waits, or a file is loaded.
            measured: Takes a sample, and calls its time what it is given.
            linger_s: How long to go on after the last question.
            busy_interval_s: Seconds between two samples while something runs.
        """
        self._is_busy = is_busy
        self._measured = measured
        self._linger_s = linger_s
        self._busy_interval_s = busy_interval_s
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self._samples: deque[Moment] = deque(maxlen=MOST_SAMPLES)
        self._wanted_until = 0.0
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._rebase = True
        self._base = self._weights = self._peak = 0

    @property
    def now(self) -> float:
        """Seconds since the history began; the times of its samples."""
        return time.monotonic() - self._begin

    @property
    def is_sampling(self) -> bool:
        """Whether its thread lives."""
        with self._lock:
            return self._thread is not None

    def wake(self) -> None:
        """Somebody looks, or something is about to run: sample from now on."""
        with self._lock:
            self._wanted_until = self.now + self._linger_s
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="memory-history", daemon=True
                )
                self._thread.start()

    def look(self) -> None:
        """Somebody asks: wake, and sample at once if the last sample is not fresh."""
        self.wake()
        with self._lock:
            last = self._samples[-1].seconds if self._samples else None
        if last is None or self.now - last > self._busy_interval_s:
            self.take()

    def on_prompt(self, prompt: dict[str, Any]) -> dict[str, Any]:
        """A prompt was sent: wake, and compare with what is held now if nothing runs yet.

        Args:
            prompt: The body of the request; returned as it is.
        """
        if not self._is_busy():
            with self._lock:
                self._rebase = True
            self.take()
        self.wake()
        # It may be in one of its longer pauses.
        self._hurry.set()
        return prompt

    def take(self) -> None:
        """Take a sample now."""
        moment = self._measured(self.now)
        beside = max(0, moment.total - moment.at_home)
        with self._lock:
            if self._rebase:
                self._rebase = False
                self._base, self._weights, self._peak = beside, 0, 0
            self._weights = max(self._weights, moment.weights)
            self._peak = max(self._peak, moment.total)
            # Two threads may have measured at once; the times of samples only grow.
            if not self._samples or moment.seconds > self._samples[-1].seconds:
                self._samples.append(moment)

    def samples(self, since: float = -1.0) -> list[Moment]:
        """What was sampled after a time; times as `now` tells them."""
        with self._lock:
            return [one for one in self._samples if one.seconds > since]

    def bound(self) -> Bound:
        """What loading may take, and what was taken."""
        staging = load_options().staging_bytes
        with self._lock:
            return Bound(self._base, self._weights, staging, SLACK_BYTES, self._peak)

    def _run(self) -> None:
        try:
            while self._goes_on():
                self.take()
                self._hurry.wait(self._busy_interval_s if self._is_busy() else IDLE_INTERVAL_S)
                self._hurry.clear()
        except Exception as err:  # noqa: BLE001 - drivers raise anything; the next question tries again
            logger.warning("Memory is no longer sampled for the loading panel: %s", err)
            with self._lock:
                self._thread = None

    def _goes_on(self) -> bool:
        is_busy = self._is_busy()
        with self._lock:
            if is_busy or self.now < self._wanted_until:
                return True
            self._thread = None
            return False

"""Memory over the time of a prompt: samples from a thread of its own, and what they show in words."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

import comfy.model_management
from comfy.loading import default_loader
from comfy.loading.usage import in_words, sample

SLACK_BYTES = 64 * 1024 * 1024
_MOST = 2000
_INTERVAL_S = 0.02
_LONGEST_S = 3600.0
# Nodes of one prompt are asked for their fingerprints one right after the other.
_TOGETHER_S = 1.0


@dataclass(frozen=True, slots=True)
class Moment:
    """Memory at one time, in bytes.

    Attributes:
        seconds: Since the recording began.
        host: Of this process.
        device: Held on the device on which networks run; 0 for the CPU.
        weights: Of all models that are in use, once they are wholly at home.
        at_home: What of these is at home already.
    """

    seconds: float
    host: int
    device: int
    weights: int
    at_home: int = 0

    @property
    def total(self) -> int:
        """Host and device."""
        return self.host + self.device


def measure(seconds: float) -> Moment:
    """Measure now.

    Args:
        seconds: What the time is called.
    """
    models = [one.model for one in list(comfy.model_management.current_loaded_models)]
    # What a patcher has not counted yet is not counted from this thread.
    sizes = [(one.size, one.loaded_size()) for one in models if one is not None]
    weights, at_home = sum(max(one) for one in sizes), sum(loaded for _, loaded in sizes)
    return Moment(seconds, sample().host, _device_bytes(), weights, at_home)


def _device_bytes() -> int:
    device = comfy.model_management.get_torch_device()
    if device.type == "cpu":
        return 0
    if device.type == "mps":
        return int(torch.mps.driver_allocated_memory())
    module = torch.get_device_module(device)
    held = getattr(module, "memory_reserved", None) or getattr(module, "memory_allocated", None)
    return 0 if held is None else int(held(device))


class Recording:
    """Samples from `start` to `stop`, or for an hour; with time they lie further apart.

    Attributes:
        users: How many nodes of the prompt will ask for it.
    """

    def __init__(self, interval_s: float = _INTERVAL_S, most: int = _MOST) -> None:
        self.users = 1
        self._interval_s = interval_s
        self._most = most
        self._begin = time.monotonic()
        self._moments: list[Moment] = []
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="memory-recording", daemon=True)

    @property
    def age_s(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self._begin

    def start(self) -> Recording:
        """Take the first sample, and begin."""
        self._take()
        self._thread.start()
        return self

    def stop(self) -> None:
        """End; may be called again."""
        self._ended.set()
        self._thread.join()

    def moments(self) -> list[Moment]:
        """Everything until now."""
        self._take()
        with self._lock:
            return list(self._moments)

    def _run(self) -> None:
        while not self._ended.wait(self._interval_s) and self.age_s < _LONGEST_S:
            self._take()

    def _take(self) -> None:
        moment = measure(self.age_s)
        with self._lock:
            self._moments.append(moment)
            if len(self._moments) > self._most:
                # The first stays: it is what the others are compared with.
                self._moments = self._moments[::2]
                self._interval_s *= 2


class Recordings:
    """The recording of the prompt that runs; one for all nodes that report on it."""

    def __init__(self, make: Callable[[], Recording] = Recording) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._current: Recording | None = None

    def begin(self) -> None:
        """A node of a prompt that begins wants one."""
        with self._lock:
            current = self._current
            if current is not None and current.age_s < _TOGETHER_S:
                current.users += 1
                return
            # Left by a prompt that failed before its report.
            if current is not None:
                current.stop()
            self._current = self._make().start()

    def collect(self) -> list[Moment]:
        """What was recorded until now; one sample if nothing was. The last user ends it."""
        with self._lock:
            current = self._current
            if current is None:
                return [measure(0.0)]
            moments = current.moments()
            current.users -= 1
            if current.users <= 0:
                current.stop()
                self._current = None
            return moments


def base_of(moments: Sequence[Moment]) -> int:
    """What was held at the start beside weights, in bytes."""
    return max(0, moments[0].total - moments[0].at_home)


def bound_of(moments: Sequence[Moment]) -> int:
    """What loading may take: the base, each weight once, the staging, and some slack; in bytes."""
    weights = max(one.weights for one in moments)
    return base_of(moments) + weights + default_loader().options.staging_bytes + SLACK_BYTES


def described(moments: Sequence[Moment]) -> str:
    """The figures in words, a line for each."""
    first, peak = moments[0], max(moments, key=lambda one: one.total)
    weights, staging = max(one.weights for one in moments), default_loader().options.staging_bytes
    bound = bound_of(moments)
    rest = peak.total - bound
    verdict = (
        f"{in_words(-rest)} below the bound"
        if rest <= 0
        else f"{in_words(rest)} above the bound, for what networks compute"
    )
    return "\n".join(
        [
            f"Memory over {moments[-1].seconds:.1f} s, {len(moments)} samples",
            f"At the start: {in_words(first.total)}, weights among it: {in_words(first.at_home)}",
            (
                f"Peak: {in_words(peak.total)} after {peak.seconds:.1f} s "
                f"(host {in_words(peak.host)}, device {in_words(peak.device)})"
            ),
            f"Weights of the models in use (W): {in_words(weights)}",
            (
                f"Bound of loading: start without weights + W + staging of {in_words(staging)} + "
                f"{in_words(SLACK_BYTES)} = {in_words(bound)}"
            ),
            f"The peak is {verdict}.",
        ]
    )

"""Memory over time: sampled while it is wanted, compared with what was there before."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from app import memory_history
from app.memory_history import MOST_SAMPLES, MemoryHistory
from comfy.loading import default_loader
from comfy_extras.memory_recording import SLACK_BYTES, Moment

PATIENCE_S = 10.0


class Machine:
    """Memory as a test sets it."""

    def __init__(self) -> None:
        self.busy = False
        self.host, self.device, self.weights, self.at_home = 100, 0, 0, 0
        self.broken = False
        self.samples = 0

    def is_busy(self) -> bool:
        return self.busy

    def measure(self, seconds: float) -> Moment:
        if self.broken:
            raise RuntimeError("the driver is gone")
        self.samples += 1
        return Moment(seconds, self.host, self.device, self.weights, self.at_home)


@pytest.fixture
def machine() -> Machine:
    return Machine()


@pytest.fixture
def history(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemoryHistory]:
    monkeypatch.setattr(memory_history, "IDLE_INTERVAL_S", 0.01)
    made = MemoryHistory(machine.is_busy, machine.measure, linger_s=0.05, busy_interval_s=0.01)
    yield made
    machine.busy = False
    wait_until(lambda: not made.is_sampling)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def threads() -> list[str]:
    return [one.name for one in threading.enumerate() if one.name == "memory-history"]


def test_nothing_is_sampled_before_somebody_asks(history: MemoryHistory, machine: Machine) -> None:
    time.sleep(0.05)
    assert (history.samples(), history.is_sampling, machine.samples) == ([], False, 0)


def test_sampling_ends_by_itself_after_the_last_question(
    history: MemoryHistory, machine: Machine
) -> None:
    history.wake()
    wait_until(lambda: machine.samples > 1)
    wait_until(lambda: not history.is_sampling)
    taken = machine.samples
    time.sleep(0.05)
    assert machine.samples == taken
    wait_until(lambda: threads() == [])


def test_sampling_goes_on_while_something_runs(history: MemoryHistory, machine: Machine) -> None:
    machine.busy = True
    history.wake()
    time.sleep(0.15)
    assert history.is_sampling
    machine.busy = False
    wait_until(lambda: not history.is_sampling)


def test_it_can_be_woken_again_and_has_one_thread(history: MemoryHistory, machine: Machine) -> None:
    history.wake()
    wait_until(lambda: not history.is_sampling)
    taken = machine.samples
    history.wake()
    history.wake()
    assert len(threads()) <= 1
    wait_until(lambda: machine.samples > taken)


def test_a_prompt_shortens_a_pause(machine: Machine) -> None:
    history = MemoryHistory(machine.is_busy, machine.measure, linger_s=0.1)
    history.wake()
    wait_until(lambda: machine.samples == 1)
    started = time.monotonic()
    history.on_prompt({})
    # One is of the prompt itself, the other of the thread that was in its pause.
    wait_until(lambda: machine.samples == 3)
    assert time.monotonic() - started < memory_history.IDLE_INTERVAL_S / 2
    wait_until(lambda: not history.is_sampling)


def test_who_looks_sees_what_is_there_now(machine: Machine) -> None:
    history = MemoryHistory(machine.is_busy, machine.measure, linger_s=0.05, busy_interval_s=0.01)
    history.look()
    # The thread is in its first pause, of a second.
    wait_until(lambda: machine.samples >= 1)
    time.sleep(0.03)
    machine.host = 777
    history.look()
    assert history.samples()[-1].host == 777
    wait_until(lambda: not history.is_sampling)


def test_old_samples_make_room(history: MemoryHistory) -> None:
    for _ in range(MOST_SAMPLES + 3):
        history.take()
    assert len(history.samples()) == MOST_SAMPLES


def test_times_of_samples_only_grow(history: MemoryHistory) -> None:
    takers = [
        threading.Thread(target=lambda: [history.take() for _ in range(50)]) for _ in range(4)
    ]
    for one in takers:
        one.start()
    for one in takers:
        one.join()
    times = [one.seconds for one in history.samples()]
    assert times == sorted(set(times))
    assert len(times) > 50


def test_only_later_samples_are_given(history: MemoryHistory) -> None:
    history.take()
    first = history.samples()[0]
    time.sleep(0.002)
    history.take()
    assert [one.seconds > first.seconds for one in history.samples(first.seconds)] == [True]


def test_the_bound_is_base_weights_staging_and_slack(
    history: MemoryHistory, machine: Machine
) -> None:
    machine.host, machine.at_home, machine.weights = 1000, 300, 300
    history.take()
    machine.host, machine.device, machine.weights, machine.at_home = 900, 800, 700, 700
    history.take()
    machine.host, machine.device, machine.weights, machine.at_home = 500, 0, 0, 0
    history.take()
    bound, staging = history.bound(), default_loader().options.staging_bytes
    assert (bound.base, bound.weights, bound.peak) == (700, 700, 1700)
    assert bound.total == 1400 + staging + SLACK_BYTES


def test_a_prompt_that_finds_nothing_running_is_compared_with_what_is_there(
    history: MemoryHistory, machine: Machine
) -> None:
    machine.weights, machine.at_home = 50, 50
    history.take()
    machine.host, machine.weights, machine.at_home = 400, 0, 0
    body = {"prompt": {}}
    assert history.on_prompt(body) is body
    bound = history.bound()
    assert (bound.base, bound.weights, bound.peak) == (400, 0, 400)


def test_a_prompt_behind_others_changes_no_base(history: MemoryHistory, machine: Machine) -> None:
    history.take()
    machine.busy, machine.host = True, 5000
    history.on_prompt({})
    assert history.bound().base == 100


def test_a_driver_that_fails_ends_sampling_and_is_told(
    history: MemoryHistory, machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    machine.broken = True
    history.wake()
    wait_until(lambda: not history.is_sampling)
    assert "the driver is gone" in caplog.text
    machine.broken = False
    history.wake()
    wait_until(lambda: machine.samples > 0)

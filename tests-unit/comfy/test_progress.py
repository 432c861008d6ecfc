"""Progress: the bar of nodes, and the bytes of a load on a terminal and in a hook."""

from __future__ import annotations

import io
import os
import struct
import time
from collections.abc import Iterator
from typing import Any

import pytest

from comfy.progress import (
    HOOK_INTERVAL_S,
    LARGE_FILE_BYTES,
    ByteProgress,
    ProgressBar,
    file_in_progress,
)

fcntl = pytest.importorskip("fcntl", reason="needs a POSIX terminal")
termios = pytest.importorskip("termios", reason="needs a POSIX terminal")

REDRAW_S = 0.12  # a little more than tqdm's interval
MARK = "<<END>>"


class Hook:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, value: int, total: int, preview: Any, node_id: str | None = None) -> None:
        self.calls.append((value, total, preview, node_id))


class Terminal:
    """A stream that is a terminal of 100 columns, and what appears on it."""

    def __init__(self) -> None:
        self._screen, other_end = os.openpty()
        fcntl.ioctl(other_end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        self.stream = os.fdopen(other_end, "w")

    def shown(self) -> str:
        """What was written since the last call."""
        # The system passes text on when it likes; the mark says that all of it has come.
        self.stream.write(MARK)
        self.stream.flush()
        text = ""
        while not text.endswith(MARK):
            text += os.read(self._screen, 65536).decode()
        return text.removesuffix(MARK)

    def close(self) -> None:
        self.stream.close()
        os.close(self._screen)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal()
    yield terminal
    terminal.close()


class Clock:
    """A clock that goes on only when it is told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("comfy.progress.time", clock)
    return clock


# -- the bar of nodes ----------------------------------------------------------------------------


def test_bar_counts_and_tells_the_hook() -> None:
    hook = Hook()
    bar = ProgressBar(10, "7", hook)
    bar.update(3)
    bar.update(4)
    assert hook.calls == [(3, 10, None, "7"), (7, 10, None, "7")]
    assert (bar.current, bar.total) == (7, 10)


def test_bar_never_goes_beyond_its_total() -> None:
    hook = Hook()
    bar = ProgressBar(5, hook=hook)
    bar.update_absolute(9)
    bar.update(1)
    assert [call[0] for call in hook.calls] == [5, 5]


def test_absolute_update_takes_a_new_total_and_a_preview() -> None:
    hook, preview = Hook(), ("JPEG", object(), 512)
    ProgressBar(5, hook=hook).update_absolute(8, 20, preview)
    assert hook.calls == [(8, 20, preview, None)]


def test_bar_without_a_hook_only_counts() -> None:
    bar = ProgressBar(5)
    bar.update(2)
    bar.update()
    assert bar.current == 3


def test_what_the_hook_raises_reaches_the_node() -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        ProgressBar(5, hook=interrupt).update(1)


# -- the bytes of a load -------------------------------------------------------------------------


def test_large_file_draws_a_bar_on_a_terminal_and_takes_it_away(
    terminal: Terminal,
) -> None:
    total = LARGE_FILE_BYTES * 4
    with ByteProgress("model.safetensors", terminal.stream, None) as show:
        show(0, total)
        time.sleep(REDRAW_S)
        show(total // 2, total)
        drawn = terminal.shown()
    assert "model.safetensors" in drawn and "50%" in drawn
    assert terminal.shown().endswith("\r")


def test_bar_starts_over_when_the_work_does(terminal: Terminal) -> None:
    with ByteProgress("model", terminal.stream, None) as show:
        show(LARGE_FILE_BYTES * 2, LARGE_FILE_BYTES * 2)
        terminal.shown()
        time.sleep(REDRAW_S)
        show(LARGE_FILE_BYTES, LARGE_FILE_BYTES * 4)
        time.sleep(REDRAW_S)
        show(LARGE_FILE_BYTES * 3, LARGE_FILE_BYTES * 4)
        assert "75%" in terminal.shown()


def test_small_file_draws_nothing(terminal: Terminal) -> None:
    with ByteProgress("model", terminal.stream, None) as show:
        show(LARGE_FILE_BYTES, LARGE_FILE_BYTES)
    assert terminal.shown() == ""


def test_stream_that_is_no_terminal_stays_empty() -> None:
    stream = io.StringIO()
    with ByteProgress("model", stream, None) as show:
        show(1, LARGE_FILE_BYTES * 2)
    assert stream.getvalue() == ""


def test_hook_hears_nothing_of_a_load_that_is_over_at_once(clock: Clock) -> None:
    hook = Hook()
    with ByteProgress("model", None, hook) as show:
        show(1, 10)
        show(10, 10)
    assert hook.calls == []


def test_hook_of_a_slow_load_hears_at_intervals_and_the_end(clock: Clock) -> None:
    hook = Hook()
    with ByteProgress("model", None, hook) as show:
        show(1, 100)
        clock.now += HOOK_INTERVAL_S * 1.1
        show(2, 100)
        show(3, 100)
        show(100, 100)
    assert hook.calls == [(2, 100, None, None), (100, 100, None, None)]


def test_hook_can_tell_bytes_of_a_file_from_steps(clock: Clock) -> None:
    files: list[str | None] = []

    def hook(*args: object, **kwargs: object) -> None:
        files.append(file_in_progress.get())

    with ByteProgress("model", None, hook) as show:
        clock.now += HOOK_INTERVAL_S * 1.1
        show(1, 100)
        ProgressBar(5, hook=hook).update(1)
    assert files == ["model", None]


def test_what_the_hook_raises_ends_the_load_and_takes_the_bar_away(
    terminal: Terminal, clock: Clock
) -> None:
    def interrupt(*args: object, **kwargs: object) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError), ByteProgress("m", terminal.stream, interrupt) as show:
        clock.now += HOOK_INTERVAL_S * 1.1
        show(1, LARGE_FILE_BYTES * 2)
    assert terminal.shown().endswith("\r")

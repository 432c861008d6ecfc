"""The display: lines where there is no terminal, a live view where there is one."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from app.headless import display as module
from app.headless.display import Display

TITLES = {"1": "1 Load", "2": "2 Sample"}


def a_console(terminal: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=terminal, width=100), stream


def test_lines_tell_what_is_done_and_what_was_there() -> None:
    console, stream = a_console(terminal=False)
    with Display(TITLES, console) as display:
        display.cached(["1"])
        display.started("2")
        display.progressed("2", 3, 20, None)
        display.finished("2")
    assert stream.getvalue().splitlines() == ["1 Load: as before", "2 Sample: done in 0.0 s"]


def test_lines_tell_of_long_work_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PLAIN_INTERVAL_S", 0.0)
    console, stream = a_console(terminal=False)
    with Display(TITLES, console) as display:
        display.progressed("2", 3, 20, None)
        display.progressed("1", 3 << 20, 6 << 20, "model.safetensors")
    assert stream.getvalue().splitlines() == [
        "2 Sample: 3 of 20",
        "1 Load: 3.00 MiB of 6.00 MiB of model.safetensors",
    ]


def test_titles_with_brackets_are_shown_as_they_are() -> None:
    for terminal in (False, True):
        console, stream = a_console(terminal)
        with Display({"1": "1 [bold]x[/bold]"}, console) as display:
            display.started("1")
            display.finished("1")
        assert "1 [bold]x[/bold]: done" in stream.getvalue()


def test_a_terminal_shows_the_running_node_its_steps_and_the_count() -> None:
    console, stream = a_console(terminal=True)
    with Display(TITLES, console) as display:
        display.cached(["1"])
        display.started("2")
        display.progressed("2", 12, 20, None)
        console.print(display._render())
    shown = stream.getvalue()
    assert "2 Sample" in shown
    assert "12 of 20" in shown
    assert "1 of 2 nodes" in shown


def test_many_running_nodes_are_counted() -> None:
    console, stream = a_console(terminal=True)
    display = Display({str(n): f"{n} Wait" for n in range(9)}, console)
    for number in range(9):
        display.started(str(number))
    console.print(display._render())
    assert "and 3 more" in stream.getvalue()


def test_a_large_graph_lists_only_nodes_that_take_time() -> None:
    console, stream = a_console(terminal=False)
    with Display({str(n): f"{n} Quick" for n in range(101)}, console) as display:
        display.started("5")
        display.finished("5")
    assert stream.getvalue() == ""


def test_a_failed_node_and_texts_are_told() -> None:
    console, stream = a_console(terminal=False)
    with Display(TITLES, console) as display:
        display.started("1")
        display.note("1", "a text")
        display.failed("1")
    assert stream.getvalue().splitlines() == ["1 Load: a text", "1 Load: failed"]


def test_the_wish_to_stop_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    console, stream = a_console(terminal=False)
    Display(TITLES, console).stopping("Stopping.")
    assert capfd.readouterr().err == "Stopping.\n"
    console, stream = a_console(terminal=True)
    with Display(TITLES, console) as display:
        display.stopping("Stopping.")
        console.print(display._render())
    assert "Stopping." in stream.getvalue()

"""Runs in this process: status, files and problems of each, and that a bad one leaves no trace."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import comfy.interrupts
from app.headless import stopping
from app.headless.run import Outcome

Run = Callable[..., Outcome]


def a_node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def show(deed: str, kind: str = "Show", value: int = 3) -> dict[str, Any]:
    return {"1": a_node("Number", value=value), "2": a_node(kind, value=["1", 0], deed=deed)}


def pictures(kind: str, **inputs: Any) -> dict[str, Any]:
    empty = a_node("EmptyImage", width=8, height=8, batch_size=2, color=255)
    return {"1": empty, "2": a_node(kind, images=["1", 0], **inputs)}


def test_texts_are_shown_and_the_run_is_done(run: Run, screen: io.StringIO) -> None:
    outcome = run(show("said"))
    assert (outcome.status, outcome.files, outcome.problems) == (0, [], [])
    assert "2 Show: said 3" in screen.getvalue()
    assert "1 Number: done in" in screen.getvalue()


def test_written_files_are_given_in_their_order_and_hold_the_workflow(
    run: Run, tmp_path: Path
) -> None:
    outcome = run(pictures("SaveImage", filename_prefix="sub/p"), page={"nodes": []})
    folder = tmp_path / "out" / "sub"
    assert outcome.files == [folder / "p_00001_.png", folder / "p_00002_.png"]
    assert not outcome.are_previews
    with Image.open(outcome.files[0]) as image:
        assert image.text["workflow"] == '{"nodes": []}'  # type: ignore[attr-defined]


def test_previews_are_given_if_there_is_nothing_else(run: Run, tmp_path: Path) -> None:
    outcome = run(pictures("PreviewImage"))
    assert outcome.are_previews
    assert [path.parent for path in outcome.files] == [tmp_path / "temp"] * 2
    both = pictures("PreviewImage") | {
        "3": a_node("SaveImage", images=["1", 0], filename_prefix="p")
    }
    outcome = run(both)
    assert not outcome.are_previews
    assert {path.parent for path in outcome.files} == {tmp_path / "out"}


def test_settings_reach_the_nodes(run: Run, screen: io.StringIO) -> None:
    assert run(show("said"), "Number.value=7").status == 0
    assert "said 7" in screen.getvalue()


def test_a_wrong_setting_is_an_invalid_prompt(run: Run) -> None:
    outcome = run(show("said"), "Numbr.value=7")
    assert outcome.status == 1
    assert "did you mean 'Number'" in outcome.problems[0]


def test_a_node_that_raises_is_told_with_its_inputs_and_the_next_run_is_clean(run: Run) -> None:
    outcome = run(show("raise"))
    assert outcome.status == 2
    assert outcome.problems[0] == "Node 2 (Show) failed: RuntimeError: no luck with 3"
    assert "  value = 3" in outcome.problems
    assert any("conftest.py" in line and "in run" in line for line in outcome.problems)
    assert run(show("said")).status == 0


def test_outputs_that_can_run_do_and_the_others_make_the_prompt_invalid(
    run: Run, screen: io.StringIO
) -> None:
    prompt = show("said") | {"3": a_node("Show", value=["9", 0], deed="x")}
    outcome = run(prompt)
    assert outcome.status == 1
    assert "linked to node 9, which does not exist" in outcome.problems[0]
    assert "said 3" in screen.getvalue()


def test_a_second_run_does_not_do_again_what_has_not_changed(run: Run, screen: io.StringIO) -> None:
    run(show("said"))
    screen.truncate(0)
    run(show("other"))
    assert "1 Number: as before" in screen.getvalue()
    assert "2 Show: done in" in screen.getvalue()


# -- stopping --------------------------------------------------------------------------------------

needs_signals = pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX does")


def press_later(after_s: float = 0.3) -> threading.Timer:
    timer = threading.Timer(after_s, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    return timer


@needs_signals
@pytest.mark.parametrize(
    ("deed", "kind"), [("count", "Show"), ("sleep", "Show"), ("sleep", "ShowLate")]
)
def test_one_press_ends_a_node_that_counts_sleeps_or_waits_and_the_next_run_is_clean(
    run: Run, monkeypatch: pytest.MonkeyPatch, deed: str, kind: str
) -> None:
    monkeypatch.setattr(stopping, "GRACE_S", 4.0 if deed == "count" else 0.3)
    before = signal.getsignal(signal.SIGINT)
    started = time.monotonic()
    press_later()
    assert run(show(deed, kind)).status == 130
    assert time.monotonic() - started < 8
    assert signal.getsignal(signal.SIGINT) is before
    assert not comfy.interrupts.processing_interrupted()
    assert run(show("said", value=4)).status == 0


@needs_signals
def test_a_press_before_the_first_node_counts(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    enter = stopping.StopSignals.__enter__

    def pressed(self: stopping.StopSignals) -> stopping.StopSignals:
        entered = enter(self)
        os.kill(os.getpid(), signal.SIGINT)
        return entered

    monkeypatch.setattr(stopping.StopSignals, "__enter__", pressed)
    assert run(show("said")).status == 130

"""What is written to the terminal is kept for pages, a progress bar as one entry."""

from __future__ import annotations

import io
import logging
import sys
import threading
from collections.abc import Callable
from datetime import datetime

import pytest

from app import logger as room
from app.logger import Entry, RecentWrites, WatchedStream

Streams = Callable[[], tuple[io.StringIO, io.StringIO]]
"""Puts new streams in the place of standard output and error, and returns them."""


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    """To be called in the test: between fixture and test pytest sets streams of its own."""
    monkeypatch.setattr(room, "_writes", RecentWrites())

    def replace() -> tuple[io.StringIO, io.StringIO]:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        return out, err

    return replace


def _texts(entries: list[Entry]) -> list[str]:
    return [entry["m"] for entry in entries]


# -- what is kept ----------------------------------------------------------------------------------


def test_the_last_writes_are_kept_with_their_time() -> None:
    writes = RecentWrites(capacity=3)
    before = datetime.now()
    for number in range(5):
        writes.add(f"{number}\n")
    assert _texts(writes.entries()) == ["2\n", "3\n", "4\n"]
    assert before <= datetime.fromisoformat(writes.entries()[0]["t"]) <= datetime.now()


def test_three_hundred_writes_are_kept() -> None:
    writes = RecentWrites()
    for number in range(301):
        writes.add(f"{number}\n")
    assert len(writes.entries()) == 300


@pytest.mark.parametrize(
    ("texts", "kept"),
    [
        (["10%", "\r20%", "\r30%"], ["\r30%"]),
        (["10%\n", "\r20%"], ["10%\n", "\r20%"]),
        (["a\n", "\r10%", "\r20%\n", "b\n"], ["a\n", "\r20%\n", "b\n"]),
        (["\r10%"], ["\r10%"]),
        (["10%", "20%"], ["10%", "20%"]),
    ],
)
def test_a_line_written_over_is_one_entry(texts: list[str], kept: list[str]) -> None:
    writes = RecentWrites()
    for text in texts:
        writes.add(text)
    assert _texts(writes.entries()) == kept


def test_what_was_kept_is_a_list_of_its_own() -> None:
    writes = RecentWrites()
    writes.add("a")
    writes.entries().clear()
    assert _texts(writes.entries()) == ["a"]


# -- who listens -----------------------------------------------------------------------------------


def test_listeners_get_what_is_new_once() -> None:
    writes, heard = RecentWrites(), []
    writes.add("before\n")
    writes.listen(lambda entries: heard.append(_texts(entries)))
    writes.add("a\n")
    writes.add("b\n")
    writes.tell()
    writes.tell()
    writes.add("c\n")
    writes.tell()
    assert heard == [["before\n", "a\n", "b\n"], ["c\n"]]


def test_what_a_listener_writes_is_told_the_next_time() -> None:
    writes, heard = RecentWrites(), []

    def listener(entries: list[Entry]) -> None:
        heard.append(_texts(entries))
        if len(heard) == 1:
            writes.add("from the listener\n")
            writes.tell()

    writes.listen(listener)
    writes.add("a\n")
    writes.tell()
    assert heard == [["a\n"]]
    writes.tell()
    assert heard == [["a\n"], ["from the listener\n"]]


def test_what_another_thread_writes_meanwhile_is_told_without_another_flush() -> None:
    writes, heard = RecentWrites(), []

    def listener(entries: list[Entry]) -> None:
        heard.append(_texts(entries))
        if len(heard) == 1:
            other = threading.Thread(target=lambda: (writes.add("late\n"), writes.tell()))
            other.start()
            other.join()

    writes.listen(listener)
    writes.add("a\n")
    writes.tell()
    assert heard == [["a\n"], ["late\n"]]
    writes.add("b\n")
    writes.tell()
    assert heard[2:] == [["b\n"]]


def test_a_listener_that_raises_hears_no_more_and_disturbs_nobody(
    caplog: pytest.LogCaptureFixture,
) -> None:
    writes, heard = RecentWrites(), []

    def broken(entries: list[Entry]) -> None:
        raise RuntimeError("gone away")

    writes.listen(broken)
    writes.listen(lambda entries: heard.append(_texts(entries)))
    for text in ("a\n", "b\n"):
        writes.add(text)
        writes.tell()
    assert heard == [["a\n"], ["b\n"]]
    assert [record.name for record in caplog.records] == ["app.logger"]
    assert "RuntimeError: gone away" in caplog.text


def test_threads_lose_no_write() -> None:
    writes = RecentWrites(capacity=10_000)
    heard: list[str] = []
    writes.listen(lambda entries: heard.extend(_texts(entries)))

    def work() -> None:
        for _ in range(500):
            writes.add("x")
            writes.tell()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(writes.entries()) == len(heard) == 2000


# -- streams ---------------------------------------------------------------------------------------


def test_a_watched_stream_writes_through_and_is_otherwise_the_stream() -> None:
    under, writes = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), RecentWrites()
    stream = WatchedStream(under, writes)
    assert stream.write("grün\n") == 5
    stream.flush()
    assert under.buffer.getvalue() == "grün\n".encode()  # type: ignore[attr-defined]
    assert (stream.encoding, stream.errors, stream.isatty()) == ("utf-8", "strict", False)
    assert stream.buffer is under.buffer
    assert stream.writable()
    with pytest.raises(io.UnsupportedOperation):
        stream.fileno()


def test_closing_a_watched_stream_leaves_the_stream_open() -> None:
    under = io.StringIO()
    WatchedStream(under, RecentWrites()).close()
    assert not under.closed


# -- the set-up ------------------------------------------------------------------------------------


def test_print_and_log_are_kept_together(streams: Streams) -> None:
    out, err = streams()
    room.setup_logger()
    sys.stdout.write("printed\n")
    logging.getLogger("anything").info("logged")
    logging.getLogger("anything").debug("not logged")
    assert "".join(_texts(room.get_logs())) == "printed\nlogged\n"
    assert (out.getvalue(), err.getvalue()) == ("printed\n", "logged\n")


def test_the_log_may_go_to_standard_output(streams: Streams) -> None:
    out, err = streams()
    room.setup_logger(use_stdout=True)
    logging.getLogger("anything").info("logged")
    assert (out.getvalue(), err.getvalue()) == ("logged\n", "")


def test_a_second_set_up_changes_the_level_and_repeats_nothing(
    streams: Streams,
) -> None:
    _, err = streams()
    room.setup_logger("ERROR")
    logging.getLogger("anything").warning("too little")
    room.setup_logger("DEBUG")
    logging.getLogger("anything").debug("detail")
    assert err.getvalue() == "detail\n"
    assert _texts(room.get_logs()) == ["detail\n"]


def test_a_display_that_takes_the_place_of_a_stream_gets_the_log(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams()
    room.setup_logger()
    display = io.StringIO()
    monkeypatch.setattr(sys, "stderr", display)
    logging.getLogger("anything").info("above the display")
    assert display.getvalue() == "above the display\n"


def test_each_log_line_is_told_at_once(streams: Streams) -> None:
    heard: list[str] = []
    streams()
    room.setup_logger()
    room.on_flush(lambda entries: heard.extend(_texts(entries)))
    logging.getLogger("anything").info("one")
    assert heard == ["one\n"]


def test_an_unknown_level_is_refused(streams: Streams) -> None:
    streams()
    with pytest.raises(ValueError, match="LOUD"):
        room.setup_logger("LOUD")


def test_a_program_without_streams_can_log(
    streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams()
    monkeypatch.setattr(sys, "stdout", None)
    room.setup_logger()
    assert sys.stdout is None

"""Tests of the routes for the page that is shipped with the program."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

import folder_paths
from api_server.routes.internal.internal_routes import InternalRoutes
from app import logger as app_logger
from support.served_routes import TRAVERSALS, Served, plant_ways_out, serve


class Messages:
    """Stands where the server is, and keeps what would be sent."""

    def __init__(self) -> None:
        self.sockets = {"here": object()}
        self.sent: list[tuple[str, Any, str]] = []

    def send_sync(self, event: str, data: Any, sid: str) -> None:
        """Keep a message."""
        self.sent.append((event, data, sid))


@pytest.fixture
def messages() -> Messages:
    return Messages()


@pytest.fixture
def say(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Writes as to the terminal."""
    writes = app_logger.RecentWrites()
    monkeypatch.setattr(app_logger, "_writes", writes)
    terminal = app_logger.WatchedStream(io.StringIO(), writes)

    def write(text: str) -> None:
        terminal.write(text)
        terminal.flush()

    return write


@pytest.fixture
def served(messages: Messages, say: Callable[[str], None]) -> Iterator[Served]:
    def fill(app: web.Application) -> None:
        app.add_subapp("/internal", InternalRoutes(messages).get_app())

    with serve(fill) as server:
        yield server


def test_the_log_is_told_as_text_and_in_parts(served: Served, say: Callable[[str], None]) -> None:
    say("one\n")
    say("two\n")
    parts = served.get("/internal/logs/raw").json()
    assert [entry["m"] for entry in parts["entries"]] == ["one\n", "two\n"]
    assert set(parts["size"]) == {"cols", "rows"}
    assert all(isinstance(value, int) and value > 0 for value in parts["size"].values())
    text = served.get("/internal/logs").json()
    assert text == "".join(f"{entry['t']} - {entry['m']}" for entry in parts["entries"])


def _subscribe(served: Served, client: str, enabled: bool) -> None:
    body = json.dumps({"enabled": enabled, "clientId": client})
    answer = served.ask("PATCH", "/internal/logs/subscribe", body)
    assert (answer.status, answer.body) == (200, b"")


def test_who_subscribes_hears_what_is_written_from_then_on(
    served: Served, messages: Messages, say: Callable[[str], None]
) -> None:
    say("before\n")
    _subscribe(served, "here", True)
    say("first\n")
    say("second\n")
    heard = [[entry["m"] for entry in data["entries"]] for _, data, _ in messages.sent]
    assert heard[-2:] == [["first\n"], ["second\n"]]
    assert {(event, sid) for event, _, sid in messages.sent} == {("logs", "here")}
    # The size is told once, as long as it stays.
    assert [data["size"] is None for _, data, _ in messages.sent] == [False, True]
    _subscribe(served, "here", False)
    say("third\n")
    assert len(messages.sent) == 2


def test_who_is_gone_hears_nothing(
    served: Served, messages: Messages, say: Callable[[str], None]
) -> None:
    _subscribe(served, "gone", True)
    say("first\n")
    messages.sockets["gone"] = object()
    say("second\n")
    assert messages.sent == []


@pytest.mark.parametrize("body", ["", "{", "[]", "{}", '{"enabled": true, "clientId": 3}'])
def test_a_subscription_needs_a_client(served: Served, body: str) -> None:
    assert served.ask("PATCH", "/internal/logs/subscribe", body).status == 400


def test_folders_of_models_are_told(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    # Packs put values of this shape, too.
    kinds = {"loras": (["/a", "/b"], [".x"]), "odd": (["/c"], None)}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    expected = {"loras": ["/a", "/b"], "odd": ["/c"]}
    assert served.get("/internal/folder_paths").json() == expected


@pytest.mark.parametrize("kind", ["input", "output", "temp"])
def test_files_are_told_newest_first(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(folder_paths, f"{kind}_directory", str(tmp_path / "top"))
    assert served.get(f"/internal/files/{kind}").json() == []
    (tmp_path / "top" / "folder").mkdir(parents=True)
    for age, name in enumerate(["b.png", "a.png", ".hidden"]):
        (tmp_path / "top" / name).write_text("")
        os.utime(tmp_path / "top" / name, (100 - age, 100 - age))
    (tmp_path / "top" / "broken.png").symlink_to(tmp_path / "gone")
    assert served.get(f"/internal/files/{kind}").json() == ["b.png", "a.png"]


def test_a_file_that_goes_away_meanwhile_does_not_hide_the_others(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    for name in ("gone.png", "stays.png"):
        (tmp_path / name).write_text("")
    scan = os.scandir

    def late_scan(folder: str) -> contextlib.nullcontext[list[os.DirEntry[str]]]:
        with scan(folder) as entries:
            found = list(entries)
        (tmp_path / "gone.png").unlink()
        return contextlib.nullcontext(found)

    monkeypatch.setattr(os, "scandir", late_scan)
    assert served.get("/internal/files/output").json() == ["stays.png"]


@pytest.mark.parametrize("kind", ["models", "user", *TRAVERSALS])
def test_other_folders_are_not_told(
    served: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "base" / "output").mkdir(parents=True)
    plant_ways_out(tmp_path / "base" / "output")
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "base" / "output"))
    answer = served.get(f"/internal/files/{kind}")
    assert answer.status in (400, 404)
    assert b"secret_link" not in answer.body or kind in answer.json()["error"]

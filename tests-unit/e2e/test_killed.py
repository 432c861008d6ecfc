"""SIGKILL at any moment leaves whole files; SIGINT and SIGTERM end sampling and half a request in time.

What else the two signals end, and the second press: tests-unit/server/test_process_stop.py.
"""

from __future__ import annotations

import itertools
import json
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.live_program import link_checkpoint, node, picture, sampled, succeeds
from support.running_server import Program, program, wait_until
from support.whole_files import unfinished, whole_json, whole_pictures

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LONGEST_STOP_S = 5.0
TRIES = 3
# Long enough that a write takes a while.
PADDING = "x" * 400_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    link_checkpoint(tmp_path)
    return tmp_path


# -- SIGKILL ---------------------------------------------------------------------------------------


class Writers:
    """Threads that let the program write, again and again, until it is gone.

    Attributes:
        done: By kind, the number of the last write that the program said it had done.
    """

    def __init__(self, running: Program) -> None:
        self._running = running
        self.done = {"settings": -1, "userdata": -1, "pictures": -1}
        jobs = {"settings": self._setting, "userdata": self._workflow, "pictures": self._picture}
        self._threads = [
            threading.Thread(target=self._repeat, args=job, daemon=True) for job in jobs.items()
        ]
        for thread in self._threads:
            thread.start()

    def _repeat(self, kind: str, job: Callable[[int], int]) -> None:
        for number in itertools.count():
            try:
                status = job(number)
            except aiohttp.ClientError:
                return
            assert status == 200
            self.done[kind] = number

    def _setting(self, number: int) -> int:
        return self._running.post("/settings", {"n": number, "padding": PADDING}).status

    def _workflow(self, number: int) -> int:
        body = json.dumps({"n": number, "padding": PADDING}).encode()
        return self._running.request("POST", "/userdata/workflows%2Fw.json", data=body).status

    def _picture(self, number: int) -> int:
        prompt = {
            "1": node("EmptyImage", width=1024, height=1024, batch_size=4, color=number),
            "2": node("SaveImage", images=["1", 0], filename_prefix="killed"),
        }
        prompt_id = self._running.queue(prompt)
        while not self._running.get(f"/history/{prompt_id}").json():
            time.sleep(0.01)
        return 200

    def join(self) -> None:
        """Wait until all have noticed that the program is gone."""
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


@pytest.mark.parametrize("after_s", [0.0, 0.137, 0.311])
def test_a_kill_while_all_is_written_leaves_whole_files(folder: Path, after_s: float) -> None:
    with program(folder) as running:
        running.post("/settings/kept", "for ever")
        writers = Writers(running)
        wait_until(lambda: min(writers.done.values()) >= 0, 60)
        time.sleep(after_s)
        running.process.kill()
        running.process.wait()
        writers.join()

    settings = whole_json(folder / "user" / "default" / "comfy.settings.json")
    workflow = whole_json(folder / "user" / "default" / "workflows" / "w.json")
    assert settings["kept"] == "for ever"
    # What was said to be done is done; one more may be.
    assert settings["n"] - writers.done["settings"] in (0, 1)
    assert workflow["n"] - writers.done["userdata"] in (0, 1)
    assert settings["padding"] == workflow["padding"] == PADDING
    assert len(whole_pictures(folder / "output")) >= 4 * (writers.done["pictures"] + 1)
    _check_restart(folder, settings)


def _check_restart(folder: Path, settings: dict[str, Any]) -> None:
    pictures = whole_pictures(folder / "output")
    with program(folder) as again:
        assert again.get("/settings").json() == settings
        listed = again.get("/userdata?dir=workflows&recurse=true").json()
        assert "w.json" in listed
        assert not any(name.startswith(".") for name in listed)
        succeeds(again, picture(1))
        assert set(pictures) <= set(whole_pictures(folder / "output"))
        assert unfinished(folder / "user") == []
        wait_until(lambda: unfinished(folder / "output") == [])


def test_a_kill_in_mid_prompt_is_forgotten(folder: Path) -> None:
    with program(folder) as running:
        running.post("/settings/kept", [1, 2])
        running.request("POST", "/userdata/workflows%2Fmine.json", data=b'{"a": 1}')
        _begin_sampling(running)
        running.process.kill()
        running.process.wait()
    with program(folder) as again:
        assert again.get("/settings").json()["kept"] == [1, 2]
        assert again.get("/userdata/workflows%2Fmine.json").json() == {"a": 1}
        assert again.get("/queue").json() == {"queue_running": [], "queue_pending": []}
        succeeds(again, sampled(seed=2))
        # The temporary folder was made anew.
        assert len(list((folder / "temp").rglob("*.png"))) == 1


# Connections of a test, which is over when they may close.
_STAY_OPEN: list[socket.socket] = []


@pytest.fixture(autouse=True)
def _close() -> Iterator[None]:
    yield
    while _STAY_OPEN:
        _STAY_OPEN.pop().close()


# -- SIGINT and SIGTERM ----------------------------------------------------------------------------


def _begin_sampling(running: Program) -> None:
    page = running.listen("sampling")
    running.queue(sampled(steps=10_000), client_id="sampling")
    page.wait_for(lambda kind, data: kind == "progress" and data["value"] >= 3, 120)


def _begin_half_a_request(running: Program) -> None:
    connection = socket.create_connection(("127.0.0.1", running.port))
    connection.sendall(b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: 900\r\n\r\n{")
    _STAY_OPEN.append(connection)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("begin", [_begin_sampling, _begin_half_a_request])
def test_a_signal_ends_the_program_in_time(
    folder: Path, begin: Callable[[Program], None], number: signal.Signals
) -> None:
    took = LONGEST_STOP_S
    tries = 0
    # A busy machine makes it slower, nothing makes it faster.
    while took >= LONGEST_STOP_S and tries < TRIES:
        with program(folder) as running:
            begin(running)
            before, begun = len(running.said()), time.monotonic()
            assert running.stop(number, timeout=30) == 0
            took = time.monotonic() - begun
            assert "Traceback" not in running.said()[before:]
        assert not any((folder / "temp").rglob("*"))
        tries += 1
    assert took < LONGEST_STOP_S

"""The program as a process: how it stops."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.running_server import Program, free_port, program, start, wait_until
from support.sleepy_pack import sleeping, write_pack

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

STOPS_WITHIN_S = 5.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base directory with the pack."""
    write_pack(tmp_path)
    return tmp_path


def _stop(running: Program, number: int) -> tuple[int, float]:
    started = time.monotonic()
    return running.stop(number), time.monotonic() - started


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_a_signal_stops_the_server_and_tidies_up(folder: Path, number: signal.Signals) -> None:
    with program(folder) as running:
        page = running.listen("page")
        (folder / "temp" / "preview.png").touch()
        status, took = _stop(running, number)
        assert page.wait_until_closed(5) == 1001
        assert (status, took < STOPS_WITHIN_S) == (0, True), running.said()
        assert not (folder / "temp").exists()
        assert "Traceback" not in running.said()
        assert "never awaited" not in running.said()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize("deaf", [False, True], ids=["a node that notices", "a deaf node"])
def test_a_signal_stops_the_server_while_a_prompt_runs(
    folder: Path, number: signal.Signals, deaf: bool
) -> None:
    with program(folder) as running:
        page = running.listen("page")
        prompt_id = running.queue(sleeping(deaf=deaf), client_id="page")
        running.queue(sleeping())
        page.wait_for("sleeping")
        status, took = _stop(running, number)
        assert (status, took < STOPS_WITHIN_S) == (0, True), running.said()
        if not deaf:
            told = page.wait_for("execution_interrupted", 5)
            assert told["prompt_id"] == prompt_id
        assert not (folder / "temp").exists()
        assert "Traceback" not in running.said()


def test_a_second_signal_ends_the_program_at_once(folder: Path) -> None:
    with program(folder) as running:
        page = running.listen("page")
        running.queue(sleeping(deaf=True), client_id="page")
        page.wait_for("sleeping")
        running.process.send_signal(signal.SIGINT)
        wait_until(lambda: "The server stops." in running.said(), 5)
        status, took = _stop(running, signal.SIGINT)
        assert (status, took < 1.0) == (130, True)


# -- during the start ------------------------------------------------------------------------------

# A pack's script that waits when a module is about to be imported.
WAITS_AT = """
import sys
import time


class Waits:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            print("waiting", flush=True)
            time.sleep(30)


sys.meta_path.insert(0, Waits())
"""

WAITING = """
import time

for number in range({count}):
    try:
        print("waiting", flush=True)
        time.sleep(30)
    except BaseException:
        pass
"""


@contextmanager
def _started_with(folder: Path, script: str, text: str) -> Iterator[subprocess.Popen[str]]:
    """The program with a script of a pack's that is to say when it waits."""
    (folder / "custom_nodes" / "sleepy_pack" / script).write_text(text)
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with start(folder, **streams) as process:
        try:
            yield process
        finally:
            process.kill()


def _wait_until_it_waits(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        if line == "waiting\n":
            return
        said += line
    raise AssertionError(f"it ended before it waited:\n{said}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
@pytest.mark.parametrize(
    "module", ["torch", "comfy.samplers", "aiohttp", "server", "comfy_extras.nodes_mask"]
)
def test_a_signal_during_the_start_ends_it_without_a_traceback(
    folder: Path, module: str, number: signal.Signals
) -> None:
    waits = WAITS_AT.format(module=module)
    with _started_with(folder, "prestartup_script.py", waits) as process:
        _wait_until_it_waits(process)
        process.send_signal(number)
        said, _ = process.communicate(timeout=20)
        assert (process.returncode, said) == (130, "")


def test_a_signal_that_a_pack_took_ends_the_start_when_the_pack_is_loaded(folder: Path) -> None:
    with _started_with(folder, "__init__.py", WAITING.format(count=1)) as process:
        _wait_until_it_waits(process)
        process.send_signal(signal.SIGTERM)
        assert process.wait(STOPS_WITHIN_S) == 130


def test_a_second_signal_ends_a_start_at_once(folder: Path) -> None:
    with _started_with(folder, "prestartup_script.py", WAITING.format(count=2)) as process:
        for _ in range(2):
            _wait_until_it_waits(process)
            process.send_signal(signal.SIGTERM)
        assert process.wait(STOPS_WITHIN_S) == 130


# -- after a kill ----------------------------------------------------------------------------------


def test_a_killed_server_starts_again_on_the_same_port_at_once(folder: Path) -> None:
    port = free_port()
    with program(folder, port=port) as running:
        running.listen("page")
        prompt_id = running.queue(sleeping(), client_id="page")
        wait_until(lambda: running.get("/queue").json()["queue_running"])
        running.process.kill()
        running.process.wait()
    with program(folder, port=port) as again:
        assert again.get("/queue").json() == {"queue_running": [], "queue_pending": []}
        assert again.get(f"/history/{prompt_id}").json() == {}
        again.wait_for_history(again.queue(sleeping(0)))

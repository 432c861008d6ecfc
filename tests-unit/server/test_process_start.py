"""The program as a process: how it starts, where it listens, what it says if it cannot."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.certificates import make_certificate
from support.running_server import (
    ROOT,
    environment,
    free_port,
    program,
    start,
    wait_until,
)
from support.sleepy_pack import sleeping, write_pack

pytestmark = [pytest.mark.slow, pytest.mark.e2e]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base directory with the pack."""
    write_pack(tmp_path)
    return tmp_path


def _fails_to_start(folder: Path, *flags: str, port: int | None = None) -> tuple[int, str]:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with start(folder, *flags, port=port, **streams) as process:
        try:
            said, _ = process.communicate(timeout=120)
        finally:
            process.kill()
    return process.returncode, said


# -- starting --------------------------------------------------------------------------------------


def test_it_serves_when_it_listens_and_packs_have_found_the_server(folder: Path) -> None:
    # Left behind by a program that was killed.
    (folder / "temp").mkdir()
    (folder / "temp" / "old.png").touch()
    with program(folder) as running:
        # Nothing is asked again: the first connection is answered at once.
        assert running.get("/prompt").json() == {"exec_info": {"queue_remaining": 0}}
        assert running.get("/sleepy").json() == running.get("/api/sleepy").json()
        assert running.get("/api/sleepy").json() == {"awake": True}
        assert running.get("/object_info/Sleep").json()["Sleep"]["python_module"] == (
            "custom_nodes.sleepy_pack"
        )
        assert list((folder / "temp").iterdir()) == []
        assert running.url in running.said()
        assert "Other machines" not in running.said()


def test_the_port_refuses_until_the_nodes_are_loaded(folder: Path) -> None:
    pack = folder / "custom_nodes" / "slow_pack"
    pack.mkdir()
    (pack / "__init__.py").write_text("import time\ntime.sleep(2)\nNODE_CLASS_MAPPINGS = {}\n")
    port = free_port()
    process = start(folder, port=port, stderr=subprocess.PIPE)
    try:
        started = time.monotonic()
        refused = 0
        while time.monotonic() - started < 60:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                refused += 1
                time.sleep(0.02)
        assert refused > 0
        assert 2 < time.monotonic() - started < 20
    finally:
        process.kill()
        process.communicate()


def test_a_start_for_ci_loads_everything_and_ends_well(folder: Path) -> None:
    status, said = _fails_to_start(folder, "--quick-test-for-ci")
    assert status == 0, said
    assert "sleepy_pack" in said
    assert "Traceback" not in said


def test_torch_is_imported_after_the_scripts_of_packs(folder: Path) -> None:
    (folder / "custom_nodes" / "sleepy_pack" / "prestartup_script.py").write_text(
        "import os, sys\n"
        "assert 'torch' not in sys.modules\n"
        "assert 'server' not in sys.modules\n"
        "print('devices', os.environ['CUDA_VISIBLE_DEVICES'])\n"
    )
    status, said = _fails_to_start(folder, "--quick-test-for-ci", "--cuda-device", "3")
    assert status == 0, said
    assert "devices 3" in said
    assert "IMPORT FAILED" not in said


def test_the_start_imports_nothing_that_only_some_workflows_need(folder: Path) -> None:
    code = (
        "import sys, json\n"
        f"sys.argv = ['main.py', '--cpu', '--base-directory', {str(folder)!r}]\n"
        "import main\n"
        "loop, made, start = main.start_comfyui()\n"
        "json.dump(sorted(sys.modules), open(sys.argv[-1] + '/modules.json', 'w'))\n"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment(), check=True, timeout=120
    )
    loaded = set(json.loads((folder / "modules.json").read_text()))
    assert {"torch", "aiohttp", "nodes", "server"} <= loaded
    unwanted = {"transformers", "diffusers", "pytest", "scipy.stats", "matplotlib.pyplot"}
    assert unwanted & loaded == set()


def test_a_program_that_has_it_inside_can_send_prompts(folder: Path) -> None:
    code = (
        "import sys, time\n"
        f"sys.argv = ['main.py', '--cpu', '--base-directory', {str(folder)!r}]\n"
        "import main\n"
        "loop, made, start = main.start_comfyui()\n"
        "assert callable(start) and main.prompt_worker and main.hijack_progress\n"
        "assert main.cleanup_temp\n"
        "import server\n"
        "assert server.PromptServer.instance is made\n"
        "prompt = {'1': {'class_type': 'Sleep', 'inputs': {'seconds': 0, 'deaf': False}}}\n"
        "made.prompt_queue.put((0, 'mine', prompt, {}, ['1'], {}))\n"
        "while 'mine' not in made.prompt_queue.get_history(): time.sleep(0.01)\n"
        "print(made.prompt_queue.get_history()['mine']['outputs'])\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "{'1': {'slept': [0]}}" in ended.stdout, ended.stderr


# -- not starting ----------------------------------------------------------------------------------


def test_a_port_in_use_ends_the_program_with_a_line_that_says_so(folder: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        status, said = _fails_to_start(folder, port=port)
    assert status == 1
    assert f"Port {port} of 127.0.0.1 is in use" in said
    assert "Traceback" not in said
    assert not (folder / "temp").exists()


def test_a_certificate_that_is_none_ends_the_program(folder: Path) -> None:
    bad = folder / "bad.pem"
    bad.write_text("nothing")
    status, said = _fails_to_start(folder, "--tls-keyfile", str(bad), "--tls-certfile", str(bad))
    assert status == 1
    assert "bad.pem" in said
    assert "Traceback" not in said


# -- where it listens ------------------------------------------------------------------------------


def test_connections_are_encrypted_with_a_key_and_a_certificate(folder: Path) -> None:
    key, certificate = make_certificate(folder)
    trusted = ssl.create_default_context(cafile=str(certificate))
    flags = ("--tls-keyfile", str(key), "--tls-certfile", str(certificate))
    with program(folder, *flags, scheme="https", ssl=trusted) as running:
        assert running.get("/prompt").status == 200
        page = running.listen("page")
        page.wait_for_end(running.queue(sleeping(0), client_id="page"))
        assert f"{running.url}" in running.said()
        assert running.url.startswith("https://")


def test_bare_listen_serves_every_address_and_warns(folder: Path) -> None:
    with program(folder, "--listen") as running:
        assert running.get("/prompt").status == 200
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("::1", running.port), 2) as six,
        ):
            six.sendall(b"GET /prompt HTTP/1.0\r\n\r\n")
            assert b"200 OK" in six.recv(100)
        assert "Other machines can reach this server" in running.said()


def test_flags_for_uploads_and_other_origins_reach_the_server(folder: Path) -> None:
    flags = ("--max-upload-size", "0.5", "--enable-cors-header", "--dont-print-server")
    with program(folder, *flags) as running:
        assert running.get("/features").json()["max_upload_size"] == 2**19
        answer = running.get("/prompt", headers={"Origin": "https://other.example"})
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
        assert running.post("/prompt", data=b"x" * 2**20).status == 413
        assert running.url not in running.said()


def test_the_browser_is_opened_when_the_server_is_ready(folder: Path) -> None:
    browser, opened = folder / "browser.sh", folder / "opened.txt"
    browser.write_text(f'#!/bin/sh\necho "$1" > {opened}\n')
    browser.chmod(0o700)
    with program(folder, "--auto-launch", environ={"BROWSER": f"{browser} %s"}) as running:
        wait_until(lambda: opened.exists() and opened.read_text())
        assert opened.read_text().strip() == running.url

"""A server for tests: `served` runs one in this process, `program` starts the real one.

Both give a `Client`, which asks over real sockets::

    with served(tmp_path, classes=BASIC) as server:
        server.post("/prompt", {"prompt": ...}).json()

    with program(tmp_path, "--multi-user") as server:
        server.get("/users").json()
"""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import comfy.model_management
import comfy.utils
import folder_paths
import nodes
from app import progress_hook
from app.worker import Worker
from comfy.cli_args import args
from server import PromptServer
from support.environments import environment as environment
from support.server_client import PATIENCE_S as PATIENCE_S
from support.server_client import Answer as Answer
from support.server_client import Client as Client
from support.server_client import Listener as Listener
from support.server_client import LoopThread
from support.server_client import wait_until as wait_until

ROOT = Path(__file__).resolve().parents[2]


# -- a server in this process ----------------------------------------------------------------------


class Served(Client):
    """A client of a server that runs in this process.

    Attributes:
        server: The server.
        worker: Runs its prompts; None if nothing does.
    """

    def __init__(self, server: PromptServer, worker: Worker | None) -> None:
        self.server, self.worker = server, worker
        super().__init__(f"http://127.0.0.1:{server.port}")


class _WorkerThread:
    """A worker that can be ended, which the program's own cannot."""

    def __init__(self, server: PromptServer) -> None:
        self.worker = server.worker = Worker(server.prompt_queue, server)
        self._queue = server.prompt_queue
        self._ended = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended:
            self.worker.step()

    def close(self) -> None:
        """Stop what runs, and end the thread."""
        self._ended = True
        self._queue.wipe_queue()
        comfy.model_management.interrupt_current_processing()
        while self._thread.is_alive():
            # It wakes up to see to a wish.
            self._queue.set_flag("wake_up", True)
            self._thread.join(0.05)
        comfy.model_management.interrupt_current_processing(False)


@contextmanager
def served(
    folder: Path,
    classes: Mapping[str, Any] | None = None,
    prepare: Callable[[PromptServer], Any] | None = None,
    with_worker: bool = True,
    **flags: Any,
) -> Iterator[Served]:
    """A server in this process, on a free port, with folders of its own.

    Args:
        folder: Gets ``input``, ``output``, ``temp``, ``user``.
        classes: Node classes beside the program's own classic ones.
        prepare: Is given the server before its routes are mounted, as packs are.
        with_worker: Whether prompts run.
        **flags: Values of command line flags, such as ``multi_user=True``.
    """
    with pytest.MonkeyPatch.context() as patch:
        _set_aside(patch, folder, classes or {}, flags)
        thread = LoopThread()
        server = thread.call(_made())
        if prepare is not None:
            prepare(server)
        server.add_routes()
        progress_hook.install(server)
        thread.call(_started(server))
        running = _WorkerThread(server) if with_worker else None
        client = Served(server, running.worker if running else None)
        try:
            yield client
        finally:
            client.close()
            if running is not None:
                running.close()
            thread.call(server.stop())
            thread.close()


def _set_aside(
    patch: pytest.MonkeyPatch, folder: Path, classes: Mapping[str, Any], flags: Mapping[str, Any]
) -> None:
    """Let the server have folders, flags and nodes that are gone when it is."""
    for name in ("input", "output", "temp", "user"):
        (folder / name).mkdir(exist_ok=True)
        patch.setattr(folder_paths, f"{name}_directory", str(folder / name))
    for name, value in flags.items():
        patch.setattr(args, name, value)
    for name, kind in classes.items():
        patch.setitem(nodes.NODE_CLASS_MAPPINGS, name, kind)
    patch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", comfy.utils.PROGRESS_BAR_HOOK)
    patch.setattr(PromptServer, "instance", None, raising=False)


async def _made() -> PromptServer:
    return PromptServer(asyncio.get_running_loop())


async def _started(server: PromptServer) -> None:
    await server.setup()
    await server.start("127.0.0.1", 0, verbose=False)
    server.publishing = asyncio.get_running_loop().create_task(  # type: ignore[attr-defined]
        server.publish_loop()
    )


# -- the program in a process of its own -----------------------------------------------------------


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        number: int = probe.getsockname()[1]
    return number


class Program(Client):
    """A client of the program, which runs in a process of its own.

    Attributes:
        process: The process.
        log: File that gets all it says.
    """

    def __init__(self, process: subprocess.Popen[bytes], url: str, log: Path, ssl: Any) -> None:
        self.process, self.log = process, log
        super().__init__(url, ssl)

    def said(self) -> str:
        """All that it has said."""
        return self.log.read_text(errors="replace")

    def stop(self, number: int = signal.SIGINT, timeout: float = PATIENCE_S) -> int:
        """Send a signal; its exit status."""
        self.process.send_signal(number)
        return self.process.wait(timeout)


def command(folder: Path, port: int, *flags: str) -> list[str]:
    """The command line of a server with folders of its own."""
    own = ("--base-directory", str(folder), "--port", str(port))
    return [sys.executable, str(ROOT / "main.py"), "--cpu", *own, *flags]


def start(
    folder: Path,
    *flags: str,
    port: int | None = None,
    environ: Mapping[str, str] | None = None,
    **streams: Any,
) -> subprocess.Popen[Any]:
    """Start the program; `program` also waits until it serves, and ends it.

    Args:
        folder: Its base directory.
        *flags: More of the command line.
        port: Where it shall serve; None for a free one.
        environ: Additions to the environment.
        **streams: Where its output goes, and whether that is text, as `subprocess.Popen` takes it.
    """
    return subprocess.Popen(
        command(folder, free_port() if port is None else port, *flags),
        cwd=ROOT,
        env=environment(**(environ or {})),
        stdin=subprocess.DEVNULL,
        **streams,
    )


@contextmanager
def program(
    folder: Path,
    *flags: str,
    port: int | None = None,
    scheme: str = "http",
    ssl: Any = True,
    timeout: float = 120.0,
    environ: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """The program, serving; it is killed at the end if it still runs.

    Args:
        folder: Its base directory.
        *flags: More of the command line.
        port: Where it serves; None for a free one.
        scheme: "https" if the flags say so.
        ssl: What aiohttp takes: False trusts any certificate.
        timeout: Seconds that it may take to start.
        environ: Additions to the environment.
    """
    number = free_port() if port is None else port
    for name in ("custom_nodes", "input", "output", "user", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    log = folder / "log.txt"
    with log.open("ab") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        process = start(folder, *flags, port=number, environ=environ, **streams)
    try:
        wait_until_open(process, number, log, timeout)
        client = Program(process, f"{scheme}://127.0.0.1:{number}", log, ssl)
        try:
            yield client
        finally:
            client.close()
    finally:
        process.kill()
        process.wait()


def wait_until_open(process: subprocess.Popen[bytes], port: int, log: Path, timeout: float) -> None:
    """Wait until a port takes connections.

    Raises:
        AssertionError: The process ended, or took too long; what it said is in the text.
    """
    deadline = time.monotonic() + timeout
    while not _takes_connections(port):
        said = log.read_text(errors="replace")[-4000:]
        assert process.poll() is None, f"it ended with {process.returncode}:\n{said}"
        assert time.monotonic() < deadline, f"it did not start in time:\n{said}"
        time.sleep(0.05)


def _takes_connections(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True

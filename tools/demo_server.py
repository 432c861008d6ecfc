"""The program in a process of its own, for tools and benchmarks: started, watched, stopped."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent

_LONGEST_START_S = 180.0
_LONGEST_STOP_S = 10.0
_BETWEEN_CALLS_S = 0.005
_LAST_LINES = 20


class NotServing(Exception):
    """The server did not start, or ended; the text has the last lines of its log."""


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def resident_bytes(pid: int) -> int:
    """The memory of a process, with what it shares with others."""
    return int(psutil.Process(pid).memory_info().rss)


class Serving:
    """A server that runs.

    Attributes:
        url: Where it is, without a slash at the end.
        process: Its process.
        log: The file that gets all it says.
        memory_at_start: Resident bytes of the process before its first prompt.
    """

    def __init__(self, url: str, process: subprocess.Popen[bytes], log: Path) -> None:
        self.url, self.process, self.log = url, process, log
        self.memory_at_start = 0

    def peak_memory(self) -> int:
        """The most resident bytes that the process ever had; where none counts them, those it has."""
        try:
            with open(f"/proc/{self.process.pid}/status", encoding="ascii") as stream:
                (line,) = (line for line in stream if line.startswith("VmHWM:"))
            return int(line.split()[1]) * 1024
        except (OSError, ValueError):
            return resident_bytes(self.process.pid)

    def why(self, what: str) -> NotServing:
        """An error with the last lines of the log."""
        lines = self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:]
        return NotServing("\n".join([what, *lines]))

    def wait_until_open(self) -> None:
        """Wait until it takes connections.

        Raises:
            NotServing: It ended, or took too long.
        """
        address = ("127.0.0.1", int(self.url.rpartition(":")[2]))
        deadline = time.monotonic() + _LONGEST_START_S
        while True:
            if self.process.poll() is not None:
                raise self.why(f"The server ended with status {self.process.returncode}:")
            try:
                socket.create_connection(address, 1).close()
            except OSError as err:
                if time.monotonic() > deadline:
                    raise self.why("The server did not start in time:") from err
                time.sleep(_BETWEEN_CALLS_S)
            else:
                self.memory_at_start = resident_bytes(self.process.pid)
                return

    def stop(self) -> None:
        """Ask it to end, as Ctrl-C does; kill it if it does not listen."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM if os.name == "nt" else signal.SIGINT)
        try:
            self.process.wait(_LONGEST_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextmanager
def serving(
    flags: Sequence[str], environment: Mapping[str, str] | None = None
) -> Iterator[Serving]:
    """The program, serving on a free port of this machine; stopped at the end.

    Args:
        flags: More of its command line.
        environment: Its variables; this process's if None.

    Raises:
        NotServing: It did not start.
    """
    port = free_port()
    own = ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch"]
    with tempfile.TemporaryDirectory(prefix="onecopy-demo-") as folder:
        log = Path(folder) / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, str(ROOT / "main.py"), *flags, *own],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                # Ctrl-C is for the demo, which then stops the server itself.
                start_new_session=True,
            )
        server = Serving(f"http://127.0.0.1:{port}", process, log)
        try:
            server.wait_until_open()
            yield server
        finally:
            server.stop()

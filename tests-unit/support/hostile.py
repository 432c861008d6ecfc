"""What hostile requests share: a secret out of their reach, and a way to send them untidied."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.live_program import listing, picture, raw, succeeds
from support.running_server import Program, program

SECRET = b"nobody shall read this"
REFUSED = (400, 401, 403, 404, 405)
MIB = 2**20

# Where requests may write, as far as they name a place in it.
_ALLOWED = ("base/input", "base/output", "base/temp", "base/user", "base/log.txt")


def make_folder(around: Path) -> None:
    """Put a base directory in a folder, and around it what requests must not reach."""
    base = around / "base"
    for path in ("secret.png", "secret.json", "secret.safetensors", "base/secret.png"):
        (around / path).parent.mkdir(exist_ok=True)
        (around / path).write_bytes(SECRET)
    for kind in ("input", "output", "temp", "user/default", "user/other", "models/loras"):
        (base / kind).mkdir(parents=True)
        # Links that lead out are as good as dots.
        (base / kind / "out").symlink_to(around)
    (base / "user" / "other" / "comfy.settings.json").write_bytes(SECRET)


def outside(around: Path) -> dict[str, str]:
    """What is there besides what requests may change."""
    return listing(around, _ALLOWED)


@contextmanager
def served_with_secrets(around: Path) -> Iterator[Program]:
    """The program in such a folder; it takes no more than 1 MiB at a time."""
    with program(around / "base", "--max-upload-size=1") as running:
        # The first prompt does lazily what every prompt needs.
        succeeds(running, picture(0xFFFFFF))
        yield running


def ask(running: Program, method: str, path: str, body: bytes = b"", *headers: str) -> bytes:
    """Send a request as it is written; the answer, its head included."""
    lines = [f"{method} {path} HTTP/1.1", f"Host: 127.0.0.1:{running.port}", *headers]
    if method != "GET":
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join([*lines, "Connection: close", "", ""])
    return raw(running.port, head.encode("latin-1") + body)

"""What tests of the running program share: its prompts, raw requests, and what it did to files."""

from __future__ import annotations

import hashlib
import socket
from collections.abc import Collection
from pathlib import Path
from typing import Any

from support.base_folder import CHECKPOINT as CHECKPOINT
from support.base_folder import link_checkpoint as link_checkpoint
from support.running_server import Program

Prompt = dict[str, dict[str, Any]]


# -- prompts ---------------------------------------------------------------------------------------


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


def picture(color: int = 0, side: int = 8) -> Prompt:
    """A plain picture that is shown; each color is a prompt of its own."""
    return {
        "image": node("EmptyImage", width=side, height=side, batch_size=1, color=color),
        "show": node("PreviewImage", images=["image", 0]),
    }


def sampled(seed: int = 1, steps: int = 2, model: tuple[str, int] = ("model", 0)) -> Prompt:
    """A picture of the checkpoint that comes with the program, 64 by 64, that is shown.

    Args:
        seed: Of the noise.
        steps: Of the sampler.
        model: Where the sampler takes the model from.
    """
    return {
        "model": node("CheckpointLoaderSimple", ckpt_name=CHECKPOINT),
        "yes": node("CLIPTextEncode", text="a purple cross", clip=["model", 1]),
        "no": node("CLIPTextEncode", text="", clip=["model", 1]),
        "size": node("EmptyLatentImage", width=64, height=64, batch_size=1),
        "sampler": node(
            "KSampler",
            model=list(model),
            seed=seed,
            steps=steps,
            cfg=4.0,
            sampler_name="euler",
            scheduler="normal",
            positive=["yes", 0],
            negative=["no", 0],
            latent_image=["size", 0],
            denoise=1.0,
        ),
        "decode": node("VAEDecode", samples=["sampler", 0], vae=["model", 2]),
        "show": node("PreviewImage", images=["decode", 0]),
    }


def succeeds(program: Program, prompt: Prompt, timeout: float = 120.0) -> dict[str, Any]:
    """Run a prompt that must succeed; its entry in the history."""
    entry = program.wait_for_history(program.queue(prompt), timeout)
    assert entry["status"]["status_str"] == "success", entry["status"]
    return entry


# -- requests as they are written ------------------------------------------------------------------


def raw(port: int, request: bytes, timeout: float = 20.0) -> bytes:
    """Send bytes, and take what comes until the other side closes or nothing more comes."""
    with socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.sendall(request)
        answer = b""
        while b"\r\n\r\n" not in answer:
            piece = connection.recv(65536)
            if not piece:
                return answer
            answer += piece
        head, _, body = answer.partition(b"\r\n\r\n")
        while len(body) < _length_in(head):
            piece = connection.recv(65536)
            if not piece:
                break
            body += piece
    return head + b"\r\n\r\n" + body


def _length_in(head: bytes) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0


def status_of(answer: bytes) -> int:
    """The status of an answer in bytes; 0 if the connection was closed without one."""
    words = answer.split(b" ", 2)
    return int(words[1]) if len(words) > 2 else 0


# -- traces ----------------------------------------------------------------------------------------


def listing(folder: Path, leave_out: Collection[str] = ()) -> dict[str, str]:
    """All that is in a folder: by relative path a file's hash, a link's target, "" for folders.

    Args:
        folder: The folder.
        leave_out: Relative paths that are left out, with all that is in them.
    """
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if any(name == one or name.startswith(f"{one}/") for one in leave_out):
            continue
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            found[name] = ""
    return found


def descriptors(program: Program) -> int:
    """How many files and sockets the program has open."""
    return len(list(Path(f"/proc/{program.process.pid}/fd").iterdir()))


def own_bytes(program: Program) -> int:
    """The memory that is the program's own: PSS, with a fair part of what it shares."""
    text = Path(f"/proc/{program.process.pid}/smaps_rollup").read_text()
    (line,) = [one for one in text.splitlines() if one.startswith("Pss:")]
    return int(line.split()[1]) * 1024

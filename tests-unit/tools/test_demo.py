"""``make demo`` as a user runs it: a server, six pictures, what is in them, what memory they took."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from PIL import Image
from rich.progress import Progress

import nodes
from app.headless.page_graph import to_prompt
from support.environments import environment
from tools import demo_client
from tools.demo_server import NotServing, serving

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment(COLUMNS="200"),
    )


def servers(word: str) -> list[int]:
    """Processes that have a word in their command line."""
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if any(word in part for part in one.info["cmdline"] or ())]


def inputs_of(prompt: dict[str, Any]) -> dict[str, Any]:
    return {number: (node["class_type"], node["inputs"]) for number, node in prompt.items()}


def test_demo_draws_six_pictures_and_tells_what_is_seen_and_the_memory(tmp_path: Path) -> None:
    ended = demo("--cpu", "--load-strategy=file-slice", f"--output-directory={tmp_path}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    pictures = sorted((tmp_path / "demo").iterdir())
    assert len(pictures) == 6
    assert all(str(path) in ended.stdout for path in pictures)
    for path in pictures:
        with Image.open(path) as picture:
            prompt, page = (json.loads(picture.text[key]) for key in ("prompt", "workflow"))
        shown = to_prompt(page, nodes.NODE_CLASS_MAPPINGS, nodes.NODE_DISPLAY_NAME_MAPPINGS)
        assert inputs_of(shown) == inputs_of(prompt)
    for seen in ("red circle on white", "blue star on black", "purple cross on white"):
        assert seen in ended.stdout
    lines = ended.stdout.splitlines()
    for words in (("strategy", "file-slice"), ("weights on the host", "MiB"), ("peak", "MiB")):
        assert any(all(word in line for word in words) for line in lines), words
    assert "make run" in lines[-1]


def test_without_the_checkpoint_it_says_what_the_server_says_and_stops_it(tmp_path: Path) -> None:
    ended = demo("--cpu", f"--base-directory={tmp_path}", f"--output-directory={tmp_path}")
    assert ended.returncode == 1
    assert "The server refused the prompt" in ended.stdout
    assert "CheckpointLoaderSimple 1: " in ended.stdout
    assert "Traceback" not in ended.stderr
    assert servers(str(tmp_path)) == []


def test_a_server_that_does_not_start_is_told_with_the_end_of_its_log() -> None:
    told = r"ended with status \d+:\n[^$]*--no-such-flag"
    with pytest.raises(NotServing, match=told), serving(["--no-such-flag"]):
        pass
    assert servers("--no-such-flag") == []


def test_a_server_that_falls_silent_is_not_waited_for_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def say_nothing(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        await socket.receive()
        return socket

    async def take(request: web.Request) -> web.Response:
        return web.json_response({"prompt_id": "1"})

    async def draw() -> None:
        app = web.Application()
        app.add_routes([web.get("/ws", say_nothing), web.post("/prompt", take)])
        async with TestServer(app) as server, aiohttp.ClientSession() as http:
            client = demo_client.Client(str(server.make_url("")).rstrip("/"), http)
            with Progress(disable=True) as progress:
                await client.draw([demo_client.Work({}, {})], progress)

    monkeypatch.setattr(demo_client, "_LONGEST_SILENCE_S", 0.05)
    with pytest.raises(demo_client.NotDrawn, match="said nothing"):
        asyncio.run(draw())

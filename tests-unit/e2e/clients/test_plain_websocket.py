"""A client of two parts that many scripts are made of: urllib for requests, a blocking websocket."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import websocket
from PIL import Image

from support.base_folder import EXAMPLE, ROOT
from support.running_server import Program
from tools.shapes.reading import read

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# A frame's first eight bytes: what it is, and in which format the picture is.
_HEAD_BYTES = 8


class Script:
    """Queues prompts, and waits for them by reading the websocket."""

    def __init__(self, url: str, client_id: str | None = None) -> None:
        self.url = url
        self.client_id = client_id or str(uuid.uuid4())
        self.socket = websocket.WebSocket()
        self.socket.connect(f"{url.replace('http', 'ws', 1)}/ws?clientId={self.client_id}")

    def queue(self, prompt: dict[str, Any]) -> str:
        # No content type is named: urllib then says that it is a form.
        body = json.dumps({"prompt": prompt, "client_id": self.client_id}).encode()
        with urllib.request.urlopen(f"{self.url}/prompt", data=body) as answer:
            prompt_id: str = json.load(answer)["prompt_id"]
        return prompt_id

    def frames_until_done(self, prompt_id: str) -> Iterator[tuple[str | None, bytes]]:
        """Binary frames, each with the node that ran when it came."""
        running = None
        while True:
            frame = self.socket.recv()
            if isinstance(frame, bytes):
                yield running, frame
                continue
            message = json.loads(frame)
            if message["type"] == "executing":
                data = message["data"]
                if data["node"] is None and data["prompt_id"] == prompt_id:
                    return
                running = data["node"]

    def get(self, path: str, **query: str) -> bytes:
        address = f"{self.url}{path}?{urllib.parse.urlencode(query)}"
        with urllib.request.urlopen(address) as answer:
            content: bytes = answer.read()
        return content


@pytest.fixture
def script(server: Program) -> Iterator[Script]:
    script = Script(server.url)
    yield script
    script.socket.close()


@pytest.fixture
def prompt() -> dict[str, Any]:
    graph: dict[str, Any] = json.loads(EXAMPLE.read_text())
    return graph


def seen_in(content: bytes) -> tuple[str, str]:
    seen = read(Image.open(io.BytesIO(content)))
    return seen.colour, seen.shape


def test_pictures_are_found_through_the_history_when_the_websocket_says_done(
    script: Script, prompt: dict[str, Any]
) -> None:
    prompt["2"]["inputs"]["text"] = "a large blue star on a black background"
    prompt_id = script.queue(prompt)
    for _ in script.frames_until_done(prompt_id):
        pass
    outputs = json.loads(script.get(f"/history/{prompt_id}"))[prompt_id]["outputs"]
    (image,) = outputs["7"]["images"]
    assert seen_in(script.get("/view", **image)) == ("blue", "star")


def test_pictures_that_are_not_saved_come_over_the_websocket(
    script: Script, prompt: dict[str, Any]
) -> None:
    prompt["7"] = {"class_type": "SaveImageWebsocket", "inputs": {"images": ["6", 0]}}
    frames = list(script.frames_until_done(script.queue(prompt)))
    pictures = [frame[_HEAD_BYTES:] for node, frame in frames if node == "7"]
    assert [seen_in(picture) for picture in pictures] == [("red", "circle")]


def test_the_script_in_the_docs_runs_as_it_stands(server: Program, tmp_path: Path) -> None:
    told = (ROOT / "docs" / "clients.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", told, re.DOTALL)
    address = server.url.removeprefix("http://")
    assert code.count("127.0.0.1:8188") == 1
    code = code.replace("127.0.0.1:8188", address).replace("examples/", f"{ROOT}/examples/")
    ended = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (path,) = tmp_path.glob("*.png")
    assert seen_in(path.read_bytes()) == ("blue", "star")


def test_it_may_connect_anew_with_the_same_id_between_two_prompts(
    script: Script, prompt: dict[str, Any]
) -> None:
    script.socket.close()
    again = Script(script.url, script.client_id)
    prompt["5"]["inputs"]["seed"] = 2
    prompt_id = again.queue(prompt)
    for _ in again.frames_until_done(prompt_id):
        pass
    assert prompt_id in json.loads(again.get(f"/history/{prompt_id}"))
    again.socket.close()

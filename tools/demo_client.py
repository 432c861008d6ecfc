"""A client of the server: queues prompts over HTTP, follows them on the websocket, fetches pictures."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
from rich.progress import Progress, TaskID

_LONGEST_SILENCE_S = 300.0


class NotDrawn(Exception):
    """A prompt was refused, or its run did not end well; the text says why."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked for.

    Attributes:
        prompt: In the form that the page exports for the API.
        page: The same in the page's own form, which the picture's file then holds as well.
    """

    prompt: Mapping[str, Any]
    page: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Picture:
    """What a prompt made.

    Attributes:
        name: Name of the file.
        subfolder: Its folder, seen from the output folder.
        content: The file's bytes.
        seconds: How long the prompt ran.
    """

    name: str
    subfolder: str
    content: bytes
    seconds: float


class Bars:
    """Two progress bars: pictures, and steps of the node that runs."""

    def __init__(self, progress: Progress, pictures: int) -> None:
        self._progress = progress
        self._all = progress.add_task("pictures", total=pictures)
        self._node: TaskID | None = None

    def show_node(self, title: str | None) -> None:
        """A node begins; None if there is none."""
        # A bar cannot forget its total.
        if self._node is not None:
            self._progress.remove_task(self._node)
        self._node = self._progress.add_task(title, total=None) if title else None

    def show_steps(self, value: float, total: float) -> None:
        """How far it is."""
        if self._node is not None:
            self._progress.update(self._node, completed=value, total=total)

    def one_more(self) -> None:
        """A picture is done."""
        self._progress.advance(self._all)


class Client:
    """Asks a server, over one connection for what it tells by itself."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        """Prepare; asks nothing yet.

        Args:
            url: Where the server is, without a slash at the end.
            http: Sends the requests.
        """
        self.url, self.http = url, http
        self.client_id = uuid.uuid4().hex

    async def ask(self, path: str, **query: str) -> Any:
        """The JSON at a path."""
        async with self.http.get(self.url + path, params=query) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def draw(self, work: Sequence[Work], progress: Progress) -> list[Picture]:
        """Queue all prompts, wait until all are done, and fetch the first picture of each.

        Args:
            work: The prompts.
            progress: Shows how far they are.

        Raises:
            NotDrawn: One was refused, or failed.
            aiohttp.ClientError: The server is gone.
        """
        bars = Bars(progress, len(work))
        async with self.http.ws_connect(f"{self.url}/ws?clientId={self.client_id}") as socket:
            queued = {await self._queue(one): one.prompt for one in work}
            for prompt_id, prompt in queued.items():
                await _follow(socket, prompt_id, prompt, bars)
        return [await self._fetch(prompt_id) for prompt_id in queued]

    async def _queue(self, work: Work) -> str:
        extra = {"extra_pnginfo": {"workflow": work.page}}
        body = {"prompt": work.prompt, "client_id": self.client_id, "extra_data": extra}
        async with self.http.post(f"{self.url}/prompt", json=body) as answer:
            told = await answer.json()
        if answer.status != 200:
            raise NotDrawn(_why_refused(told))
        return str(told["prompt_id"])

    async def _fetch(self, prompt_id: str) -> Picture:
        entry = (await self.ask(f"/history/{prompt_id}"))[prompt_id]
        stamps = {kind: data["timestamp"] for kind, data in entry["status"]["messages"]}
        seconds = (stamps["execution_success"] - stamps["execution_start"]) / 1000
        found = [image for out in entry["outputs"].values() for image in out.get("images", ())]
        if not found:
            raise NotDrawn(f"Prompt {prompt_id} ended without a picture.")
        async with self.http.get(f"{self.url}/view", params=found[0]) as answer:
            answer.raise_for_status()
            content = await answer.read()
        return Picture(found[0]["filename"], found[0]["subfolder"], content, seconds)


async def _follow(
    socket: aiohttp.ClientWebSocketResponse[bool],
    prompt_id: str,
    prompt: Mapping[str, Any],
    bars: Bars,
) -> None:
    """Show how far a prompt is, until it is done."""
    while True:
        try:
            message = await socket.receive(_LONGEST_SILENCE_S)
        except asyncio.TimeoutError:
            raise NotDrawn(f"The server said nothing for {_LONGEST_SILENCE_S:g} seconds.") from None
        if message.type is aiohttp.WSMsgType.BINARY:
            continue
        if message.type is not aiohttp.WSMsgType.TEXT:
            raise aiohttp.ServerDisconnectedError("The server closed the connection.")
        told = json.loads(message.data)
        kind, data = told["type"], told["data"]
        if data.get("prompt_id") != prompt_id:
            continue
        if kind == "progress":
            bars.show_steps(data["value"], data["max"])
        elif kind == "execution_error":
            raise NotDrawn(f"{data['node_type']} {data['node_id']}: {data['exception_message']}")
        elif kind == "execution_interrupted":
            raise NotDrawn("The prompt was interrupted.")
        elif kind == "executing" and data["node"] is None:
            bars.show_node(None)
            bars.one_more()
            return
        elif kind == "executing":
            bars.show_node(_title(prompt, data["display_node"]))


def _title(prompt: Mapping[str, Any], node_id: str) -> str:
    node = prompt.get(node_id, {})
    return str(node.get("_meta", {}).get("title") or node.get("class_type") or node_id)


def _why_refused(told: Mapping[str, Any]) -> str:
    lines = [f"The server refused the prompt: {told['error']['message']}"]
    for node_id, node in told["node_errors"].items():
        where = f"{node['class_type']} {node_id}"
        lines += [f"{where}: {one['message']}: {one['details']}" for one in node["errors"]]
    return "\n".join(lines)

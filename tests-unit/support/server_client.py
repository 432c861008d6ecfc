"""A client for tests of servers: asks over real sockets, from a loop in a thread of its own."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import yarl

PATIENCE_S = 30.0

_T = TypeVar("_T")


class LoopThread:
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, task: Coroutine[Any, Any, _T], timeout: float = PATIENCE_S) -> _T:
        """Run a coroutine there, and wait for it."""
        return asyncio.run_coroutine_threadsafe(task, self.loop).result(timeout)

    def close(self) -> None:
        """Cancel what still runs there, and end the thread."""
        self.call(_cancel_all())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


async def _cancel_all() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        status: 200 and the like.
        headers: By name, without regard to case.
        body: All of it.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The strict JSON in the body."""
        return json.loads(self.body, parse_constant=_refuse)


def _refuse(word: str) -> Any:
    raise AssertionError(f"{word} is no JSON")


@dataclass
class Listener:
    """A page's websocket: all that came, as it came.

    Attributes:
        client_id: Its id.
        messages: Texts as (type, data), bytes as (number, bytes).
    """

    client_id: str
    _socket: aiohttp.ClientWebSocketResponse[bool]
    _thread: LoopThread
    messages: list[tuple[Any, Any]] = field(default_factory=list)
    _news: threading.Condition = field(default_factory=threading.Condition)
    is_closed: bool = False

    async def listen(self) -> None:
        """Keep what comes, until the end."""
        async for message in self._socket:
            if message.type is aiohttp.WSMsgType.TEXT:
                told = json.loads(message.data, parse_constant=_refuse)
                self._keep((told["type"], told["data"]))
            elif message.type is aiohttp.WSMsgType.BINARY:
                self._keep((int.from_bytes(message.data[:4], "big"), message.data[4:]))
        with self._news:
            self.is_closed = True
            self._news.notify_all()

    def _keep(self, message: tuple[Any, Any]) -> None:
        with self._news:
            self.messages.append(message)
            self._news.notify_all()

    def say(self, message: Any) -> None:
        """Send JSON, or a text as it is."""
        text = message if isinstance(message, str) else json.dumps(message)
        self._thread.call(self._socket.send_str(text))

    def wait_for(
        self, wanted: Callable[[Any, Any], bool] | str | int, timeout: float = PATIENCE_S
    ) -> Any:
        """The data of the first message that is meant; waits for it if it is not there yet.

        Args:
            wanted: Says of type and data whether it is; or the type.
            timeout: Seconds.

        Raises:
            AssertionError: None came in time.
        """
        fits = wanted if callable(wanted) else (lambda kind, _: kind == wanted)

        def found() -> list[Any]:
            return [data for kind, data in self.messages if fits(kind, data)]

        with self._news:
            came = self._news.wait_for(lambda: found() or self.is_closed, timeout)
            assert came and found(), f"not told in time; last messages: {self.messages[-5:]}"
            return found()[0]

    def wait_for_end(self, prompt_id: str, timeout: float = PATIENCE_S) -> None:
        """Wait until the server says that a prompt is over."""

        def is_end(kind: Any, data: Any) -> bool:
            return kind == "executing" and data["node"] is None and data["prompt_id"] == prompt_id

        self.wait_for(is_end, timeout)

    def of(self, *kinds: Any) -> list[Any]:
        """Data of all messages of these types, in order."""
        with self._news:
            return [data for kind, data in self.messages if kind in kinds]

    def kinds(self) -> list[Any]:
        """Types of all messages, in order."""
        with self._news:
            return [kind for kind, _ in self.messages]

    def wait_until_closed(self, timeout: float = PATIENCE_S) -> int | None:
        """Wait until the other side has gone; the code that it gave."""
        with self._news:
            assert self._news.wait_for(lambda: self.is_closed, timeout), "it is still open"
        return self._socket.close_code

    def close(self) -> None:
        """Go."""
        self._thread.call(self._close())

    async def _close(self) -> None:
        await self._socket.close()


class Client:
    """Asks a server.

    Attributes:
        url: Where it is, without a slash at the end.
        session: For what is not offered here; use it in `thread`.
        thread: Where requests run.
    """

    def __init__(self, url: str, ssl: Any = True) -> None:
        self.url = url.rstrip("/")
        self.thread = LoopThread()
        self._ssl = ssl
        self.session = self.thread.call(self._open())

    @property
    def port(self) -> int:
        """Where it is on its machine."""
        found = yarl.URL(self.url).port
        assert found is not None
        return found

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._ssl, limit=0))

    def get(self, path: str, **options: Any) -> Answer:
        """Send a GET; options are those of aiohttp, such as ``params`` and ``headers``."""
        return self.request("GET", path, **options)

    def post(self, path: str, value: Any = None, **options: Any) -> Answer:
        """Send a POST with a value as JSON, if there is one; give ``data`` for anything else."""
        return self.request("POST", path, **({} if value is None else {"json": value}), **options)

    def request(self, method: str, path: str, **options: Any) -> Answer:
        """Send a request; the path is taken as it is, percent signs too."""
        return self.thread.call(self._request(method, path, options))

    async def _request(self, method: str, path: str, options: dict[str, Any]) -> Answer:
        from_here = {"allow_redirects": False, **options}
        url = yarl.URL(self.url + path, encoded="params" not in options)
        async with self.session.request(method, url, **from_here) as response:
            return Answer(response.status, response.headers, await response.read())

    def listen(
        self, client_id: str = "page", features: Mapping[str, Any] | None = None, **options: Any
    ) -> Listener:
        """Connect a page, and wait for the server's greeting.

        Args:
            client_id: Its id.
            features: What it says it can do, as its first message; nothing is said if None.
            **options: Of aiohttp's ``ws_connect``.
        """
        listener = self.thread.call(self._connect(client_id, options))
        listener.wait_for("status")
        if features is not None:
            listener.say({"type": "feature_flags", "data": dict(features)})
            listener.wait_for("feature_flags")
        return listener

    async def _connect(self, client_id: str, options: dict[str, Any]) -> Listener:
        socket = await self.session.ws_connect(f"{self.url}/ws?clientId={client_id}", **options)
        listener = Listener(client_id, socket, self.thread)
        self._listening = asyncio.get_running_loop().create_task(listener.listen())
        return listener

    def queue(self, prompt: Mapping[str, Any], **body: Any) -> str:
        """Send a prompt that must be taken; its id."""
        answer = self.post("/prompt", {"prompt": prompt, **body})
        assert answer.status == 200, answer.body
        prompt_id: str = answer.json()["prompt_id"]
        return prompt_id

    def wait_for_history(self, prompt_id: str, timeout: float = PATIENCE_S) -> dict[str, Any]:
        """The entry of a prompt, once it has one."""
        return wait_until(lambda: self.get(f"/history/{prompt_id}").json().get(prompt_id), timeout)

    def close(self) -> None:
        """End all connections."""
        self.thread.call(self.session.close())
        self.thread.close()


def wait_until(happened: Callable[[], _T], timeout: float = PATIENCE_S) -> _T:
    """Ask again and again until the answer is true.

    Raises:
        AssertionError: It did not become so in time.
    """
    deadline = time.monotonic() + timeout
    while not (answer := happened()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.01)
    return answer

"""Routes served over a real socket, and requests that go out as they are written.

Clients of aiohttp tidy addresses up; what has to be refused must arrive untidied.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aiohttp import web


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    def json(self) -> Any:
        """The body's JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server that runs."""

    port: int

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        """Send one request on a connection of its own.

        Args:
            method: Such as "GET".
            path: Sent as it is.
            body: Sent as it is.
            headers: Besides those that HTTP needs.
        """
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            data = body.encode() if isinstance(body, str) else body
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        """GET."""
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, value: Any = None, **headers: str) -> Answer:
        """POST a value as JSON."""
        return self.ask("POST", path, json.dumps(value), headers)


@contextmanager
def serve(
    fill: Callable[[web.Application], None], client_max_size: int = 1 << 20
) -> Iterator[Served]:
    """Serve in a thread until the block ends.

    Args:
        fill: Adds the routes; called in the loop's thread.
        client_max_size: Of a request's body, in bytes.
    """
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    async def begin() -> tuple[web.AppRunner, int]:
        app = web.Application(client_max_size=client_max_size)
        fill(app)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return runner, runner.addresses[0][1]

    try:
        runner, port = asyncio.run_coroutine_threadsafe(begin(), loop).result(20)
        yield Served(port)
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(20)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def serve_table(
    register: Callable[[web.RouteTableDef], Any], client_max_size: int = 1 << 20
) -> Any:
    """`serve` the routes that a function puts in a table."""

    def fill(app: web.Application) -> None:
        table = web.RouteTableDef()
        register(table)
        app.add_routes(table)

    return serve(fill, client_max_size)


TRAVERSALS = (
    "..%2F..%2Fsecret.txt",
    "%2e%2e%2f%2e%2e%2fsecret.txt",
    "..%252F..%252Fsecret.txt",
    "%252e%252e%252f%252e%252e%252fsecret.txt",
    "..%5C..%5Csecret.txt",
    "sub%2F..%2F..%2F..%2Fsecret.txt",
    "%2Fetc%2Fpasswd",
    "%2F%2Fetc%2Fpasswd",
    "%5C%5Chost%5Cshare",
    "C%3A%5Cwindows%5Cwin.ini",
    "C%3Asecret.txt",
    "a.txt%00.png",
    "%00",
    "..",
    "%2e%2e",
    "....%2F%2F..%2F..%2Fsecret.txt",
    "out%2Fsecret.txt",
    "secret_link.txt",
)
"""Ways out of a folder, percent-encoded; the last two want `plant_ways_out`."""


def plant_ways_out(folder: Any, secret: bytes = b"the secret") -> None:
    """Put a secret two folders above and a folder beside, and links to both into a folder."""
    top = folder.parent.parent
    (top / "secret.txt").write_bytes(secret)
    (top / "beside").mkdir(exist_ok=True)
    (top / "beside" / "secret.txt").write_bytes(secret)
    (folder / "out").symlink_to(top / "beside")
    (folder / "secret_link.txt").symlink_to(top / "secret.txt")

"""Slow, flooding and vanishing pages: none of them holds up the others."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from api_server import sockets
from api_server.sockets import Clients, Outbox
from support.running_server import Listener, Served, wait_until
from support.server_nodes import shown


class Pipe:
    """Stands for a socket whose other side reads when it is let."""

    def __init__(self) -> None:
        self.sent: list[Any] = []
        self.may_read = asyncio.Event()

    async def send_str(self, text: str) -> None:
        await self.may_read.wait()
        self.sent.append(text)

    async def send_bytes(self, data: bytes) -> None:
        await self.send_str(data)  # type: ignore[arg-type]


class Connection:
    """Stands for a request: knows only whether its connection was cut."""

    def __init__(self) -> None:
        self.transport = self
        self.is_cut = False

    def abort(self) -> None:
        self.is_cut = True


async def _settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def _outbox() -> tuple[Outbox, Pipe, Connection]:
    pipe, connection = Pipe(), Connection()
    return Outbox(pipe, connection), pipe, connection  # type: ignore[arg-type]


def test_messages_are_sent_in_order_when_the_page_reads() -> None:
    async def check() -> None:
        outbox, pipe, _ = await _outbox()
        for message in ("a", b"b", "c"):
            outbox.put(message)
        await _settle()
        assert pipe.sent == []
        pipe.may_read.set()
        await _settle()
        outbox.put("d")
        await _settle()
        assert pipe.sent == ["a", b"b", "c", "d"]

    asyncio.run(check())


def test_of_a_crowd_only_what_matters_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "CROWDED", 3)

    async def check() -> None:
        outbox, pipe, _ = await _outbox()
        for number in range(10):
            outbox.put(f"step {number}", can_be_lost=True)
            await _settle()
        outbox.put("end")
        pipe.may_read.set()
        await _settle()
        assert pipe.sent == ["step 0", "step 1", "step 2", "step 3", "end"]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("name", "value", "patience", "taken"),
    [
        ("FULL", 5, 0, 6),
        ("FULL_BYTES", 5000, 0, 6),
        ("FULL", 5, 60, 21),
        ("FULL_BYTES", 5000, 60, 21),
    ],
    ids=["stalled, count", "stalled, size", "slow, count", "slow, size"],
)
def test_a_page_that_never_reads_is_cut_off(
    name: str,
    value: int,
    patience: float,
    taken: int,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(sockets, name, value)
    monkeypatch.setattr(sockets, "STALLED_S", patience)

    async def check() -> None:
        outbox, pipe, connection = await _outbox()
        # The first of them is on its way.
        for _ in range(taken):
            outbox.put("x" * 1000)
            await _settle()
        assert not connection.is_cut
        outbox.put("x")
        assert connection.is_cut
        outbox.put("nothing more")
        pipe.may_read.set()
        await _settle()
        assert pipe.sent == []

    asyncio.run(check())
    assert "too slowly" in caplog.text


def test_a_socket_that_a_pack_put_in_its_place_is_used() -> None:
    async def check() -> None:
        clients, pipe = Clients(), Pipe()
        pipe.may_read.set()
        clients.sockets["page"] = pipe  # type: ignore[assignment]
        clients.send("hello", "page")
        clients.send("nobody", "gone")
        await _settle()
        assert pipe.sent == ["hello"]

    asyncio.run(check())


# -- over real sockets -----------------------------------------------------------------------------


@contextlib.contextmanager
def _deaf_page(server: Served) -> Iterator[socket.socket]:
    """A page that connects, and never reads what it is sent."""
    with socket.socket() as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.connect(("127.0.0.1", server.server.port))
        deaf.sendall(
            b"GET /ws?clientId=deaf HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\n"
            b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        wait_until(lambda: "deaf" in server.server.sockets)
        yield deaf


def test_a_page_that_does_not_read_holds_up_no_other(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "FULL_BYTES", 8 * 2**20)
    monkeypatch.setattr(sockets, "STALLED_S", 0)
    page = server.listen("page")
    with _deaf_page(server):
        started = time.monotonic()
        for number in range(40):
            server.server.send_sync("bulk", "x" * 2**20, "deaf")
            server.server.send_sync("count", number, "page")
        page.wait_for(lambda kind, data: (kind, data) == ("count", 39))
        page.wait_for_end(server.queue(shown("Keep"), client_id="page"))
        assert time.monotonic() - started < 10
        wait_until(lambda: set(server.server.sockets) == {"page"})


def test_a_flood_of_messages_from_a_page_is_read_away(server: Served) -> None:
    flood, page = server.listen("flood"), server.listen("page")
    server.thread.call(_flood(flood, 5000))
    page.wait_for_end(server.queue(shown("Keep"), client_id="page"))
    assert server.get("/prompt").status == 200
    server.server.send_sync("still there?", {}, "flood")
    flood.wait_for("still there?")


async def _flood(page: Listener, count: int) -> None:
    for _ in range(count):
        await page._socket.send_str('{"type": "noise", "data": "' + "x" * 100 + '"}')
        await page._socket.send_bytes(b"noise")


def test_a_message_that_is_too_large_ends_only_its_own_connection(server: Served) -> None:
    big, page = server.listen("big"), server.listen("page")
    with contextlib.suppress(OSError):
        big.say("x" * (5 * 2**20))
    big.wait_until_closed()
    wait_until(lambda: set(server.server.sockets) == {"page"})
    page.wait_for_end(server.queue(shown("Keep"), client_id="page"))


def test_many_pages_come_and_go(server: Served) -> None:
    for number in range(30):
        server.listen(f"page {number}".replace(" ", "%20")).close()
    wait_until(lambda: not server.server.sockets)
    server.wait_for_history(server.queue(shown("Keep"), client_id="page%201"))
    assert server.server.clients._outboxes == {}

"""Floods of sockets, halves of requests, listeners beyond this machine: nobody is held up."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.hostile import MIB
from support.live_program import (
    descriptors,
    listing,
    node,
    own_bytes,
    picture,
    succeeds,
)
from support.running_server import Program, free_port, program, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("untouched")]


# -- websockets ------------------------------------------------------------------------------------


def test_messages_of_all_kinds_are_taken_in(running: Program) -> None:
    page = running.listen("talker")
    for text in ("", "{", "null", "[]", '{"type": 5}', '{"type": "feature_flags", "data": []}'):
        page.say(text)
    page.say("[" * 100_000)
    page.say('{"type": "feature_flags", "data": {"supports_preview_metadata": {"a": []}}}')
    succeeds(running, picture(11))
    page.close()


def test_a_flood_of_sockets_and_messages_is_survived(running: Program) -> None:
    before, open_before = own_bytes(running), descriptors(running)

    async def one(session: aiohttp.ClientSession, number: int) -> None:
        # Every other one takes the place of the one before.
        address = f"{running.url}/ws?clientId=flood-{number // 2}"
        async with session.ws_connect(address, max_msg_size=0) as socket:
            for _ in range(50):
                await socket.send_str('{"type": "feature_flags", "data": {}}')
                await socket.send_bytes(bytes(1000))

    async def flood() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            jobs = (one(session, number) for number in range(200))
            await asyncio.gather(*jobs, return_exceptions=True)

    asyncio.run(flood())
    succeeds(running, picture(12))
    wait_until(lambda: descriptors(running) < open_before + 10)
    assert own_bytes(running) - before < 64 * MIB


def test_a_message_that_is_too_large_ends_only_its_socket(running: Program) -> None:
    page, other = running.listen("large"), running.listen("other")
    with contextlib.suppress(ConnectionError):
        # The server may have gone before all is sent.
        page.say("x" * 8 * MIB)
    # The code for too large a message; none if the rest of it met a closed door.
    assert page.wait_until_closed() in (1009, 1006)
    prompt_id = running.queue(picture(13), client_id="other")
    other.wait_for_end(prompt_id)
    other.close()


def test_a_page_that_never_reads_holds_up_neither_prompts_nor_memory(running: Program) -> None:
    before = own_bytes(running)
    prompt = picture(14)
    last = "image"
    for number in range(3000):
        prompt[f"n{number}"] = node("ImageInvert", image=[last, 0])
        last = f"n{number}"
    prompt["show"] = node("PreviewImage", images=[last, 0])
    with socket.create_connection(("127.0.0.1", running.port), 20) as deaf:
        deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        deaf.sendall(
            b"GET /ws?clientId=deaf HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        assert deaf.recv(12) == b"HTTP/1.1 101"
        prompt_id = running.queue(prompt, client_id="deaf")
        entry = running.wait_for_history(prompt_id, 120)
    assert entry["status"]["status_str"] == "success"
    assert own_bytes(running) - before < 128 * MIB


# -- connections that say half of it ---------------------------------------------------------------

HALVES = {
    "nothing": b"",
    "half a line": b"GET /prom",
    "half a head": b"GET /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\n",
    "half a body": b"POST /prompt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{",
    "half an upload": b"POST /upload/image HTTP/1.1\r\nHost: 127.0.0.1\r\n"
    b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 5000\r\n\r\n"
    b'--x\r\nContent-Disposition: form-data; name="image"; filename="half.png"\r\n\r\nabc',
}


@pytest.mark.parametrize("half", HALVES)
def test_connections_that_stay_half_open_hold_nobody_up(
    running: Program, folder: Path, half: str
) -> None:
    before, files = descriptors(running), listing(folder / "base" / "input")

    async def hold(seconds_of_use: Any) -> None:
        pairs = await asyncio.gather(
            *(asyncio.open_connection("127.0.0.1", running.port) for _ in range(100))
        )
        for _, writer in pairs:
            writer.write(HALVES[half])
        await asyncio.to_thread(seconds_of_use)
        for _, writer in pairs:
            writer.transport.abort()

    asyncio.run(hold(lambda: succeeds(running, picture(20))))
    wait_until(lambda: descriptors(running) < before + 10)
    assert listing(folder / "base" / "input") == files


# -- strangers -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("listen", "warns"), [("0.0.0.0", True), ("127.0.0.1", False)])
def test_the_log_warns_of_strangers_beyond_this_machine(
    tmp_path: Path, listen: str, warns: bool
) -> None:
    with program(tmp_path, f"--listen={listen}", port=free_port()) as one:
        assert one.get("/prompt").status == 200
        wait_until(lambda: one.url.rpartition("//")[2].replace("127.0.0.1", "") in one.said())
        assert ("Other machines can reach this server" in one.said()) == warns

"""Requests of other sites, too large ones, and bodies that are no JSON: refused by the right status."""

from __future__ import annotations

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from support.hostile import MIB, REFUSED, ask
from support.live_program import (
    listing,
    picture,
    raw,
    status_of,
)
from support.running_server import Program

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.usefixtures("untouched")]


# -- other sites -----------------------------------------------------------------------------------

CHANGING = (
    "/prompt",
    "/queue",
    "/interrupt",
    "/free",
    "/history",
    "/upload/image",
    "/users",
    "/settings",
    "/userdata/x.json",
    "/api/jobs/cancel",
)


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1", "null"])
@pytest.mark.parametrize("path", CHANGING)
def test_another_site_cannot_post(running: Program, path: str, origin: str) -> None:
    body = json.dumps({"prompt": picture(5), "clear": True}).encode()
    # What browsers send; the second one tells a page in a sandbox from a file of the user's own.
    sender = (f"Origin: {origin}", "Sec-Fetch-Site: cross-site")
    answer = ask(running, "POST", path, body, *sender)
    assert status_of(answer) == 403, answer


@pytest.mark.parametrize("path", ["/ws", "/api/ws"])
def test_another_site_cannot_listen(running: Program, path: str) -> None:
    answer = ask(
        running,
        "GET",
        f"{path}?clientId=spy",
        b"",
        "Origin: http://evil.example",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    assert status_of(answer) == 403


# -- too much --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/prompt", "/settings", "/userdata/big.json", "/queue"])
def test_a_body_beyond_the_limit_is_refused(running: Program, path: str) -> None:
    answer = running.request("POST", path, data=BytesIO(b'{"a": "' + b"x" * 2 * MIB + b'"}'))
    assert answer.status == 413
    assert not (Path(running.log).parent / "user" / "default" / "big.json").exists()


@pytest.mark.parametrize("route", ["image", "mask"])
def test_an_upload_beyond_the_limit_is_refused_and_leaves_nothing(
    running: Program, folder: Path, route: str
) -> None:
    before = listing(folder / "base" / "input")
    form = aiohttp.FormData()
    form.add_field("image", BytesIO(b"x" * 3 * MIB), filename="big.png")
    assert running.request("POST", f"/upload/{route}", data=form).status == 413
    assert listing(folder / "base" / "input") == before


def test_a_body_whose_length_nobody_told_is_limited_too(running: Program) -> None:
    async def pieces() -> Any:
        for _ in range(64):
            yield b"x" * 65536

    assert running.request("POST", "/userdata/big.json", data=pieces()).status == 413


SMUGGLED = (
    b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n"
    b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
)


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n" + b"X: y\r\n" * 100_000 + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"POST /prompt HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
        SMUGGLED,
        b"POST /prompt HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\nx\r\n",
    ],
    ids=["long line", "long header", "many headers", "TLS", "negative", "smuggling", "chunk"],
)
def test_what_is_no_request_is_refused(running: Program, head: bytes) -> None:
    try:
        status = status_of(raw(running.port, head))
    except ConnectionError:
        # Cut before all was sent.
        status = 0
    assert status in (0, *REFUSED, 413, 414, 431)
    assert running.get("/prompt").status == 200


# -- bodies that are no JSON, or another one ----------------------------------------------------------

NO_JSON = {
    "cut": b'{"prompt": {',
    "no Unicode": b"\xff\xfe\x00{",
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "word": b"undefined",
    "empty": b"",
}
OTHER_JSON = {"null": b"null", "number": b"5", "text": b'"x"', "list": b"[]", "long": b"9" * 5000}
READERS = ("/prompt", "/queue", "/history", "/free", "/settings", "/users", "/api/jobs/cancel")


@pytest.mark.parametrize("body", {**NO_JSON, **OTHER_JSON})
@pytest.mark.parametrize("path", READERS)
def test_a_body_that_is_no_object_is_refused(running: Program, path: str, body: str) -> None:
    answer = running.request("POST", path, data={**NO_JSON, **OTHER_JSON}[body])
    assert answer.status == 400, answer


@pytest.mark.parametrize("body", NO_JSON)
def test_a_setting_that_is_no_json_is_refused(running: Program, body: str) -> None:
    before = running.get("/settings").json()
    assert running.request("POST", "/settings/x", data=NO_JSON[body]).status == 400
    assert running.get("/settings").json() == before


@pytest.mark.parametrize("body", [b"", *NO_JSON.values(), *OTHER_JSON.values()])
def test_interrupt_takes_any_body(running: Program, body: bytes) -> None:
    assert running.request("POST", "/interrupt", data=body).status == 200


@pytest.mark.parametrize(
    "query",
    [
        "/history?max_items=x",
        "/history?max_items=-1&offset=-9999999999999999999999",
        "/history?max_items=99999999999999999999",
        "/api/jobs?limit=x",
        "/api/jobs?limit=-1",
        "/api/jobs?limit=0",
        "/api/jobs?offset=x",
        "/api/jobs?status=alive",
        "/api/jobs?sort_by=__class__",
        "/api/jobs?sort_order=up",
    ],
)
def test_queries_of_wrong_kinds_are_no_fault_of_the_server(running: Program, query: str) -> None:
    assert running.get(query).status in (200, 400)

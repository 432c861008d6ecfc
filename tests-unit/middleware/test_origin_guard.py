"""Pages of other sites may not use a server on the user's own machine."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request

from middleware.origin_guard import is_another_origin, is_loopback, refuse_other_origins
from support.running_server import served


def _status(headers: dict[str, str], method: str = "POST") -> int:
    async def handler(request: web.Request) -> web.StreamResponse:
        return web.Response(status=299)

    async def run() -> int:
        request = make_mocked_request(method, "/prompt", headers=headers)
        return (await refuse_other_origins(request, handler)).status

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("host", "origin", "passes"),
    [
        ("127.0.0.1:8188", "http://127.0.0.1:8188", True),
        ("localhost:8188", "http://localhost:8188", True),
        ("LOCALHOST:8188", "http://localhost:8188", True),
        ("[::1]:8188", "http://[::1]:8188", True),
        # A port that is left out is no difference.
        ("127.0.0.1", "http://127.0.0.1:8188", True),
        ("127.0.0.1:8188", "http://127.0.0.1", True),
        ("[::1]:8188", "http://[::1]", True),
        ("127.0.0.1:8188", "http://127.0.0.1:8189", False),
        ("127.0.0.1:8188", "http://localhost:8188", False),
        ("127.0.0.1:8188", "https://evil.example", False),
        ("127.0.0.1:8188", "https://evil.example:8188", False),
        ("127.0.0.1:8188", "https://127.0.0.1.evil.example", False),
        ("localhost", "https://evil.example", False),
        ("[::1]:8188", "https://evil.example", False),
        # By these, too, a browser reaches its own machine.
        ("0.0.0.0:8188", "http://0.0.0.0:8188", True),
        ("0.0.0.0:8188", "https://evil.example", False),
        ("[::]:8188", "https://evil.example", False),
        ("[::ffff:127.0.0.1]:8188", "https://evil.example", False),
        ("[::ffff:7f00:1]:8188", "https://evil.example", False),
        ("[::ffff:10.0.0.5]:8188", "http://10.0.0.6", True),
        ("127.0.0.1:8188", "http://[broken", False),
        ("127.0.0.1:8188", "http://127.0.0.1:99999", False),
        # Whoever serves beyond this machine does so on purpose.
        ("192.0.2.7:8188", "https://evil.example", True),
        ("10.0.0.5", "http://10.0.0.6", True),
    ],
)
def test_only_pages_of_the_same_origin_reach_a_local_server(
    host: str, origin: str, passes: bool
) -> None:
    assert _status({"Host": host, "Origin": origin}) == (299 if passes else 403)


def test_programs_send_no_origin_and_pass() -> None:
    assert _status({"Host": "127.0.0.1:8188"}) == 299
    assert _status({"Host": "127.0.0.1:8188", "Origin": ""}) == 299


def test_a_page_that_hides_its_origin_passes_only_if_no_browser_says_it_is_foreign() -> None:
    hidden = {"Host": "127.0.0.1:8188", "Origin": "null"}
    assert _status(hidden) == 299
    assert _status({**hidden, "Sec-Fetch-Site": "cross-site"}) == 403
    assert _status({**hidden, "Host": "192.0.2.7", "Sec-Fetch-Site": "cross-site"}) == 299


def test_questions_about_what_is_allowed_get_an_empty_answer() -> None:
    assert _status({"Host": "127.0.0.1:8188"}, "OPTIONS") == 200
    foreign = {"Host": "127.0.0.1:8188", "Origin": "https://evil.example"}
    assert _status(foreign, "OPTIONS") == 403


@pytest.mark.parametrize(
    ("addresses", "wanted"),
    [
        (["127.0.0.1"], True),
        (["127.0.0.1", "::1"], True),
        (["127.0.0.1", "192.0.2.7"], False),
        (["192.0.2.7"], False),
        ([], False),
    ],
)
def test_a_name_is_local_if_all_of_its_addresses_are(
    addresses: list[str], wanted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look_up(host: Any, *args: Any, **more: Any) -> list[Any]:
        return [(socket.AF_INET, 1, 6, "", (one, 0)) for one in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert asyncio.run(is_loopback("my-machine")) is wanted


@pytest.mark.parametrize("host", [None, "", "192.0.2.7", "x" * 300, "no such.name"])
def test_names_that_lead_nowhere_are_not_local(
    host: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **more: Any) -> Any:
        raise socket.gaierror(-2, "unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert asyncio.run(is_loopback(host)) is False


def test_an_origin_without_a_place_is_no_other_place() -> None:
    assert is_another_origin("127.0.0.1:8188", "null") is False
    assert is_another_origin("127.0.0.1:8188", "file://") is False


def test_a_running_server_refuses_requests_and_websockets(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign = {"Origin": "https://evil.example"}
    with served(tmp_path, with_worker=False) as client:
        for method, path in (("POST", "/prompt"), ("GET", "/api/queue"), ("GET", "/gone")):
            answer = client.request(method, path, headers=foreign)
            assert (answer.status, answer.body) == (403, b"")
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            client.listen("page", headers=foreign)
        assert refused.value.status == 403
        assert client.server.sockets == {}
        own = {"Origin": client.url}
        assert client.get("/prompt", headers=own).status == 200
        assert client.listen("page", headers=own).kinds() == ["status"]
    assert "https://evil.example" in caplog.text

"""Listening: addresses, ports that are in use, certificates, and what the log says."""

from __future__ import annotations

import asyncio
import socket
import webbrowser
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from app import serving
from app.serving import Bound, CannotServe


def _listening(work: Callable[[web.AppRunner], Coroutine[Any, Any, Any]]) -> Any:
    async def run() -> Any:
        runner = web.AppRunner(web.Application())
        await runner.setup()
        try:
            return await work(runner)
        finally:
            await runner.cleanup()

    return asyncio.run(run())


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ("127.0.0.1", ["127.0.0.1"]),
        ("0.0.0.0,::", ["0.0.0.0", "::"]),
        (" 10.0.0.1 , [::1] ,", ["10.0.0.1", "::1"]),
        ("localhost,localhost", ["localhost"]),
        ("", ["127.0.0.1"]),
        (",", ["127.0.0.1"]),
    ],
)
def test_listen_is_a_list_of_addresses(given: str, wanted: list[str]) -> None:
    assert serving.addresses(given, 8188) == [(one, 8188) for one in wanted]


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8188"),
        ("0.0.0.0", "http://127.0.0.1:8188"),
        ("::", "http://[::1]:8188"),
        ("fe80::1", "http://[fe80::1]:8188"),
        ("example.org", "http://example.org:8188"),
    ],
)
def test_the_url_is_one_that_a_browser_here_can_open(address: str, url: str) -> None:
    assert Bound("http", address, 8188).url == url


def test_a_free_port_is_found_and_the_same_for_all_addresses() -> None:
    async def check(runner: web.AppRunner) -> list[Bound]:
        return await serving.listen(runner, [("127.0.0.1", 0), ("127.0.0.2", 0)])

    first, second = _listening(check)
    assert first.port == second.port > 0
    assert (first.scheme, first.address, second.address) == ("http", "127.0.0.1", "127.0.0.2")


@pytest.mark.skipif(not _has_ipv6(), reason="this machine has no IPv6")
def test_both_kinds_of_addresses_share_a_port() -> None:
    async def check(runner: web.AppRunner) -> None:
        bound = await serving.listen(runner, [("0.0.0.0", 0), ("::", 0)])
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as client:
                client.connect((address, bound[0].port))

    _listening(check)


def test_a_port_in_use_is_told_with_what_to_do() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(CannotServe, match=rf"Port {port} of 127.0.0.1 is in use.*--port"):
            _listening(lambda runner: serving.listen(runner, [("127.0.0.1", port)]))


def test_one_address_in_use_is_enough_not_to_serve() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.2", 0))
        other.listen()
        port = other.getsockname()[1]
        wanted = [("127.0.0.1", port), ("127.0.0.2", port)]
        with pytest.raises(CannotServe, match=r"127\.0\.0\.2"):
            _listening(lambda runner: serving.listen(runner, wanted))


def test_an_address_that_is_not_of_this_machine_is_left_out_if_there_are_others(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # Set aside for documentation: no machine has it.
    async def check(runner: web.AppRunner) -> list[Bound]:
        return await serving.listen(runner, [("192.0.2.1", 0), ("127.0.0.1", 0)])

    assert [place.address for place in _listening(check)] == ["127.0.0.1"]
    assert "192.0.2.1" in caplog.text
    with pytest.raises(CannotServe, match=r"192\.0\.2\.1"):
        _listening(lambda runner: serving.listen(runner, [("192.0.2.1", 8188)]))


@pytest.mark.parametrize("port", [70_000, -1])
def test_a_port_that_cannot_be_is_told(port: int) -> None:
    with pytest.raises(CannotServe, match="1 to 65535"):
        _listening(lambda runner: serving.listen(runner, [("127.0.0.1", port)]))


def test_a_name_that_leads_nowhere_is_told() -> None:
    with pytest.raises(CannotServe, match=r"nowhere\.invalid"):
        _listening(lambda runner: serving.listen(runner, [("nowhere.invalid", 8188)]))


def test_the_port_can_be_bound_again_at_once() -> None:
    async def visited(runner: web.AppRunner) -> int:
        (place,) = await serving.listen(runner, [("127.0.0.1", 0)])
        reader, writer = await asyncio.open_connection("127.0.0.1", place.port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.read(10)
        # The server's side closes first, and its end of the connection lingers.
        await runner.cleanup()
        writer.close()
        return place.port

    port = _listening(visited)
    assert _listening(lambda runner: serving.listen(runner, [("127.0.0.1", port)]))


@pytest.mark.parametrize(
    ("address", "is_told"),
    [
        *((one, False) for one in ("127.0.0.1", "::1", "localhost", "127.8.0.1")),
        *((one, True) for one in ("0.0.0.0", "::", "192.168.0.5", "my-machine")),
    ],
)
def test_the_log_warns_if_others_reach_the_server(
    address: str, is_told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    serving.warn_of_strangers([Bound("http", "127.0.0.1", 1), Bound("http", address, 1)])
    assert ("Other machines can reach" in caplog.text) is is_told
    assert (f"listens on {address})" in caplog.text) is is_told


# -- certificates ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "certificate"), [(None, None), ("k", None), (None, "c"), ("", "")])
def test_without_both_files_connections_are_plain(
    key: str | None, certificate: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    assert serving.tls_context(key, certificate) is None
    assert ("not encrypted" in caplog.text) is bool(key or certificate)


@pytest.mark.parametrize("text", [None, "", "no certificate"])
def test_files_that_are_no_certificate_are_named(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "cert.pem"
    if text is not None:
        path.write_text(text)
    with pytest.raises(CannotServe, match=r"cert\.pem.*PEM files"):
        serving.tls_context(str(path), str(path))


# -- browser ---------------------------------------------------------------------------------------


def test_the_browser_is_shown_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: shown.append(url) or True)
    monkeypatch.setattr(serving.threading, "Thread", _AtOnce)
    serving.open_browser(Bound("https", "0.0.0.0", 8188))
    assert shown == ["https://127.0.0.1:8188"]


def test_a_machine_without_a_browser_is_no_error(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serving.threading, "Thread", _AtOnce)
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    serving.open_browser(Bound("http", "127.0.0.1", 8188))
    assert "No browser was found. Open http://127.0.0.1:8188" in caplog.text


class _AtOnce:
    """A thread that runs when it is started, and is over then."""

    def __init__(self, target: Callable[[], Any], **_: Any) -> None:
        self.start = target

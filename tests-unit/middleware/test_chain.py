"""CORS, content policy, compression and old addresses, as the flags ask for them."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from aiohttp import web

from middleware import chain
from middleware.csp import POLICY
from server import PromptServer
from support.running_server import Served, served


def _flags(**given: Any) -> SimpleNamespace:
    off = {
        "enable_compress_response_body": False,
        "enable_cors_header": None,
        "disable_api_nodes": False,
        "offline": False,
        "enable_manager": False,
    }
    return SimpleNamespace(**{**off, **given})


def _names(**given: Any) -> list[str]:
    return [one.__name__ for one in chain.chain(_flags(**given))]


def test_the_order_is_the_agreed_one() -> None:
    assert _names() == ["cache_control", "warn", "refuse_other_origins"]
    everything = {"enable_compress_response_body": True, "enable_cors_header": "*", "offline": True}
    assert _names(**everything) == [
        *("cache_control", "warn", "compress_body", "allow", "block_other_hosts")
    ]
    assert _names(disable_api_nodes=True)[-1] == "block_other_hosts"


# -- cors ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("origin", ["*", "https://my.example"])
def test_other_origins_are_let_in(tmp_path: Path, origin: str) -> None:
    with served(tmp_path, with_worker=False, enable_cors_header=origin) as client:
        answers = [
            client.get("/prompt", headers={"Origin": "https://other.example"}),
            client.get("/not/there"),
            client.post("/prompt", data=b"no json"),
            client.request("OPTIONS", "/prompt"),
        ]
        assert [answer.status for answer in answers] == [200, 404, 400, 200]
        assert answers[-1].body == b""
        for answer in answers:
            told = {key: answer.headers[f"Access-Control-Allow-{key}"] for key in ALLOWED}
            assert told == {**ALLOWED, "Origin": origin}
        page = client.listen("page", headers={"Origin": "https://other.example"})
        assert page.kinds() == ["status"]


ALLOWED = {
    "Origin": "",
    "Methods": "POST, GET, DELETE, PUT, OPTIONS, PATCH",
    "Headers": "Content-Type, Authorization",
    "Credentials": "true",
}


def test_without_the_flag_no_such_header_is_sent(idle: Served) -> None:
    answer = idle.get("/prompt")
    assert not [name for name in answer.headers if name.startswith("Access-Control")]
    assert "Content-Security-Policy" not in answer.headers


# -- content policy --------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["disable_api_nodes", "offline"])
def test_the_page_is_told_to_ask_no_other_host(tmp_path: Path, flag: str) -> None:
    with served(tmp_path, with_worker=False, **{flag: True}) as client:
        for path in ("/prompt", "/not/there"):
            assert client.get(path).headers["Content-Security-Policy"] == POLICY
        assert client.request("OPTIONS", "/prompt").status == 200
        assert client.listen("page").kinds() == ["status"]


def test_the_policy_allows_this_server_only() -> None:
    rules = dict(rule.split(" ", 1) for rule in POLICY.rstrip(";").split("; "))
    assert rules["default-src"] == "'self'"
    assert rules["script-src"] == "'self' 'unsafe-inline' 'unsafe-eval' blob:"
    assert rules["style-src"] == "'self' 'unsafe-inline'"
    assert rules["img-src"] == "'self' data: blob:"
    assert rules["connect-src"] == "'self' data:"
    assert {rules["font-src"], rules["frame-src"], rules["object-src"]} == {"'self'"}
    assert "http" not in POLICY


# -- compression -----------------------------------------------------------------------------------


def _with_answers(server: PromptServer) -> None:
    async def text(request: web.Request) -> web.Response:
        return web.Response(text="text " * 1000)

    async def page(request: web.Request) -> web.Response:
        return web.Response(text="page " * 1000, content_type="text/html")

    server.routes.get("/text")(text)
    server.routes.get("/page")(page)


def _raw(client: Served, path: str, accepted: str) -> tuple[str | None, bytes]:
    async def ask() -> tuple[str | None, bytes]:
        async with client.session.get(
            client.url + path, headers={"Accept-Encoding": accepted}, auto_decompress=False
        ) as response:
            return response.headers.get("Content-Encoding"), await response.read()

    return client.thread.call(ask())


def test_json_and_text_are_compressed_for_clients_that_take_it(tmp_path: Path) -> None:
    with served(
        tmp_path, prepare=_with_answers, with_worker=False, enable_compress_response_body=True
    ) as client:
        how, body = _raw(client, "/object_info", "deflate, gzip")
        assert how == "gzip"
        assert "KSampler" in json.loads(gzip.decompress(body))
        how, body = _raw(client, "/text", "gzip")
        assert (how, gzip.decompress(body)) == ("gzip", b"text " * 1000)
        assert _raw(client, "/text", "identity")[0] is None
        assert _raw(client, "/page", "gzip")[0] is None


def test_without_the_flag_nothing_is_compressed(idle: Served) -> None:
    assert _raw(idle, "/object_info", "gzip")[0] is None


# -- old addresses ---------------------------------------------------------------------------------


def test_old_addresses_are_named_once_each(idle: Served, caplog: pytest.LogCaptureFixture) -> None:
    for path in ("/scripts/ui.js", "/extensions/core/a.js", "/scripts/ui.js", "/scripts/app.js"):
        assert idle.get(path).status in (200, 404)
    told = [record.getMessage() for record in caplog.records if "old page" in record.getMessage()]
    assert len(told) == 2
    assert "/scripts/ui.js" in told[0]
    assert "/extensions/core/a.js" in told[1]


# -- the manager -----------------------------------------------------------------------------------


def test_the_manager_brings_its_own_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    @web.middleware
    async def of_manager(request: web.Request, handler: Any) -> web.StreamResponse:
        raise AssertionError("nobody asks it here")

    package = ModuleType("comfyui_manager")
    package.create_middleware = lambda: of_manager  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "comfyui_manager", package)
    assert _names(enable_manager=True)[-1] == "of_manager"
    assert "of_manager" not in _names()


def test_a_manager_that_is_not_installed_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "comfyui_manager", None)
    assert _names(enable_manager=True) == _names()
    assert "pip install comfyui_manager" in caplog.text

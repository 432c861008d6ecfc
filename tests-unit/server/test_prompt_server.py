"""PromptServer itself: what packs do with it, and how addresses are mounted."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from PIL import Image

import server as server_module
from api_server.sockets import CROWDED
from execution import PromptQueue
from protocol import BinaryEventTypes
from server import PromptServer
from support.running_server import Served, served, wait_until


async def _hello(request: web.Request) -> web.Response:
    return web.json_response({"path": request.path})


def _with_routes(server: PromptServer) -> None:
    server.routes.get("/my_pack/hello")(_hello)
    server.routes.view("/my_pack/view")(_View)
    server.app.add_routes([web.get("/verbatim", _hello)])


class _View(web.View):
    async def get(self) -> web.Response:
        return web.Response(text="seen")


def test_routes_of_packs_are_there_twice_and_those_of_the_application_once(tmp_path: Path) -> None:
    with served(tmp_path, prepare=_with_routes) as client:
        assert client.get("/my_pack/hello").json() == {"path": "/my_pack/hello"}
        assert client.get("/api/my_pack/hello").json() == {"path": "/api/my_pack/hello"}
        assert client.get("/api/my_pack/view").body == b"seen"
        assert client.request("HEAD", "/my_pack/hello").status == 200
        assert client.get("/verbatim").status == 200
        assert client.get("/api/verbatim").status == 404
        assert client.post("/my_pack/hello").status == 405


def test_routes_that_are_there_already_do_not_keep_the_server_from_starting(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def prepare(server: PromptServer) -> None:
        server.routes.get("/pack/twice")(_hello)
        server.routes.get("/pack/twice")(_View)
        server.routes.get("no slash")(_hello)
        server.routes.get("/pack/{unclosed")(_hello)
        server.routes.get("/pack/after")(_hello)

    with served(tmp_path, prepare=prepare) as client:
        assert client.get("/pack/twice").json() == {"path": "/pack/twice"}
        assert client.get("/pack/after").status == 200
    for path in ("/pack/twice", "no slash", "/pack/{unclosed"):
        assert path in caplog.text


def test_the_cores_own_addresses_come_before_those_of_packs(tmp_path: Path) -> None:
    with served(tmp_path, prepare=lambda made: made.routes.get("/queue")(_hello)) as client:
        assert set(client.get("/queue").json()) == {"queue_running", "queue_pending"}


def test_static_folders_of_packs_are_served(tmp_path: Path) -> None:
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "a.txt").write_text("text")

    def prepare(server: PromptServer) -> None:
        server.routes.static("/my_files", tmp_path / "files")

    with served(tmp_path, prepare=prepare) as client:
        assert client.get("/my_files/a.txt").body == b"text"
        assert client.get("/api/my_files/a.txt").status == 404
        assert client.get("/my_files/%2e%2e/a.txt").status == 404


def test_a_handler_that_fails_is_a_plain_500(tmp_path: Path) -> None:
    async def fail(request: web.Request) -> web.Response:
        raise RuntimeError("the pack's own fault")

    with served(tmp_path, prepare=lambda made: made.routes.get("/fail")(fail)) as client:
        answer = client.get("/fail")
        assert answer.status == 500
        assert b"own fault" not in answer.body
        assert client.get("/prompt").status == 200


def test_what_is_not_there_is_not_found(idle: Served) -> None:
    for path in ("/nothing", "/api/nothing", "/api", "/ap", "/api/ws/more", "/history/a/b"):
        assert idle.get(path).status == 404


def test_packs_find_what_they_use(idle: Served) -> None:
    made = idle.server
    assert PromptServer.instance is made
    assert isinstance(made.prompt_queue, PromptQueue)
    assert made.prompt_queue.server is made
    assert made.supports == ["custom_nodes_from_web"]
    assert isinstance(made.client_session, aiohttp.ClientSession)
    assert made.loop.is_running()
    assert isinstance(made.messages, asyncio.Queue)
    assert (made.address, made.port > 0) == ("127.0.0.1", True)
    assert (made.client_id, made.last_node_id, made.number) == (None, None, 0)
    assert server_module.BinaryEventTypes is BinaryEventTypes
    assert made.get_queue_info() == {"exec_info": {"queue_remaining": 0}}


def test_messages_of_many_threads_arrive_in_the_order_of_each(idle: Served) -> None:
    page = idle.listen("page")

    def send(thread: int) -> None:
        for number in range(50):
            idle.server.send_sync("count", [thread, number])

    threads = [threading.Thread(target=send, args=(one,)) for one in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    idle.server.send_sync("end", {})
    page.wait_for("end")
    for thread in range(4):
        numbers = [number for sender, number in page.of("count") if sender == thread]
        assert numbers == list(range(50))


def test_in_a_flood_what_the_next_message_says_again_is_lost_and_nothing_else(
    idle: Served,
) -> None:
    page = idle.listen("page")
    picture = ("JPEG", Image.new("RGB", (8, 8)), None)

    async def flood() -> None:
        for number in range(CROWDED):
            idle.server.send_sync("progress", {"value": number})
            idle.server.send_sync("executed", number)
            idle.server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, picture)
        idle.server.send_sync("end", {})

    asyncio.run_coroutine_threadsafe(flood(), idle.server.loop).result(10)
    page.wait_for("end")
    assert page.of("executed") == list(range(CROWDED))
    assert 0 < len(page.of("progress")) < CROWDED
    assert 0 < len(page.of(BinaryEventTypes.PREVIEW_IMAGE)) < CROWDED


def test_a_coroutine_can_be_sent_from_within_the_loop(tmp_path: Path) -> None:
    made: list[PromptServer] = []

    async def shout(request: web.Request) -> web.Response:
        await made[0].send("shout", {"text": "hello"}, request.query["sid"])
        await made[0].send_json("shout", {"text": "all"})
        await made[0].send_bytes(900, b"raw", request.query["sid"])
        return web.Response()

    def prepare(server: PromptServer) -> None:
        made.append(server)
        server.routes.post("/shout")(shout)

    with served(tmp_path, prepare=prepare) as client:
        page, other = client.listen("page"), client.listen("other")
        client.post("/shout?sid=page")
        assert page.wait_for(900) == b"raw"
        assert page.of("shout") == [{"text": "hello"}, {"text": "all"}]
        assert other.wait_for("shout") == {"text": "all"}


class _Recorder:
    """Stands for a page's socket, and notes in which loop it is used."""

    def __init__(self) -> None:
        self.used_in: list[Any] = []

    async def send_str(self, text: str) -> None:
        self.used_in.append(asyncio.get_running_loop())

    async def send_bytes(self, data: bytes) -> None:
        self.used_in.append(asyncio.get_running_loop())


def test_sockets_are_used_in_their_own_loop_from_whichever_one_sends(idle: Served) -> None:
    recorder = _Recorder()
    idle.server.sockets["page"] = recorder  # type: ignore[assignment]

    async def send() -> None:
        await idle.server.send("theirs", {"n": 1}, "page")
        await idle.server.send(BinaryEventTypes.TEXT, b"raw")
        picture = ("PNG", Image.new("RGB", (2, 2)), None)
        await idle.server.send(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, picture, "page")

    asyncio.run(send())
    wait_until(lambda: len(recorder.used_in) == 3)
    assert set(recorder.used_in) == {idle.server.loop}
    idle.server.sockets.clear()


def test_binary_messages_begin_with_their_number(idle: Served) -> None:
    assert idle.server.encode_bytes(258, b"x") == b"\0\0\1\2x"
    for event in ("progress", True, None):
        with pytest.raises(TypeError, match="number"):
            idle.server.encode_bytes(event, b"x")  # type: ignore[arg-type]


def test_a_message_after_the_end_is_no_error(tmp_path: Path) -> None:
    with served(tmp_path, with_worker=False) as client:
        made = client.server
    made.send_sync("late", {})
    made.queue_updated()


def test_pages_are_told_goodbye_when_the_server_stops(tmp_path: Path) -> None:
    with served(tmp_path, with_worker=False) as client:
        page = client.listen("page")
        asyncio.run_coroutine_threadsafe(client.server.stop(), client.server.loop).result(10)
        assert page.wait_until_closed() == 1001


def test_requests_with_long_queries_are_answered(idle: Served) -> None:
    assert idle.get("/history/" + "x" * 12_000).status == 200
    assert idle.get("/prompt", headers={"X-Token": "x" * 12_000}).status == 200


def test_a_server_tells_where_it_listens_once_it_does(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    told: list[Any] = []
    with served(tmp_path, with_worker=False) as client:
        second = PromptServer(client.server.loop)
        second.add_routes()

        async def run() -> None:
            await second.start("127.0.0.1", 0, True, lambda *args: told.append(args))
            await second.stop()

        asyncio.run_coroutine_threadsafe(run(), second.loop).result(10)
    assert told == [("http", "127.0.0.1", second.port)]
    assert f"http://127.0.0.1:{second.port}" in caplog.text
    assert second.port != client.server.port

"""Websocket messages: who gets which, and in what order."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from PIL import Image

from protocol import BinaryEventTypes
from support.graph_nodes import node
from support.running_server import Listener, Served, wait_until
from support.server_nodes import Gate, shown

FLAGS = {"supports_preview_metadata": True}


def _picture(data: bytes) -> Image.Image:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return picture


def _about(page: Listener, prompt_id: str) -> list[tuple[Any, Any]]:
    """Messages about a prompt, and the states of the queue around them."""
    return [
        (kind, data)
        for kind, data in page.messages
        if kind == "status" or (isinstance(data, dict) and data.get("prompt_id") == prompt_id)
    ]


# -- connecting ------------------------------------------------------------------------------------


def test_the_first_message_is_the_queue_and_the_id(idle: Served) -> None:
    idle.queue(shown("Keep"))
    page = idle.listen("my-page")
    assert page.messages == [
        ("status", {"status": {"exec_info": {"queue_remaining": 1}}, "sid": "my-page"})
    ]
    assert set(idle.server.sockets) == {"my-page"}
    assert idle.server.sockets_metadata == {"my-page": {"feature_flags": {}}}


def test_a_page_without_an_id_is_given_one(idle: Served) -> None:
    pages = [idle.listen("") for _ in range(2)]
    ids = {page.messages[0][1]["sid"] for page in pages}
    assert len(ids) == 2
    assert all(len(one) == 32 and int(one, 16) for one in ids)


def test_the_address_is_there_below_api_too(idle: Served) -> None:
    idle.url += "/api"
    assert idle.listen("page").messages[0][1]["sid"] == "page"


def test_a_page_that_goes_is_forgotten(idle: Served) -> None:
    page = idle.listen("page", FLAGS)
    page.close()
    wait_until(lambda: not idle.server.sockets and not idle.server.sockets_metadata)


def test_a_page_that_comes_back_takes_its_own_place(idle: Served) -> None:
    before = idle.listen("page", FLAGS)
    after = idle.listen("page")
    assert idle.server.sockets_metadata == {"page": {"feature_flags": {}}}
    idle.server.send_sync("news", 1, "page")
    assert after.wait_for("news") == 1
    before.close()
    idle.server.send_sync("news", 2, "page")
    after.wait_for(lambda kind, data: (kind, data) == ("news", 2))
    assert before.of("news") == []


def test_a_page_that_comes_back_is_told_which_node_runs(server: Served, gate: Gate) -> None:
    server.listen("page")
    prompt_id = server.queue(shown("Wait"), client_id="page")
    assert gate.entered.wait(10)
    again = server.listen("page")
    told = again.wait_for("executing")
    assert told == {"node": "1", "display_node": "1", "prompt_id": prompt_id}
    assert server.listen("other").of("executing") == []
    gate.open()
    again.wait_for_end(prompt_id)


# -- features --------------------------------------------------------------------------------------


def test_features_are_answered_with_the_servers_own(idle: Served) -> None:
    page = idle.listen("page", {**FLAGS, "supports_more": [1]})
    assert page.wait_for("feature_flags") == idle.get("/features").json()
    kept = idle.server.sockets_metadata["page"]["feature_flags"]
    assert kept == {**FLAGS, "supports_more": [1]}


@pytest.mark.parametrize(
    "first",
    [{"type": "other"}, {}, [], "null", "5", {"type": "feature_flags", "data": "text"}],
    ids=["other", "no type", "list", "null", "number", "no flags"],
)
def test_only_the_first_message_counts(idle: Served, first: Any) -> None:
    page = idle.listen("page")
    kept = idle.server.sockets_metadata["page"]
    page.say(first)
    page.say({"type": "feature_flags", "data": FLAGS})
    page.close()
    # The server reads in order: the end comes after what was said.
    wait_until(lambda: not idle.server.sockets)
    assert kept == {"feature_flags": {}}


def test_what_is_no_json_does_not_count_as_a_message(idle: Served) -> None:
    page = idle.listen("page")
    for text in ("{", "[" * 100_000, ""):
        page.say(text)
    page.say({"type": "feature_flags", "data": FLAGS})
    page.wait_for("feature_flags")
    assert idle.server.sockets_metadata["page"]["feature_flags"] == FLAGS


# -- one prompt ------------------------------------------------------------------------------------


def test_messages_of_one_prompt_come_in_order(server: Served) -> None:
    page = server.listen("page")
    prompt_id = server.queue(shown("Keep"), client_id="page")
    page.wait_for_end(prompt_id)
    told = _about(page, prompt_id)
    kinds = [kind for kind, _ in told][1:]
    assert kinds == [
        *("status", "status"),
        *("execution_start", "execution_cached"),
        *("progress_state", "executing", "progress_state"),
        *("progress_state", "executing", "executed", "progress_state"),
        *("execution_success", "status", "executing"),
    ]
    states = [data for kind, data in told if kind == "status"][1:]
    left = [one["status"]["exec_info"]["queue_remaining"] for one in states]
    assert left == [1, 1, 0]
    nodes_run = [data["node"] for kind, data in told if kind == "executing"]
    assert nodes_run == ["1", "2", None]
    assert page.of("executed") == [
        {"node": "2", "display_node": "2", "output": {"value": [1]}, "prompt_id": prompt_id}
    ]
    assert page.messages[-1] == ("executing", {"node": None, "prompt_id": prompt_id})


def test_the_history_can_be_read_when_the_end_is_told(server: Served) -> None:
    page = server.listen("page")
    for value in range(20):
        prompt_id = server.queue(shown("Keep", value=value), client_id="page")
        page.wait_for_end(prompt_id)
        assert server.get(f"/history/{prompt_id}").json()[prompt_id]["outputs"]


def test_a_second_run_tells_of_cached_nodes_and_runs_none(server: Served) -> None:
    page = server.listen("page")
    page.wait_for_end(server.queue(shown("Keep"), client_id="page"))
    again = server.queue(shown("Keep"), client_id="page")
    page.wait_for_end(again)
    told = [(kind, data) for kind, data in _about(page, again) if kind != "status"]
    assert page.of("execution_cached")[1]["nodes"] == ["1", "2"]
    assert [data["node"] for kind, data in told if kind == "executing"] == [None]
    assert [data["output"] for kind, data in told if kind == "executed"] == [{"value": [1]}]


def test_states_of_nodes_are_told_while_they_run(server: Served) -> None:
    page = server.listen("page")
    prompt_id = server.queue(shown("Step"), client_id="page")
    page.wait_for_end(prompt_id)
    first = page.of("progress_state")[0]
    about = {"display_node_id": "1", "parent_node_id": None, "real_node_id": "1"}
    running = {"value": 0, "max": 1, "state": "running", "node_id": "1", "prompt_id": prompt_id}
    assert first == {"prompt_id": prompt_id, "nodes": {"1": {**running, **about}}}
    states = [told["nodes"]["1"] for told in page.of("progress_state")]
    steps = [(state["value"], state["max"], state["state"]) for state in states]
    assert steps[:4] == [
        (0, 1, "running"),
        (1, 2, "running"),
        (2, 2, "running"),
        (2, 2, "finished"),
    ]
    assert page.of("progress") == [
        {"value": value, "max": 2, "prompt_id": prompt_id, "node": "1"} for value in (1, 2)
    ]


def test_a_failure_names_the_node_and_is_the_last_word(server: Served) -> None:
    page = server.listen("page")
    prompt_id = server.queue(shown("Fail", value="heat"), client_id="page")
    page.wait_for_end(prompt_id)
    (error,) = page.of("execution_error")
    assert (error["node_id"], error["node_type"], error["prompt_id"]) == ("1", "Fail", prompt_id)
    assert error["exception_message"].startswith("cannot stand heat")
    assert error["executed"] == []
    assert any("in fail" in line for line in error["traceback"])
    assert page.of("execution_success") == []
    kinds = [kind for kind, _ in _about(page, prompt_id)]
    assert kinds[-3:] == ["execution_error", "status", "executing"]
    assert page.of("progress_state")[-1]["nodes"]["1"]["state"] == "error"


def test_every_executing_message_says_of_which_prompt(server: Served) -> None:
    page = server.listen("page")
    for kind in ("Keep", "Step", "Fail"):
        page.wait_for_end(server.queue(shown(kind), client_id="page"))
    assert all(told["prompt_id"] for told in page.of("executing"))


# -- several pages ---------------------------------------------------------------------------------


def test_each_page_sees_its_own_prompts_only(server: Served) -> None:
    pages = [server.listen(name) for name in ("one", "two")]
    ids = [
        server.queue(shown("Step", value=name), client_id=name) for name in ("one", "two", "one")
    ]
    pages[0].wait_for_end(ids[2])
    pages[1].wait_for_end(ids[1])
    for page, own in zip(pages, ([ids[0], ids[2]], [ids[1]]), strict=True):
        told = [data for kind, data in page.messages if kind != "status" and isinstance(data, dict)]
        assert {data["prompt_id"] for data in told} == set(own)
        assert len(page.of("executed")) == len(own)


def test_the_queue_is_told_to_everybody(server: Served) -> None:
    other = server.listen("other")
    prompt_id = server.queue(shown("Keep"), client_id="page")
    server.wait_for_history(prompt_id)
    wait_until(lambda: len(other.of("status")) == 4)
    assert other.kinds() == ["status"] * 4


def test_without_a_page_progress_goes_to_all_and_the_rest_to_nobody(server: Served) -> None:
    page = server.listen("page")
    server.wait_for_history(server.queue(shown("Step")))
    wait_until(lambda: len(page.of("status")) == 4)
    assert set(page.kinds()) == {"status", "progress", "progress_state", 1}


def test_an_interrupted_prompt_without_a_page_is_told_to_all(server: Served, gate: Gate) -> None:
    page = server.listen("page")
    prompt_id = server.queue(shown("Wait"))
    assert gate.entered.wait(10)
    server.post("/interrupt")
    told = page.wait_for("execution_interrupted")
    assert set(told) == {"prompt_id", "node_id", "node_type", "executed", "timestamp"}
    assert told["prompt_id"] == prompt_id


def test_messages_of_a_page_that_is_gone_are_dropped(server: Served, gate: Gate) -> None:
    page = server.listen("page")
    prompt_id = server.queue(shown("Wait"), client_id="page")
    assert gate.entered.wait(10)
    page.close()
    wait_until(lambda: not server.server.sockets)
    gate.open()
    assert server.wait_for_history(prompt_id)["status"]["completed"] is True


# -- bytes -----------------------------------------------------------------------------------------


def test_pages_that_do_not_say_otherwise_get_plain_previews(server: Served) -> None:
    page = server.listen("page")
    page.wait_for_end(server.queue(shown("Step"), client_id="page"))
    frames = page.of(BinaryEventTypes.PREVIEW_IMAGE)
    assert len(frames) == 2
    assert page.of(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA) == []
    assert page.of(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE) == []
    assert frames[0][:4] == b"\0\0\0\1"
    picture = _picture(frames[0][4:])
    assert (picture.format, picture.size) == ("JPEG", (16, 8))
    # Each comes after the step that it shows.
    steps = [kind for kind in page.kinds() if kind in ("progress", 1)]
    assert steps == ["progress", 1, "progress", 1]


def test_pages_that_can_tell_get_previews_with_their_node_and_no_others(server: Served) -> None:
    page = server.listen("page", FLAGS)
    prompt_id = server.queue(shown("Step"), client_id="page")
    page.wait_for_end(prompt_id)
    frames = page.of(BinaryEventTypes.PREVIEW_IMAGE_WITH_METADATA)
    assert len(frames) == 2
    assert page.of(BinaryEventTypes.PREVIEW_IMAGE) == []
    length = int.from_bytes(frames[0][:4], "big")
    assert json.loads(frames[0][4 : 4 + length]) == {
        "node_id": "1",
        "prompt_id": prompt_id,
        "display_node_id": "1",
        "parent_node_id": None,
        "real_node_id": "1",
        "image_type": "image/jpeg",
    }
    assert _picture(frames[0][4 + length :]).size == (16, 8)


@pytest.mark.parametrize(("kind", "number"), [("PNG", 2), ("JPEG", 1)])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "I;16"])
def test_pictures_of_any_kind_are_encoded(idle: Served, kind: str, number: int, mode: str) -> None:
    page = idle.listen("page")
    picture = Image.new(mode, (20, 40))
    idle.server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, (kind, picture, None), "page")
    frame = page.wait_for(BinaryEventTypes.PREVIEW_IMAGE)
    assert int.from_bytes(frame[:4], "big") == number
    shown_picture = _picture(frame[4:])
    assert (shown_picture.format, shown_picture.size) == (kind, (20, 40))


def test_texts_come_with_the_node_they_are_shown_on(idle: Served) -> None:
    page, other = idle.listen("page"), idle.listen("other")
    idle.server.send_progress_text("50 % of größe", "7:1", "page")
    frame = page.wait_for(BinaryEventTypes.TEXT)
    assert frame == b"\0\0\0\3" + b"7:1" + "50 % of größe".encode()
    idle.server.send_progress_text("for all", "12")
    assert other.wait_for(BinaryEventTypes.TEXT) == b"\0\0\0\x0212for all"


def test_packs_send_bytes_and_objects_of_their_own(idle: Served) -> None:
    page, other = idle.listen("page"), idle.listen("other")
    idle.server.send_sync(700, b"raw", "page")
    idle.server.send_sync("my_pack.event", {"list": [1, float("nan")]}, "page")
    idle.server.send_sync("my_pack.all", None)
    assert page.wait_for(700) == b"raw"
    assert page.wait_for("my_pack.event") == {"list": [1, None]}
    assert other.wait_for("my_pack.all") is None
    assert other.kinds() == ["status", "my_pack.all"]


def test_a_message_that_cannot_be_sent_stops_no_other(
    idle: Served, caplog: pytest.LogCaptureFixture
) -> None:
    page = idle.listen("page")
    endless: list[Any] = []
    endless.append(endless)
    idle.server.send_sync("endless", endless)
    idle.server.send_sync("text as number", b"bytes")
    idle.server.send_sync(BinaryEventTypes.UNENCODED_PREVIEW_IMAGE, ("JPEG", "no picture", 5))
    idle.server.send_sync("last", {})
    page.wait_for("last")
    assert page.kinds() == ["status", "last"]
    assert "'endless'" in caplog.text


def test_a_node_that_two_outputs_show_runs_once(server: Served) -> None:
    page = server.listen("page")
    prompt = {**shown("Keep"), "3": node("Show", value=["1", 0])}
    page.wait_for_end(server.queue(prompt, client_id="page"))
    assert sorted(told["display_node"] for told in page.of("executed")) == ["2", "3"]
    assert [told["node"] for told in page.of("executing")].count("1") == 1

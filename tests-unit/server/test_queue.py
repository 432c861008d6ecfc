"""/queue, /interrupt and /free."""

from __future__ import annotations

from typing import Any

import pytest

from support.running_server import Served, wait_until
from support.server_nodes import Gate, shown


def _ids(server: Served) -> tuple[list[str], list[str]]:
    told = server.get("/queue").json()
    assert list(told) == ["queue_running", "queue_pending"]
    return (
        [item[1] for item in told["queue_running"]],
        [item[1] for item in told["queue_pending"]],
    )


def test_an_empty_queue_has_two_empty_lists(idle: Served) -> None:
    assert idle.get("/api/queue").json() == {"queue_running": [], "queue_pending": []}


def test_running_and_waiting_prompts_are_told_apart(server: Served, gate: Gate) -> None:
    first = server.queue(shown("Wait"))
    assert gate.entered.wait(10)
    second = server.queue(shown("Keep"))
    assert _ids(server) == ([first], [second])
    (item,) = server.get("/queue").json()["queue_running"]
    assert len(item) == 5
    assert server.get("/prompt").json()["exec_info"]["queue_remaining"] == 2


@pytest.mark.parametrize("path", ["/queue", "/api/queue"])
def test_waiting_prompts_are_deleted_by_id_and_unknown_ids_ignored(idle: Served, path: str) -> None:
    kept, gone, also_gone = (idle.queue(shown("Keep")) for _ in range(3))
    answer = idle.post(path, {"delete": [gone, "unknown", also_gone, gone], "client_id": "cli"})
    assert (answer.status, answer.body) == (200, b"")
    assert _ids(idle) == ([], [kept])


def test_clearing_forgets_what_waits_and_leaves_what_runs(server: Served, gate: Gate) -> None:
    running = server.queue(shown("Wait"))
    assert gate.entered.wait(10)
    for _ in range(3):
        server.queue(shown("Keep"))
    assert server.post("/queue", {"clear": True}).status == 200
    assert server.post("/queue", {"delete": [running]}).status == 200
    assert _ids(server) == ([running], [])


def test_a_body_that_asks_for_nothing_changes_nothing(idle: Served) -> None:
    prompt_id = idle.queue(shown("Keep"))
    assert idle.post("/queue", {"clear": False}).status == 200
    assert idle.post("/queue", {}).status == 200
    assert _ids(idle) == ([], [prompt_id])


@pytest.mark.parametrize("path", ["/queue", "/history", "/free"])
@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"1"])
def test_a_body_that_is_no_object_is_refused(idle: Served, path: str, body: bytes) -> None:
    assert idle.post(path, data=body).status == 400


@pytest.mark.parametrize("path", ["/queue", "/history"])
@pytest.mark.parametrize("ids", ["abc", 5, {"a": 1}])
def test_ids_that_are_no_list_are_refused_and_nothing_is_done(
    idle: Served, path: str, ids: Any
) -> None:
    prompt_id = idle.queue(shown("Keep"))
    assert idle.post(path, {"clear": True, "delete": ids}).status == 400
    assert _ids(idle) == ([], [prompt_id])


def test_ids_of_odd_types_are_ignored(idle: Served) -> None:
    prompt_id = idle.queue(shown("Keep"))
    assert idle.post("/queue", {"delete": [None, {"a": []}, [prompt_id]]}).status == 200
    assert _ids(idle) == ([], [prompt_id])


# -- interrupt -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body", [b"", b"{}", b"no json", b"null", b"[1]", b'{"client_id": "cli", "prompt_id": null}']
)
def test_whatever_runs_stops_if_no_prompt_is_named(server: Served, gate: Gate, body: bytes) -> None:
    page = server.listen("page")
    prompt_id = server.queue(shown("Wait"), client_id="page")
    assert gate.entered.wait(10)
    headers = {"Content-Type": "application/json"}
    answer = server.post("/api/interrupt", data=body, headers=headers)
    assert (answer.status, answer.body) == (200, b"")
    page.wait_for_end(prompt_id)
    (told,) = page.of("execution_interrupted")
    assert told["prompt_id"] == prompt_id
    assert (told["node_id"], told["node_type"]) == ("1", "Wait")


def test_a_prompt_stops_at_once_even_if_it_has_only_just_begun(server: Served) -> None:
    for _ in range(20):
        prompt_id = server.queue(shown("Wait"))
        wait_until(lambda wanted=prompt_id: _ids(server)[0] == [wanted], 10)
        assert server.post("/interrupt", {"prompt_id": prompt_id}).status == 200
        entry = server.wait_for_history(prompt_id, 10)
        assert entry["status"]["status_str"] == "error"
        assert entry["status"]["completed"] is False
        assert entry["status"]["messages"][-1][0] == "execution_interrupted"


def test_only_the_prompt_that_is_named_stops(server: Served, gate: Gate) -> None:
    running = server.queue(shown("Wait"))
    assert gate.entered.wait(10)
    waiting = server.queue(shown("Wait", value=2))
    for other in (waiting, "unknown"):
        assert server.post("/interrupt", {"prompt_id": other}).status == 200
    gate.open()
    assert server.wait_for_history(running)["status"]["status_str"] == "success"
    assert server.wait_for_history(waiting)["status"]["status_str"] == "success"


def test_a_wish_while_nothing_runs_stops_no_later_prompt(server: Served) -> None:
    assert server.post("/interrupt").status == 200
    prompt_id = server.queue(shown("Keep"))
    assert server.wait_for_history(prompt_id)["status"]["status_str"] == "success"


# -- free ------------------------------------------------------------------------------------------


def test_wishes_for_memory_wait_for_the_worker(idle: Served) -> None:
    answer = idle.post("/free", {"unload_models": True, "free_memory": True, "other": 1})
    assert (answer.status, answer.body) == (200, b"")
    assert idle.server.prompt_queue.get_flags() == {"unload_models": True, "free_memory": True}


def test_wishes_that_are_not_made_set_nothing(idle: Served) -> None:
    idle.post("/api/free", {"unload_models": False})
    assert idle.server.prompt_queue.get_flags() == {}

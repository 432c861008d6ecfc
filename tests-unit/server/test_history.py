"""/history: what is kept of prompts that ended."""

from __future__ import annotations

from typing import Any

import pytest

from support.running_server import Served
from support.server_nodes import shown


def _run(server: Served, count: int = 1, **body: Any) -> list[str]:
    ids = [server.queue(shown("Keep", value=one), **body) for one in range(count)]
    server.wait_for_history(ids[-1])
    return ids


def test_nothing_that_ended_is_an_empty_object(idle: Served) -> None:
    assert idle.get("/history").json() == {}
    assert idle.get("/api/history/unknown").json() == {}


def test_an_entry_has_the_prompt_its_outputs_and_how_it_ended(server: Served) -> None:
    (prompt_id,) = _run(server, client_id="page")
    (told,) = server.get(f"/history/{prompt_id}").json().items()
    assert told[0] == prompt_id
    entry = told[1]
    assert set(entry) == {"prompt", "outputs", "status", "meta"}
    number, kept_id, prompt, extra_data, outputs = entry["prompt"]
    assert (number, kept_id, prompt, outputs) == (0, prompt_id, shown("Keep", value=0), ["2"])
    assert extra_data["client_id"] == "page"
    assert entry["outputs"] == {"2": {"value": [0]}}
    about = {"node_id": "2", "display_node": "2", "parent_node": None, "real_node_id": "2"}
    assert entry["meta"] == {"2": about}
    status = entry["status"]
    assert (status["status_str"], status["completed"]) == ("success", True)
    kinds = [kind for kind, _ in status["messages"]]
    assert kinds == ["execution_start", "execution_cached", "execution_success"]
    assert all(data["prompt_id"] == prompt_id for _, data in status["messages"])
    assert all(isinstance(data["timestamp"], int) for _, data in status["messages"])


def test_a_failure_is_kept_with_its_node(server: Served) -> None:
    prompt_id = server.queue(shown("Fail", value="heat"))
    entry = server.wait_for_history(prompt_id)
    assert (entry["status"]["status_str"], entry["status"]["completed"]) == ("error", False)
    kind, data = entry["status"]["messages"][-1]
    assert kind == "execution_error"
    assert (data["node_id"], data["node_type"]) == ("1", "Fail")
    assert data["exception_message"].startswith("cannot stand heat")
    assert data["exception_type"] == "ValueError"
    assert data["current_inputs"] == {"value": ["heat"]}
    assert entry["outputs"] == {}


def test_prompts_stand_in_the_order_in_which_they_ended(server: Served) -> None:
    ids = _run(server, 3)
    assert list(server.get("/history").json()) == ids


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ("max_items=2", [3, 4]),
        ("max_items=2&offset=-1", [3, 4]),
        ("max_items=2&offset=0", [0, 1]),
        ("max_items=2&offset=1", [1, 2]),
        ("max_items=9&offset=3", [3, 4]),
        ("offset=3", [3, 4]),
        ("offset=9", []),
        ("max_items=0", []),
        ("max_items=99", [0, 1, 2, 3, 4]),
    ],
)
def test_a_part_of_the_history_is_given(server: Served, query: str, wanted: list[int]) -> None:
    ids = _run(server, 5)
    assert list(server.get(f"/history?{query}").json()) == [ids[one] for one in wanted]


@pytest.mark.parametrize("query", ["max_items=many", "offset=", "max_items=1.5"])
def test_numbers_that_are_none_are_refused(idle: Served, query: str) -> None:
    answer = idle.get(f"/history?{query}")
    assert answer.status == 400
    assert "whole number" in answer.json()["error"]


def test_entries_are_deleted_by_id(server: Served) -> None:
    first, second, third = _run(server, 3)
    answer = server.post("/history", {"delete": [first, "unknown", third]})
    assert (answer.status, answer.body) == (200, b"")
    assert list(server.get("/history").json()) == [second]


def test_clearing_forgets_all(server: Served) -> None:
    _run(server, 2)
    assert server.post("/api/history", {"clear": True}).status == 200
    assert server.get("/history").json() == {}


def test_what_json_cannot_say_is_said_otherwise(server: Served) -> None:
    # `Answer.json` refuses NaN and Infinity.
    prompt_id = server.queue(shown("Keep"))
    entry = server.wait_for_history(prompt_id)
    kept = server.server.prompt_queue.history[prompt_id]
    kept["outputs"]["2"] = {"value": [float("nan"), float("inf"), {1, 2}, object]}
    told = server.get(f"/history/{prompt_id}").json()[prompt_id]
    assert entry["outputs"] == {"2": {"value": [1]}}
    assert told["outputs"]["2"]["value"] == [None, 1.7976931348623157e308, [1, 2], str(object)]

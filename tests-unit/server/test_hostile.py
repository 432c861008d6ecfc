"""Prompts and requests that mean harm, or are far too large: the server answers and lives."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from api_server.utils import json_text
from support.graph_nodes import node
from support.running_server import Served, wait_until
from support.server_nodes import shown

JUNK: list[Any] = [None, True, 5, -1e308, "text", "", [], [1, [2]], {}, {"a": {"b": []}}]


def _lives(server: Served) -> None:
    prompt_id = server.queue(shown("Keep", value="alive"))
    assert server.wait_for_history(prompt_id)["outputs"] == {"2": {"value": ["alive"]}}


def test_ten_thousand_outputs_are_taken(idle: Served) -> None:
    prompt = {"0": node("Keep", value=1)}
    prompt |= {str(one): node("Show", value=["0", 0]) for one in range(1, 10_000)}
    idle.queue(prompt)
    assert len(idle.get("/queue").json()["queue_pending"][0][4]) == 9_999


def test_ten_thousand_bad_nodes_are_refused(idle: Served) -> None:
    prompt = {str(one): node("Show") for one in range(10_000)}
    answer = idle.post("/prompt", {"prompt": prompt})
    assert answer.status == 400
    assert len(answer.json()["node_errors"]) == 10_000


@pytest.mark.parametrize("length", [1, 2, 5000])
def test_cycles_are_refused(server: Served, length: int) -> None:
    prompt = {str(one): node("Keep", value=[str((one + 1) % length), 0]) for one in range(length)}
    prompt["end"] = node("Show", value=["0", 0])
    answer = server.post("/prompt", {"prompt": prompt})
    assert answer.status == 400
    kinds = [
        error["type"]
        for entry in answer.json()["node_errors"].values()
        for error in entry["errors"]
    ]
    assert "dependency_cycle" in kinds
    _lives(server)


@pytest.mark.parametrize("place", ["prompt", "node", "inputs", "class", "meta", "link", "index"])
def test_values_of_wrong_types_are_answered_and_never_with_500(server: Served, place: str) -> None:
    for junk in JUNK:
        prompt: Any = shown("Keep")
        if place == "prompt":
            prompt = junk
        elif place == "node":
            prompt["1"] = junk
        elif place == "link":
            prompt["2"]["inputs"]["value"] = [junk, 0]
        elif place == "index":
            prompt["2"]["inputs"]["value"] = ["1", junk]
        else:
            prompt["1"][{"class": "class_type", "meta": "_meta"}.get(place, place)] = junk
        answer = server.post("/prompt", {"prompt": prompt})
        assert answer.status in (200, 400), (junk, answer.body)
        assert answer.json()
    wait_until(lambda: server.get("/prompt").json()["exec_info"]["queue_remaining"] == 0)
    _lives(server)


@pytest.mark.parametrize(
    "key",
    ["client_id", "prompt_id", "number", "front", "extra_data", "partial_execution_targets"],
)
def test_keys_of_wrong_types_are_answered_and_never_with_500(server: Served, key: str) -> None:
    for junk in JUNK:
        answer = server.post("/prompt", {"prompt": shown("Keep"), key: junk})
        assert answer.status in (200, 400), (junk, answer.body)
    for junk in JUNK:
        answer = server.post("/prompt", {"prompt": shown("Keep"), "extra_data": {key: junk}})
        assert answer.status in (200, 400), (junk, answer.body)
    for name in ("preview_method", "extra_pnginfo", "auth_token_comfy_org"):
        for junk in JUNK:
            given = {"prompt": shown("Keep"), "extra_data": {name: junk}}
            assert server.post("/prompt", given).status in (200, 400)
    wait_until(lambda: server.get("/prompt").json()["exec_info"]["queue_remaining"] == 0)
    for path in ("/api/jobs", "/history", "/queue", "/api/jobs?workflow_id=x"):
        assert server.get(path).status == 200
    _lives(server)


@pytest.mark.parametrize(
    "path", ["/prompt", "/queue", "/history", "/free", "/api/jobs/cancel", "/interrupt"]
)
@pytest.mark.parametrize(
    "body",
    [
        b'{"a":',
        b"\x00\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"9" * 10_000,
        b"\xef\xbb\xbf{",
    ],
    ids=["cut", "bytes", "deep list", "deep object", "long number", "marked"],
)
def test_broken_json_is_never_a_500(idle: Served, path: str, body: bytes) -> None:
    assert idle.post(path, data=body).status == (200 if path == "/interrupt" else 400)


def _nested(levels: int) -> Any:
    deep: Any = "end"
    for level in range(levels):
        deep = {"x": deep} if level % 2 else [deep]
    return deep


def test_what_is_nested_less_than_the_limit_runs_and_is_listed(server: Served) -> None:
    # The body, the prompt, its node and its inputs are four levels.
    deep = _nested(json_text.DEEPEST - 4)
    prompt_id = server.queue(shown("Keep", value=deep))
    entry = server.wait_for_history(prompt_id)
    assert entry["status"]["status_str"] == "success"
    assert entry["outputs"] == {"2": {"value": [deep]}}
    assert server.get(f"/api/jobs/{prompt_id}").status == 200


@pytest.mark.parametrize("levels", [json_text.DEEPEST - 3, 400, 900])
def test_what_is_nested_deeper_is_refused(idle: Served, levels: int) -> None:
    answer = idle.post("/prompt", {"prompt": shown("Keep", value=_nested(levels))})
    assert answer.status == 400
    assert "levels" in answer.json()["error"]


@pytest.mark.parametrize(
    "path",
    [
        "/history/%00",
        "/history/..%2f..%2fetc%2fpasswd",
        "/object_info/..%2f..%2fmain.py",
        "/object_info/%ff%fe",
        "/api/jobs/%2e%2e%2fx",
        "/object_info/__class__",
    ],
)
def test_odd_names_in_paths_find_nothing(idle: Served, path: str) -> None:
    answer = idle.get(path)
    assert answer.status in (200, 404)
    assert answer.status == 404 or answer.json() == {}


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "BREW"])
def test_other_methods_are_refused(idle: Served, method: str) -> None:
    assert idle.request(method, "/prompt").status in (400, 405)


def test_eight_clients_queue_two_hundred_prompts_and_each_ends_once_in_order(
    server: Served,
) -> None:
    each = 25
    pages = [server.listen(f"client{number}") for number in range(8)]
    sent: dict[str, list[str]] = {page.client_id: [] for page in pages}

    def send(client_id: str) -> None:
        for number in range(each):
            prompt = shown("Keep", value=f"{client_id} {number}")
            sent[client_id].append(server.queue(prompt, client_id=client_id))

    threads = [threading.Thread(target=send, args=(page.client_id,)) for page in pages]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for page in pages:
        page.wait_for_end(sent[page.client_id][-1])
    told = server.get("/history").json()
    assert len(told) == 8 * each
    numbers = [entry["prompt"][0] for entry in told.values()]
    assert numbers == list(range(8 * each))
    for page in pages:
        ended = [one["prompt_id"] for one in page.of("execution_success")]
        assert ended == sent[page.client_id]
        shown_values = [one["output"]["value"][0] for one in page.of("executed")]
        assert shown_values == [f"{page.client_id} {number}" for number in range(each)]
    assert server.get("/prompt").json()["exec_info"]["queue_remaining"] == 0


def test_a_prompt_as_large_as_uploads_may_be_is_read(idle: Served) -> None:
    body = json.dumps({"prompt": shown("Keep", value="x" * (20 * 2**20))}).encode()
    assert idle.post("/prompt", data=io.BytesIO(body)).status == 200
    assert idle.get("/prompt").json()["exec_info"]["queue_remaining"] == 1

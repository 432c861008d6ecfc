"""/prompt: what is taken, what is refused, and what becomes of it."""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

import pytest

from support.running_server import Served
from support.server_nodes import shown


def _pending(server: Served) -> list[Any]:
    pending: list[Any] = server.get("/queue").json()["queue_pending"]
    return pending


@pytest.mark.parametrize("path", ["/prompt", "/api/prompt"])
def test_the_number_of_prompts_that_wait_or_run_is_told(idle: Served, path: str) -> None:
    assert idle.get(path).json() == {"exec_info": {"queue_remaining": 0}}
    idle.queue(shown("Keep"))
    answer = idle.get(path)
    assert (answer.status, answer.json()) == (200, {"exec_info": {"queue_remaining": 1}})
    assert answer.headers["Content-Type"] == "application/json; charset=utf-8"


@pytest.mark.parametrize("path", ["/prompt", "/api/prompt"])
def test_a_prompt_that_is_taken_gets_an_id_and_a_number(idle: Served, path: str) -> None:
    told = idle.post(path, {"prompt": shown("Keep")}).json()
    assert set(told) == {"prompt_id", "number", "node_errors"}
    assert str(uuid.UUID(told["prompt_id"])) == told["prompt_id"]
    assert (told["number"], told["node_errors"]) == (0, {})


@pytest.mark.parametrize(
    "kind", ["application/x-www-form-urlencoded", "text/plain", "application/octet-stream", None]
)
def test_json_is_read_whatever_type_of_content_the_request_claims(
    idle: Served, kind: str | None
) -> None:
    body = json.dumps({"prompt": shown("Keep")}).encode()
    headers = {} if kind is None else {"Content-Type": kind}
    answer = idle.post("/prompt", data=body, headers=headers)
    assert answer.status == 200
    assert len(_pending(idle)) == 1


def test_the_item_in_the_queue_says_all_that_was_sent(idle: Served) -> None:
    before = int(time.time() * 1000)
    prompt_id = idle.queue(
        shown("Keep"),
        client_id="page",
        prompt_id="my-own-id",
        extra_data={"extra_pnginfo": {"workflow": {"id": "w"}}},
    )
    (item,) = _pending(idle)
    number, told_id, prompt, extra_data, outputs = item
    assert (number, told_id, prompt, outputs) == (0, "my-own-id", shown("Keep"), ["2"])
    assert prompt_id == "my-own-id"
    assert before <= extra_data.pop("create_time") <= int(time.time() * 1000)
    assert extra_data == {"client_id": "page", "extra_pnginfo": {"workflow": {"id": "w"}}}


def test_numbers_count_up_and_prompts_for_the_front_come_first(idle: Served) -> None:
    first = idle.queue(shown("Keep"))
    second = idle.queue(shown("Keep"))
    front = idle.queue(shown("Keep"), front=True)
    assert [item[:2] for item in _pending(idle)] == [[-2, front], [0, first], [1, second]]


def test_a_number_of_ones_own_decides_and_is_not_counted(idle: Served) -> None:
    idle.queue(shown("Keep"), number=7.5)
    early = idle.queue(shown("Keep"), number="-3")
    plain = idle.queue(shown("Keep"))
    assert [item[0] for item in _pending(idle)] == [-3.0, 0, 7.5]
    assert [item[1] for item in _pending(idle)][:2] == [early, plain]


def test_requests_that_come_to_nothing_are_counted_too(idle: Served) -> None:
    assert idle.post("/prompt", {"prompt": {}}).status == 400
    assert idle.post("/prompt", {"nothing": 1}).status == 400
    assert idle.post("/prompt", {"prompt": shown("Keep")}).json()["number"] == 2


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({}, "no_prompt"),
        ({"prompt": {}}, "prompt_no_outputs"),
        ({"prompt": {"1": {"inputs": {}}}}, "invalid_prompt"),
        ({"prompt": [1, 2]}, "invalid_prompt"),
        ({"prompt": None}, "invalid_prompt"),
        ({"prompt": shown("Keep"), "partial_execution_targets": []}, "prompt_no_outputs"),
        ({"prompt": shown("Keep"), "partial_execution_targets": ["1"]}, "prompt_no_outputs"),
        (
            {"prompt": shown("Keep"), "partial_execution_targets": {"2": 1}},
            "invalid_partial_execution_targets",
        ),
        ({"prompt": shown("Keep"), "extra_data": [1]}, "invalid_extra_data"),
        ({"prompt": shown("Keep"), "client_id": {"a": 1}}, "invalid_client_id"),
        ({"prompt": shown("Keep"), "extra_data": {"client_id": [1]}}, "invalid_client_id"),
        ({"prompt": shown("Keep"), "number": "soon"}, "invalid_number"),
        ({"prompt": shown("Keep"), "number": [1]}, "invalid_number"),
        ({"prompt": shown("Keep"), "number": 10**400}, "invalid_number"),
    ],
)
def test_what_cannot_be_taken_is_refused_with_its_kind(
    idle: Served, body: dict[str, Any], kind: str
) -> None:
    answer = idle.post("/prompt", body)
    assert answer.status == 400
    told = answer.json()
    assert set(told) == {"error", "node_errors"}
    assert set(told["error"]) == {"type", "message", "details", "extra_info"}
    assert told["error"]["type"] == kind
    assert _pending(idle) == []


def test_a_class_that_is_not_installed_is_named(idle: Served) -> None:
    answer = idle.post("/prompt", {"prompt": {"5": {"class_type": "Gone", "inputs": {}}}})
    error = answer.json()["error"]
    assert (answer.status, error["type"]) == (400, "invalid_prompt")
    assert "'Gone'" in error["message"]
    assert "5" in error["details"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"prompt=1",
        b"\xff\xfe\x00",
        b"[" * 200_000,
        b"[1]",
        b'"text"',
        b"null",
        b"1" * 5000,
    ],
    ids=["empty", "cut", "form", "bytes", "deep", "list", "text", "null", "long number"],
)
def test_a_body_that_is_no_object_is_refused(idle: Served, body: bytes) -> None:
    answer = idle.post("/prompt", data=body)
    assert answer.status == 400
    assert isinstance(answer.json()["error"], str)


def test_a_body_over_the_limit_is_refused(idle: Served) -> None:
    limit = idle.get("/features").json()["max_upload_size"]
    idle.server.app._client_max_size = 1000
    assert limit == 100 * 2**20
    assert idle.post("/prompt", data=b"x" * 2000).status == 413


def test_errors_of_nodes_are_told_by_node(idle: Served) -> None:
    prompt = {"1": {"class_type": "Keep", "inputs": {}}, "2": shown("Keep")["2"]}
    told = idle.post("/prompt", {"prompt": prompt}).json()
    assert told["error"]["type"] == "prompt_outputs_failed_validation"
    entry = told["node_errors"]["1"]
    assert entry["class_type"] == "Keep"
    assert entry["dependent_outputs"] == ["2"]
    assert entry["errors"][0]["type"] == "required_input_missing"
    assert entry["errors"][0]["extra_info"] == {"input_name": "value"}


def test_outputs_that_can_run_run_without_those_that_cannot(idle: Served) -> None:
    prompt = {**shown("Keep"), "3": {"class_type": "Show", "inputs": {}}}
    answer = idle.post("/prompt", {"prompt": prompt})
    assert answer.status == 200
    assert list(answer.json()["node_errors"]) == ["3"]
    assert _pending(idle)[0][4] == ["2"]


def test_only_the_outputs_that_are_wanted_run(idle: Served) -> None:
    prompt = {**shown("Keep"), "3": {"class_type": "Show", "inputs": {"value": 1}}}
    idle.queue(prompt, partial_execution_targets=["3"])
    assert _pending(idle)[0][4] == ["3"]


def test_secrets_reach_nodes_but_no_listing(server: Served) -> None:
    page = server.listen("page")
    secrets = {"auth_token_comfy_org": "s3cr3t", "api_key_comfy_org": "k3y"}
    prompt_id = server.queue(
        shown("Wait"), client_id="page", extra_data={**secrets, "comfy_usage_source": "tests"}
    )
    # Else nothing runs yet that could be interrupted below.
    page.wait_for("executing")
    running = server.get("/queue").body + server.get("/api/jobs").body
    running += server.get(f"/api/jobs/{prompt_id}").body
    assert server.server.prompt_queue.get_current_queue()
    # The gate opens at the end of the test only; a second prompt waits behind it.
    waiting = server.queue(shown("Keep"), extra_data=secrets)
    running += server.get("/queue").body + server.get(f"/api/jobs/{waiting}").body
    server.post("/interrupt")
    page.wait_for_end(prompt_id)
    server.wait_for_history(waiting)
    ended = server.get("/history").body + server.get("/api/jobs").body
    ended += server.get(f"/api/jobs/{prompt_id}").body + server.get(f"/history/{waiting}").body
    for secret in (b"s3cr3t", b"k3y", b"auth_token_comfy_org"):
        assert secret not in running + ended
    assert b"comfy_usage_source" in running
    assert b"comfy_usage_source" in ended


def test_the_header_says_where_a_prompt_comes_from_unless_the_prompt_does(idle: Served) -> None:
    header = {"Comfy-Usage-Source": "comfy-cli"}
    idle.post("/prompt", {"prompt": shown("Keep")}, headers=header)
    told = {"prompt": shown("Keep"), "extra_data": {"comfy_usage_source": "page"}}
    idle.post("/prompt", told, headers=header)
    sources = [item[3]["comfy_usage_source"] for item in _pending(idle)]
    assert sources == ["comfy-cli", "page"]


def test_handlers_of_packs_change_prompts_and_their_failures_change_nothing(
    idle: Served, caplog: pytest.LogCaptureFixture
) -> None:
    def rename(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "prompt_id": "renamed"}

    def fail(body: dict[str, Any]) -> dict[str, Any]:
        raise RuntimeError("a pack's fault")

    def forget(body: dict[str, Any]) -> Any:
        body["front"] = True

    for handler in (rename, fail, forget):
        idle.server.add_on_prompt_handler(handler)
    idle.queue(shown("Keep"))
    assert idle.queue(shown("Keep")) == "renamed"
    assert [item[:2] for item in _pending(idle)] == [[-1, "renamed"], [0, "renamed"]]
    assert "a pack's fault" in caplog.text
    assert "forget" in caplog.text


@pytest.mark.parametrize("given", [None, ""])
def test_an_empty_id_is_replaced(idle: Served, given: Any) -> None:
    assert uuid.UUID(idle.queue(shown("Keep"), prompt_id=given))


def test_an_id_of_another_type_becomes_text(idle: Served) -> None:
    assert idle.queue(shown("Keep"), prompt_id=17) == "17"


def test_a_prompt_with_nan_in_it_is_taken_and_listed_as_json(idle: Served) -> None:
    # Files that ComfyUI saved hold such prompts.
    body = json.dumps({"prompt": {**shown("Keep", value=float("nan"))}})
    assert "NaN" in body
    assert idle.post("/prompt", data=body).status == 200
    assert _pending(idle)[0][2]["1"]["inputs"]["value"] is None


def test_a_refusal_is_one_line_of_the_log_and_no_longer_than_that(
    idle: Served, caplog: pytest.LogCaptureFixture
) -> None:
    outputs = {str(one): {"class_type": "Show", "inputs": {}} for one in range(1000)}
    assert idle.post("/prompt", {"prompt": outputs}).status == 400
    value = "a\nb\x1b[31m"
    wrong = shown("Keep") | {"3": {"class_type": "Show", "inputs": {"value": [value, 0]}}}
    assert idle.post("/prompt", {"prompt": wrong}).status == 200
    many, one = (record.getMessage() for record in caplog.records)
    assert len(many) < 3000
    assert many.endswith(" ...")
    assert repr(value) in one or "\ufffd[31m" in one
    assert one.isprintable()
    assert many.isprintable()

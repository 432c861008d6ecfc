"""Prompts that wait, run and ended are listed as jobs."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_execution.jobs import (
    JobStatus,
    apply_sorting,
    get_all_jobs,
    get_job,
    get_outputs_summary,
    is_previewable,
    normalize_history_item,
    normalize_queue_item,
)

PICTURE = {"filename": "a.png", "subfolder": "", "type": "output"}
PREVIEW = {"filename": "b.png", "subfolder": "", "type": "temp"}


def _item(number: float, prompt_id: str, created: int | None = None, workflow: str = "") -> Any:
    extra: dict[str, Any] = {} if created is None else {"create_time": created}
    if workflow:
        extra["extra_pnginfo"] = {"workflow": {"id": workflow}}
    return number, prompt_id, {"1": {}}, extra, ["1"]


def _entry(
    prompt_id: str, end: str = "success", outputs: Any = None, created: int = 1, ran_ms: int = 50
) -> dict[str, Any]:
    messages = [
        ("execution_start", {"prompt_id": prompt_id, "timestamp": 1000}),
        ("execution_cached", {"nodes": [], "prompt_id": prompt_id, "timestamp": 1001}),
        (f"execution_{end}", {"prompt_id": prompt_id, "timestamp": 1000 + ran_ms}),
    ]
    good = end == "success"
    status = {"status_str": "success" if good else "error", "completed": good, "messages": messages}
    item = _item(3, prompt_id, created, "w")
    return {"prompt": item, "outputs": outputs or {}, "status": status, "meta": {}}


# -- statuses --------------------------------------------------------------------------------------


def test_four_statuses_are_known_to_all_and_one_more_may_be_asked_for() -> None:
    assert JobStatus.ALL == ["pending", "in_progress", "completed", "failed"]
    assert [*JobStatus.ALL, "cancelled"] == JobStatus.ACCEPTED


@pytest.mark.parametrize(
    ("end", "status"),
    [("success", "completed"), ("error", "failed"), ("interrupted", "cancelled")],
)
def test_the_end_of_a_run_is_the_status_of_its_job(end: str, status: str) -> None:
    assert normalize_history_item("p", _entry("p", end))["status"] == status


def test_a_run_without_a_status_counts_as_completed() -> None:
    job = normalize_history_item("p", {**_entry("p"), "status": None})
    assert job["status"] == JobStatus.COMPLETED
    assert "execution_start_time" not in job


# -- outputs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("media_type", "item", "wanted"),
    [
        ("images", {}, True),
        ("video", {}, True),
        ("audio", {}, True),
        ("text", {"text": "hello"}, False),
        ("files", {"format": "video/mp4"}, True),
        ("files", {"format": "audio/flac"}, True),
        ("files", {"format": "image/png"}, False),
        ("files", {"format": None, "filename": None}, False),
        ("mesh", {"filename": "a.glb"}, True),
        ("mesh", {"filename": "a.FBX"}, True),
        ("mesh", {"filename": "a.obj"}, True),
        ("mesh", {"filename": "a.gltf"}, True),
        ("mesh", {"filename": "glb"}, False),
        ("latents", {"filename": "a.latent"}, False),
    ],
)
def test_previewable(media_type: str, item: dict[str, Any], wanted: bool) -> None:
    assert is_previewable(media_type, item) is wanted


def test_text_is_counted_and_not_previewed() -> None:
    assert get_outputs_summary({"1": {"text": [{"text": "a"}]}}) == (1, None)


def test_outputs_are_counted_without_what_is_no_output() -> None:
    outputs = {
        "1": {"images": [PICTURE, PREVIEW], "animated": [{"not": "counted"}]},
        "2": {"text": ["a string"], "result": "no list", "latents": [{"filename": "a.latent"}]},
        "3": None,
    }
    assert get_outputs_summary(outputs)[0] == 3


def test_no_outputs_are_none() -> None:
    assert get_outputs_summary({}) == (0, None)


@pytest.mark.parametrize(
    ("outputs", "wanted"),
    [
        ({"1": {"images": [PREVIEW]}, "2": {"images": [PICTURE]}}, {**PICTURE, "nodeId": "2"}),
        ({"1": {"images": [PREVIEW, {**PREVIEW, "filename": "c"}]}}, {**PREVIEW, "nodeId": "1"}),
        ({"1": {"images": [PICTURE, {**PICTURE, "filename": "c"}]}}, {**PICTURE, "nodeId": "1"}),
    ],
    ids=["saved", "first-preview", "first-saved"],
)
def test_the_shown_output_is_the_first_that_was_saved_or_else_the_first(
    outputs: Any, wanted: Any
) -> None:
    assert get_outputs_summary(outputs)[1] == {**wanted, "mediaType": "images"}


def test_the_summary_leaves_outputs_as_they_are() -> None:
    outputs = {"1": {"images": [dict(PICTURE)]}}
    get_outputs_summary(outputs)
    assert outputs == {"1": {"images": [PICTURE]}}


# -- records ---------------------------------------------------------------------------------------


def test_a_waiting_prompt_as_a_job() -> None:
    assert normalize_queue_item(_item(2, "p", 77, "w"), JobStatus.PENDING) == {
        "id": "p",
        "status": "pending",
        "priority": 2,
        "create_time": 77,
        "outputs_count": 0,
        "workflow_id": "w",
    }


@pytest.mark.parametrize("info", [None, {}, {"workflow": None}, {"workflow": {}}, "odd"])
def test_what_is_not_known_is_left_out(info: Any) -> None:
    item = (1, "p", {}, {"extra_pnginfo": info}, [])
    assert normalize_queue_item(item, JobStatus.IN_PROGRESS) == {
        "id": "p",
        "status": "in_progress",
        "priority": 1,
        "outputs_count": 0,
    }


def test_an_ended_prompt_as_a_job() -> None:
    entry = _entry("p", outputs={"9": {"images": [PICTURE]}}, created=900)
    assert normalize_history_item("p", entry) == {
        "id": "p",
        "status": "completed",
        "priority": 3,
        "create_time": 900,
        "execution_start_time": 1000,
        "execution_end_time": 1050,
        "outputs_count": 1,
        "preview_output": {**PICTURE, "nodeId": "9", "mediaType": "images"},
        "workflow_id": "w",
    }


def test_a_failed_job_has_its_error() -> None:
    job = normalize_history_item("p", _entry("p", "error"))
    assert job["execution_error"] == {"prompt_id": "p", "timestamp": 1050}
    assert job["execution_end_time"] == 1050


def test_outputs_status_and_workflow_are_given_if_wanted() -> None:
    entry = _entry("p", outputs={"9": {"images": [PICTURE]}})
    job = normalize_history_item("p", entry, include_outputs=True)
    assert job["outputs"] == {"9": {"images": [PICTURE]}}
    assert job["execution_status"] == entry["status"]
    assert job["workflow"] == {"prompt": {"1": {}}, "extra_data": entry["prompt"][3]}


def test_items_with_a_sensitive_part_show_nothing_of_it() -> None:
    item = (*_item(2, "p"), {"api_key_comfy_org": "secret"})
    assert "secret" not in repr(get_job("p", [item], [], {}))


# -- lists -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sort_by", "order", "wanted"),
    [
        ("created_at", "desc", "cab"),
        ("created_at", "asc", "bac"),
        ("execution_duration", "desc", "bca"),
        ("execution_duration", "asc", "acb"),
    ],
)
def test_jobs_are_sorted(sort_by: str, order: str, wanted: str) -> None:
    jobs = [
        {"id": "a", "create_time": 5},
        {"id": "b", "execution_start_time": 10, "execution_end_time": 40},
        {"id": "c", "create_time": 9, "execution_start_time": 10, "execution_end_time": 20},
    ]
    assert "".join(job["id"] for job in apply_sorting(jobs, sort_by, order)) == wanted


RUNNING = [_item(0, "run", 30)]
QUEUED = [_item(1, "wait1", 40), _item(2, "wait2", 50, "other")]
HISTORY = {
    "good": _entry("good", created=10, ran_ms=90),
    "bad": _entry("bad", "error", created=20),
    "stopped": _entry("stopped", "interrupted", created=25),
}


def _listed(**wishes: Any) -> tuple[list[str], int]:
    jobs, total = get_all_jobs(RUNNING, QUEUED, HISTORY, **wishes)
    return [job["id"] for job in jobs], total


@pytest.mark.parametrize(
    ("wishes", "wanted", "total"),
    [
        ({}, ["wait2", "wait1", "run", "stopped", "bad", "good"], 6),
        ({"sort_order": "asc"}, ["good", "bad", "stopped", "run", "wait1", "wait2"], 6),
        ({"status_filter": ["in_progress", "pending"]}, ["wait2", "wait1", "run"], 3),
        ({"status_filter": ["pending"]}, ["wait2", "wait1"], 2),
        ({"status_filter": ["completed"]}, ["good"], 1),
        ({"status_filter": ["failed"]}, ["bad"], 1),
        ({"status_filter": ["completed", "failed", "cancelled"]}, ["stopped", "bad", "good"], 3),
        ({"status_filter": []}, [], 0),
        ({"workflow_id": "other"}, ["wait2"], 1),
        ({"limit": 2}, ["wait2", "wait1"], 6),
        ({"limit": 2, "offset": 4}, ["bad", "good"], 6),
        ({"offset": 5}, ["good"], 6),
        ({"offset": -3, "limit": 1}, ["wait2"], 6),
        ({"offset": 99, "limit": 5}, [], 6),
        ({"sort_by": "execution_duration", "limit": 1}, ["good"], 6),
    ],
)
def test_jobs_are_listed(wishes: dict[str, Any], wanted: list[str], total: int) -> None:
    assert _listed(**wishes) == (wanted, total)


@pytest.mark.parametrize(
    ("prompt_id", "status"),
    [("run", "in_progress"), ("wait2", "pending"), ("good", "completed"), ("bad", "failed")],
)
def test_one_job_is_found_with_its_workflow(prompt_id: str, status: str) -> None:
    job = get_job(prompt_id, RUNNING, QUEUED, HISTORY)
    assert job is not None
    assert (job["id"], job["status"]) == (prompt_id, status)
    assert job["workflow"]["prompt"] == {"1": {}}
    assert ("outputs" in job) is (prompt_id in HISTORY)


def test_there_is_no_job_of_an_unknown_prompt() -> None:
    assert get_job("nobody", RUNNING, QUEUED, HISTORY) is None

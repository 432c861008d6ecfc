"""/api/jobs: prompts as one list, and cancelling them."""

from __future__ import annotations

import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from api_server.routes import jobs
from support.running_server import Served
from support.server_nodes import Gate, shown

CANCEL_ONE = "/api/jobs/{}/cancel"


def _jobs(server: Served, query: str = "") -> list[dict[str, Any]]:
    answer = server.get(f"/api/jobs{query}")
    assert answer.status == 200, answer.body
    told: list[dict[str, Any]] = answer.json()["jobs"]
    return told


@pytest.fixture
def busy(server: Served, gate: Gate) -> tuple[Served, dict[str, str]]:
    """A job of each status, by status."""
    completed = server.queue(
        shown("Keep", value="cat", output="Saved"),
        extra_data={"extra_pnginfo": {"workflow": {"id": "w1"}}},
    )
    failed = server.queue(shown("Fail"))
    stopped = server.queue(shown("Wait", value=0))
    assert gate.entered.wait(10)
    server.post("/interrupt", {"prompt_id": stopped})
    server.wait_for_history(stopped)
    gate.entered.clear()
    running = server.queue(shown("Wait", value=1))
    assert gate.entered.wait(10)
    ids = {
        "completed": completed,
        "failed": failed,
        "cancelled": stopped,
        "in_progress": running,
        "pending": server.queue(shown("Keep")),
    }
    return server, ids


def test_no_jobs_are_an_empty_page(idle: Served) -> None:
    page = {"offset": 0, "limit": None, "total": 0, "has_more": False}
    assert idle.get("/api/jobs").json() == {"jobs": [], "pagination": page}


def test_jobs_are_only_there_below_api(idle: Served) -> None:
    assert idle.get("/jobs").status == 404
    assert idle.get("/api/api/jobs").status == 200


def test_every_status_can_be_asked_for(busy: tuple[Served, dict[str, str]]) -> None:
    server, ids = busy
    for status, prompt_id in ids.items():
        assert [(job["id"], job["status"]) for job in _jobs(server, f"?status={status}")] == [
            (prompt_id, status)
        ]
    assert {job["id"] for job in _jobs(server)} == set(ids.values())
    ended = _jobs(server, "?status=completed,failed,cancelled&limit=64&offset=0")
    assert {job["status"] for job in ended} == {"completed", "failed", "cancelled"}
    assert len(_jobs(server, "?status=in_progress,pending&limit=200&offset=0")) == 2


def test_records_have_what_pages_need(busy: tuple[Served, dict[str, str]]) -> None:
    server = busy[0]
    jobs = {job["status"]: job for job in _jobs(server)}
    assert set(jobs["pending"]) == {"id", "status", "priority", "create_time", "outputs_count"}
    done = jobs["completed"]
    picture = {"filename": "cat.png", "subfolder": "", "type": "output"}
    assert done["preview_output"] == {**picture, "nodeId": "2", "mediaType": "images"}
    assert (done["outputs_count"], done["workflow_id"]) == (1, "w1")
    assert done["create_time"] <= done["execution_start_time"] <= done["execution_end_time"]
    assert jobs["failed"]["execution_error"]["node_id"] == "1"
    assert None not in done.values()


def test_jobs_are_filtered_sorted_and_paged(busy: tuple[Served, dict[str, str]]) -> None:
    server, ids = busy
    assert [job["id"] for job in _jobs(server, "?workflow_id=w1")] == [ids["completed"]]
    oldest = [job["id"] for job in _jobs(server, "?sort_order=asc&sort_by=created_at")]
    newest = [job["create_time"] for job in _jobs(server)]
    assert oldest[0] == ids["completed"]
    assert newest == sorted(newest, reverse=True)
    told = server.get("/api/jobs?sort_order=asc&limit=2&offset=1").json()
    assert [job["id"] for job in told["jobs"]] == oldest[1:3]
    assert told["pagination"] == {"offset": 1, "limit": 2, "total": 5, "has_more": True}
    last = server.get("/api/jobs?limit=2&offset=4").json()["pagination"]
    assert last == {"offset": 4, "limit": 2, "total": 5, "has_more": False}
    by_time = _jobs(server, "?status=cancelled,failed&sort_by=execution_duration")
    times = [job["execution_end_time"] - job["execution_start_time"] for job in by_time]
    assert times == sorted(times, reverse=True)
    assert server.get("/api/jobs?offset=-5").json()["pagination"]["offset"] == 0


@pytest.mark.parametrize(
    "query",
    [
        "status=done",
        "status=completed,nonsense",
        "sort_by=name",
        "sort_order=random",
        "limit=0",
        "limit=-1",
        "limit=all",
        "offset=first",
    ],
)
def test_what_cannot_be_asked_for_is_refused_with_the_reason(idle: Served, query: str) -> None:
    answer = idle.get(f"/api/jobs?{query}")
    assert answer.status == 400
    assert query.partition("=")[0] in answer.json()["error"]


def test_one_job_is_told_in_full(busy: tuple[Served, dict[str, str]]) -> None:
    server, ids = busy
    job = server.get(f"/api/jobs/{ids['completed']}").json()
    assert job["outputs"]["2"]["images"][0]["filename"] == "cat.png"
    assert job["execution_status"]["status_str"] == "success"
    assert job["workflow"]["prompt"] == shown("Keep", value="cat", output="Saved")
    assert job["workflow"]["extra_data"]["extra_pnginfo"] == {"workflow": {"id": "w1"}}
    for status in ("in_progress", "pending"):
        job = server.get(f"/api/jobs/{ids[status]}").json()
        assert job["status"] == status
        assert "prompt" in job["workflow"]


def test_a_job_that_is_not_there_is_not_found(idle: Served) -> None:
    answer = idle.get("/api/jobs/unknown")
    assert (answer.status, answer.json()) == (404, {"error": "Job not found"})


# -- cancelling ------------------------------------------------------------------------------------


def test_a_job_is_cancelled_once_whatever_it_was_doing(
    busy: tuple[Served, dict[str, str]],
) -> None:
    server, ids = busy
    for status in ("pending", "in_progress"):
        first = server.post(CANCEL_ONE.format(ids[status]))
        assert (first.status, first.json()) == (200, {"cancelled": True})
    entry = server.wait_for_history(ids["in_progress"])
    assert entry["status"]["messages"][-1][0] == "execution_interrupted"
    again = [server.post(CANCEL_ONE.format(ids[one])).json() for one in ids]
    assert again == [{"cancelled": False}] * 5
    assert server.get(f"/api/jobs/{ids['in_progress']}").json()["status"] == "cancelled"
    assert server.get(f"/api/jobs/{ids['pending']}").status == 404


@pytest.mark.parametrize("one", ["unknown", str(uuid.uuid4())])
def test_cancelling_what_is_not_there_is_no_error(idle: Served, one: str) -> None:
    answer = idle.post(CANCEL_ONE.format(one))
    assert (answer.status, answer.json()) == (200, {"cancelled": False})


def test_several_jobs_are_cancelled_at_once(busy: tuple[Served, dict[str, str]]) -> None:
    server, ids = busy
    wanted = [ids["pending"], ids["in_progress"], ids["completed"], str(uuid.uuid4())]
    answer = server.post("/api/jobs/cancel", {"job_ids": wanted})
    assert answer.status == 200
    assert answer.json()["cancelled"]
    server.wait_for_history(ids["in_progress"])
    assert server.get("/queue").json() == {"queue_running": [], "queue_pending": []}


def test_no_jobs_to_cancel_is_no_error(idle: Served) -> None:
    assert idle.post("/api/jobs/cancel", {"job_ids": []}).status == 200


@pytest.mark.parametrize("body", [b"", b"no json", b"[]", b"{}", b'{"job_ids": "a"}'])
def test_a_list_of_jobs_that_is_none_is_refused(idle: Served, body: bytes) -> None:
    answer = idle.post("/api/jobs/cancel", data=body)
    assert answer.status == 400
    assert answer.json()["error"]


def test_ids_that_are_no_uuids_are_refused_and_nothing_is_cancelled(idle: Served) -> None:
    prompt_id = idle.queue(shown("Keep"))
    answer = idle.post("/api/jobs/cancel", {"job_ids": [prompt_id, "x", 5]})
    assert answer.status == 400
    assert answer.json()["invalid_ids"] == ["x", 5]
    assert len(idle.get("/queue").json()["queue_pending"]) == 1


def test_others_are_answered_while_a_long_list_is_made(
    idle: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, may_end = threading.Event(), threading.Event()
    make = jobs.get_all_jobs

    def slowly(*asked: Any) -> Any:
        began.set()
        assert may_end.wait(5), "nobody was answered meanwhile"
        return make(*asked)

    monkeypatch.setattr(jobs, "get_all_jobs", slowly)
    with ThreadPoolExecutor(1) as others:
        listing = others.submit(_jobs, idle)
        assert began.wait(5)
        assert idle.get("/features").status == 200
        may_end.set()
        assert listing.result() == []

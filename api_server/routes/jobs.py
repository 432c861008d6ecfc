"""Prompts as one list, whatever became of them: /api/jobs."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from api_server import stopping
from api_server.routes.history import as_it_is
from api_server.utils import json_text
from api_server.utils.queries import whole_number
from comfy_execution.jobs import JobStatus, get_all_jobs, get_job
from comfy_execution.queue import without_sensitive

_SORTS = ("created_at", "execution_duration")
_ORDERS = ("asc", "desc")


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the addresses.

    Args:
        routes: Gets them.
        server: The `PromptServer`.
    """

    @routes.get("/api/jobs")
    async def get_jobs(request: web.Request) -> web.Response:
        try:
            asked = _Asked.read(request)
        except ValueError as err:
            return json_text.refusal(str(err))
        # Thousands take a while, and others are answered meanwhile.
        return json_text.answer(await asyncio.to_thread(_page, server, asked))

    @routes.get("/api/jobs/{job_id}")
    async def get_one_job(request: web.Request) -> web.Response:
        job_id = request.match_info["job_id"]
        running, pending = server.prompt_queue.get_current_queue_volatile()
        history = server.prompt_queue.get_history(prompt_id=job_id, map_function=as_it_is)
        job = get_job(job_id, _shown(running), _shown(pending), history)
        if job is None:
            return json_text.refusal("Job not found", web.HTTPNotFound.status_code)
        return json_text.answer(job)

    @routes.post("/api/jobs/{job_id}/cancel")
    async def cancel_job(request: web.Request) -> web.Response:
        cancelled = await stopping.cancel(server, request.match_info["job_id"])
        return json_text.answer({"cancelled": cancelled})

    @routes.post("/api/jobs/cancel")
    async def cancel_jobs(request: web.Request) -> web.Response:
        body = await json_text.read_object(request)
        ids = body.get("job_ids")
        if not isinstance(ids, list):
            return json_text.refusal("'job_ids' must be a list of ids of jobs.")
        invalid = [one for one in ids if not _is_uuid(one)]
        if invalid:
            told = {"error": "Some ids of jobs are no UUIDs.", "invalid_ids": invalid}
            return json_text.answer(told, web.HTTPBadRequest.status_code)
        cancelled = [one for one in ids if await stopping.cancel(server, one)]
        return json_text.answer({"cancelled": cancelled})


@dataclass(frozen=True)
class _Asked:
    """What a list of jobs shall hold; see `comfy_execution.jobs.get_all_jobs`."""

    statuses: list[str] | None
    workflow_id: str | None
    sort_by: str
    sort_order: str
    limit: int | None
    offset: int

    @classmethod
    def read(cls, request: web.Request) -> _Asked:
        """From the query of a request.

        Raises:
            ValueError: A parameter has no such value.
        """
        query = request.query
        return cls(
            _statuses(query.get("status")),
            query.get("workflow_id") or None,
            _choice("sort_by", query.get("sort_by", _SORTS[0]).lower(), _SORTS),
            _choice("sort_order", query.get("sort_order", _ORDERS[1]).lower(), _ORDERS),
            _limit(query.get("limit")),
            _offset(query.get("offset")),
        )


def _page(server: Any, asked: _Asked) -> dict[str, Any]:
    running, pending = server.prompt_queue.get_current_queue_volatile()
    history = server.prompt_queue.get_history(map_function=as_it_is)
    jobs, total = get_all_jobs(
        _shown(running),
        _shown(pending),
        history,
        asked.statuses,
        asked.workflow_id,
        asked.sort_by,
        asked.sort_order,
        asked.limit,
        asked.offset,
    )
    return {
        "jobs": jobs,
        "pagination": {
            "offset": asked.offset,
            "limit": asked.limit,
            "total": total,
            "has_more": asked.offset + len(jobs) < total,
        },
    }


def _shown(items: list[Any]) -> list[Any]:
    # Records have no place for sensitive data; what a pack adds to an item shall not bring it in.
    return [without_sensitive(item) for item in items]


def _statuses(given: str | None) -> list[str] | None:
    if given is None or not given.strip():
        return None
    asked = [one.strip().lower() for one in given.split(",") if one.strip()]
    for one in asked:
        _choice("status", one, JobStatus.ACCEPTED)
    return asked


def _choice(name: str, given: str, choices: Any) -> str:
    if given not in choices:
        raise ValueError(f"{name} can be {', '.join(choices)}, but not {given[:40]!r}.")
    return given


def _limit(given: str | None) -> int | None:
    if given is None:
        return None
    limit = whole_number("limit", given)
    if limit <= 0:
        raise ValueError(f"limit must be above zero, not {limit}.")
    return limit


def _offset(given: str | None) -> int:
    return 0 if given is None else max(0, whole_number("offset", given))


def _is_uuid(given: Any) -> bool:
    if not isinstance(given, str):
        return False
    try:
        uuid.UUID(given)
    except ValueError:
        return False
    return True

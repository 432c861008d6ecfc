"""Prompts as pages list them: one kind of record for those that wait, run and ended."""

from __future__ import annotations

import os.path
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

Job = dict[str, Any]


class JobStatus:
    """What a job can be.

    Attributes:
        ALL: The four that every client knows.
        ACCEPTED: Those that may be asked for: newer pages also know jobs that were cancelled.
    """

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    ALL: ClassVar[list[str]] = [PENDING, IN_PROGRESS, COMPLETED, FAILED]
    ACCEPTED: ClassVar[list[str]] = [*ALL, CANCELLED]


PREVIEWABLE_MEDIA_TYPES = frozenset({"images", "video", "audio"})
PREVIEWABLE_FORMATS = ("video/", "audio/")
PREVIEWABLE_EXTENSIONS = frozenset({".obj", ".fbx", ".gltf", ".glb"})

_NOT_MEDIA = "animated"
_ENDS = ("execution_success", "execution_error", "execution_interrupted")


# -- outputs ---------------------------------------------------------------------------------------


def is_previewable(media_type: str, item: Mapping[str, Any]) -> bool:
    """Whether a page can show an output.

    Args:
        media_type: The key it stands under, such as "images".
        item: The output, with "filename" and perhaps "format".
    """
    if media_type in PREVIEWABLE_MEDIA_TYPES:
        return True
    kind, name = item.get("format"), item.get("filename")
    if isinstance(kind, str) and kind.startswith(PREVIEWABLE_FORMATS):
        return True
    if not isinstance(name, str):
        return False
    return os.path.splitext(name)[1].lower() in PREVIEWABLE_EXTENSIONS


def _items(outputs: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Node, media type and record of each output."""
    for node_id, by_type in outputs.items():
        if not isinstance(by_type, Mapping):
            continue
        for media_type, items in by_type.items():
            if media_type == _NOT_MEDIA or not isinstance(items, list):
                continue
            yield from ((node_id, media_type, item) for item in items if isinstance(item, dict))


def get_outputs_summary(outputs: Mapping[str, Any]) -> tuple[int, dict[str, Any] | None]:
    """How many outputs there are, and the one to show.

    Args:
        outputs: By node and media type, lists of records.

    Returns:
        The count; and the first previewable record that was saved to the output folder, else the
        first previewable one, with "nodeId" and "mediaType"; None if there is none.
    """
    count = 0
    saved: dict[str, Any] | None = None
    other: dict[str, Any] | None = None
    for node_id, media_type, item in _items(outputs):
        count += 1
        if saved is not None or not is_previewable(media_type, item):
            continue
        shown = {**item, "nodeId": node_id, "mediaType": media_type}
        if item.get("type") == "output":
            saved = shown
        elif other is None:
            other = shown
    return count, saved if saved is not None else other


# -- one job ---------------------------------------------------------------------------------------


def _without_nones(job: Job) -> Job:
    return {key: value for key, value in job.items() if value is not None}


def _workflow_id(extra_data: Mapping[str, Any]) -> Any:
    info = extra_data.get("extra_pnginfo")
    workflow = info.get("workflow") if isinstance(info, Mapping) else None
    return workflow.get("id") if isinstance(workflow, Mapping) else None


def _workflow(item: Sequence[Any]) -> dict[str, Any]:
    return {"prompt": item[2], "extra_data": item[3]}


def normalize_queue_item(item: Sequence[Any], status: str) -> Job:
    """The record of a prompt that waits or runs.

    Args:
        item: Number, prompt id, prompt, extra data, outputs to execute.
        status: `JobStatus.PENDING` or `JobStatus.IN_PROGRESS`.
    """
    number, prompt_id, _, extra_data = item[:4]
    extra_data = extra_data or {}
    return _without_nones(
        {
            "id": prompt_id,
            "status": status,
            "priority": number,
            "create_time": extra_data.get("create_time"),
            "outputs_count": 0,
            "workflow_id": _workflow_id(extra_data),
        }
    )


def normalize_history_item(
    prompt_id: str, history_item: Mapping[str, Any], include_outputs: bool = False
) -> Job:
    """The record of a prompt that ended.

    Args:
        prompt_id: Its id.
        history_item: "prompt", "outputs" and "status" of its entry.
        include_outputs: Also give all outputs, the status and the workflow.
    """
    item = history_item["prompt"]
    extra_data = item[3] or {}
    outputs = history_item.get("outputs") or {}
    status = history_item.get("status") or {}
    events = _events(status)
    count, preview = get_outputs_summary(outputs)
    started, ended = events.get("execution_start", {}), _end(events)
    job = {
        "id": prompt_id,
        "status": _status(status, events),
        "priority": item[0],
        "create_time": extra_data.get("create_time"),
        "execution_start_time": started.get("timestamp"),
        "execution_end_time": ended.get("timestamp"),
        "execution_error": events.get("execution_error"),
        "outputs_count": count,
        "preview_output": preview,
        "workflow_id": _workflow_id(extra_data),
    }
    if include_outputs:
        job |= {"outputs": outputs, "execution_status": status, "workflow": _workflow(item)}
    return _without_nones(job)


def _events(status: Mapping[str, Any]) -> dict[str, Any]:
    """Data of each kind of message, the last one of a kind."""
    pairs = status.get("messages") or []
    return {pair[0]: pair[1] for pair in pairs if len(pair) > 1 and isinstance(pair[1], Mapping)}


def _end(events: Mapping[str, Any]) -> Any:
    return next((events[kind] for kind in _ENDS if kind in events), {})


def _status(status: Mapping[str, Any], events: Mapping[str, Any]) -> str:
    if "execution_interrupted" in events:
        return JobStatus.CANCELLED
    return JobStatus.FAILED if status.get("status_str") == "error" else JobStatus.COMPLETED


# -- all jobs --------------------------------------------------------------------------------------


def _duration(job: Job) -> float:
    """Milliseconds that a job ran; 0 if that is not known."""
    started, ended = job.get("execution_start_time"), job.get("execution_end_time")
    return ended - started if started and ended else 0


def apply_sorting(
    jobs: Iterable[Job], sort_by: str = "created_at", sort_order: str = "desc"
) -> list[Job]:
    """Put jobs in order.

    Args:
        jobs: Records.
        sort_by: "created_at" or "execution_duration"; what a job lacks counts as 0.
        sort_order: "desc" or "asc".
    """
    by_duration = sort_by == "execution_duration"
    return sorted(
        jobs,
        key=_duration if by_duration else lambda job: job.get("create_time") or 0,
        reverse=sort_order == "desc",
    )


def get_job(
    prompt_id: str,
    running: Iterable[Sequence[Any]],
    queued: Iterable[Sequence[Any]],
    history: Mapping[str, Any],
) -> Job | None:
    """All that is known of one job.

    Args:
        prompt_id: Its id.
        running: Items that run.
        queued: Items that wait.
        history: Entries of prompts that ended, by id.

    Returns:
        Its record, with its workflow; None if there is no such job.
    """
    if prompt_id in history:
        return normalize_history_item(prompt_id, history[prompt_id], include_outputs=True)
    for items, status in ((running, JobStatus.IN_PROGRESS), (queued, JobStatus.PENDING)):
        for item in items:
            if item[1] == prompt_id:
                return {**normalize_queue_item(item, status), "workflow": _workflow(item)}
    return None


def get_all_jobs(
    running: Iterable[Sequence[Any]],
    queued: Iterable[Sequence[Any]],
    history: Mapping[str, Any],
    status_filter: Collection[str] | None = None,
    workflow_id: str | None = None,
    sort_by: str = "created_at",
    sort_order: str = "desc",
    limit: int | None = None,
    offset: int = 0,
) -> tuple[list[Job], int]:
    """List jobs.

    Args:
        running: Items that run.
        queued: Items that wait.
        history: Entries of prompts that ended, by id.
        status_filter: Statuses that are wanted; None for all.
        workflow_id: Id of the only workflow that is wanted; None for all.
        sort_by: See `apply_sorting`.
        sort_order: See `apply_sorting`.
        limit: How many at most; None for all.
        offset: How many of the first to leave out.

    Returns:
        The records of this page, and how many there are on all pages.
    """
    wanted = set(JobStatus.ACCEPTED if status_filter is None else status_filter)
    jobs = [normalize_queue_item(item, JobStatus.IN_PROGRESS) for item in running]
    jobs += [normalize_queue_item(item, JobStatus.PENDING) for item in queued]
    if wanted - {JobStatus.IN_PROGRESS, JobStatus.PENDING}:
        jobs += [normalize_history_item(one, entry) for one, entry in history.items()]
    jobs = [
        job
        for job in jobs
        if job["status"] in wanted and workflow_id in (None, job.get("workflow_id"))
    ]
    start = max(0, offset)
    end = None if limit is None else start + limit
    return apply_sorting(jobs, sort_by, sort_order)[start:end], len(jobs)

"""From the body of ``POST /prompt`` to an item of the queue."""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import execution


class Refused(Exception):
    """A request for a prompt cannot be taken.

    Attributes:
        error: What is wrong, in the shape of the errors of a prompt.
    """

    def __init__(self, kind: str, message: str, details: str = "") -> None:
        super().__init__(message)
        self.error = {"type": kind, "message": message, "details": details, "extra_info": {}}


@dataclass(frozen=True)
class Submission:
    """A request for a prompt, sound in its form.

    Attributes:
        prompt: The nodes; not yet validated.
        prompt_id: Its id.
        number: Its place in the queue; lower ones run first.
        extra_data: What may be shown.
        sensitive: What may not.
        targets: Output nodes that are wanted; None for all.
    """

    prompt: Any
    prompt_id: str
    number: float
    extra_data: dict[str, Any]
    sensitive: dict[str, Any]
    targets: list[str] | None

    def item(self, outputs: list[str]) -> tuple[Any, ...]:
        """The item of the queue; see `comfy_execution.queue.Item`."""
        return (
            self.number,
            self.prompt_id,
            self.prompt,
            self.extra_data,
            outputs,
            self.sensitive,
        )


def place(body: Mapping[str, Any], counter: int) -> tuple[float, int]:
    """The number of a prompt in the queue, and the counter for the next one.

    Args:
        body: "number" is taken as it is; else the counter, below zero with "front".
        counter: How many prompts came without a number.

    Raises:
        Refused: The number is none.
    """
    if "number" not in body or body["number"] is None:
        return (-counter if body.get("front") else counter), counter + 1
    try:
        number = float(body["number"])
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise Refused(
            "invalid_number",
            "The number of a prompt says when its turn is; give a number.",
            repr(body["number"])[:100],
        )
    return number, counter


def submission(body: Mapping[str, Any], number: float, usage_source: str | None) -> Submission:
    """Read a request for a prompt.

    Args:
        body: Of the request.
        number: The prompt's place in the queue.
        usage_source: Where it comes from, by the request's headers.

    Raises:
        Refused: Something is of a wrong kind, or there is no prompt.
    """
    if "prompt" not in body:
        raise Refused("no_prompt", "The request has no prompt. Send the nodes as 'prompt'.")
    extra_data = _extra_data(body, usage_source)
    sensitive = {
        key: extra_data.pop(key) for key in execution.SENSITIVE_EXTRA_DATA_KEYS if key in extra_data
    }
    prompt_id = body.get("prompt_id")
    return Submission(
        prompt=body["prompt"],
        prompt_id=str(uuid.uuid4()) if prompt_id in (None, "") else str(prompt_id),
        number=number,
        extra_data=extra_data,
        sensitive=sensitive,
        targets=_targets(body.get("partial_execution_targets")),
    )


def _extra_data(body: Mapping[str, Any], usage_source: str | None) -> dict[str, Any]:
    given = body.get("extra_data")
    if given is not None and not isinstance(given, dict):
        raise Refused("invalid_extra_data", "'extra_data' must be an object.")
    extra_data = dict(given or {})
    if body.get("client_id") is not None:
        extra_data["client_id"] = body["client_id"]
    client_id = extra_data.get("client_id")
    if client_id is not None and not isinstance(client_id, str):
        # Messages are addressed by it.
        raise Refused("invalid_client_id", "'client_id' must be a text.")
    if usage_source:
        extra_data.setdefault("comfy_usage_source", usage_source)
    extra_data["create_time"] = int(time.time() * 1000)
    return extra_data


def _targets(given: Any) -> list[str] | None:
    if given is None:
        return None
    if not isinstance(given, list):
        raise Refused(
            "invalid_partial_execution_targets",
            "'partial_execution_targets' must be a list of ids of output nodes.",
        )
    return [str(one) for one in given]

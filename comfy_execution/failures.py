"""Errors of nodes, as the page and the history are told of them."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Mapping
from typing import Any

import comfy.model_management

OUT_OF_MEMORY_TIP = (
    "The device's memory is full, so all models were unloaded. Run the prompt again with smaller "
    "pictures or batches, or close other programs that use the device."
)


NODE_FAILURES = (Exception, SystemExit, asyncio.CancelledError)
"""Errors, and attempts of a node to end the program or its own task."""


def ends_prompt(error: BaseException) -> bool:
    """Whether it is no node's failure: somebody cancels the task in which the prompt runs."""
    # Tasks cannot be asked before Python 3.11.
    asked = getattr(asyncio.current_task(), "cancelling", lambda: 0)()
    return isinstance(error, asyncio.CancelledError) and asked > 0


def full_type_name(klass: type) -> str:
    """Name of a class with its module; builtins by their name alone."""
    if klass.__module__ == "builtins":
        return klass.__qualname__
    return f"{klass.__module__}.{klass.__qualname__}"


def format_value(value: Any) -> Any:
    """A value as JSON holds it: None, numbers, truth values and strings as they are, others told."""
    if isinstance(value, (type(None), bool, int, float, str)):
        return value
    try:
        return str(value)
    except Exception as err:  # noqa: BLE001 - a pack's object; the error it is told with matters more
        return f"<{full_type_name(type(value))} that cannot be written: {type(err).__name__}>"


def describe_failure(
    error: BaseException, node_id: str, arguments: Mapping[str, Any]
) -> dict[str, Any]:
    """The fields of ``execution_error`` that tell of the node.

    Args:
        error: What it raised.
        node_id: The node of the original prompt.
        arguments: The lists of its arguments, as far as they were there.
    """
    if isinstance(error, comfy.model_management.InterruptProcessingException):
        return {"node_id": node_id}
    is_full = isinstance(error, comfy.model_management.OOM_EXCEPTION)
    text = format_value(error) or f"{type(error).__name__} (the error has no text)"
    return {
        "node_id": node_id,
        "exception_message": f"{text}\n{OUT_OF_MEMORY_TIP if is_full else ''}",
        "exception_type": full_type_name(type(error)),
        "traceback": traceback.format_tb(error.__traceback__),
        "current_inputs": {
            name: [format_value(value) for value in values] for name, values in arguments.items()
        },
    }

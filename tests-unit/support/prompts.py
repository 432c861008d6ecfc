"""Small node classes, and checks of prompts made of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from comfy_execution.validation import validate_prompt

Outcome = tuple[bool, Any, list[str], dict[str, Any]]


def node_class(
    required: dict[str, Any] | None = None,
    optional: dict[str, Any] | None = None,
    returns: tuple[Any, ...] = ("INT",),
    **attributes: Any,
) -> type[Any]:
    """A classic node class with these inputs and outputs."""
    sections = {"required": required or {}, "optional": optional or {}}
    given = {
        "INPUT_TYPES": classmethod(lambda cls: sections),
        "RETURN_TYPES": returns,
        "FUNCTION": "run",
        **attributes,
    }
    return type("Made", (), given)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """A node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


def check(prompt: Any, classes: Mapping[str, Any], only: Sequence[str] | None = None) -> Outcome:
    """Validity, error, good outputs and errors by node of a prompt."""
    return asyncio.run(validate_prompt("a-prompt", prompt, only, classes))


def only_error(prompt: Any, classes: Mapping[str, Any], node_id: str = "2") -> dict[str, Any]:
    """The one error of the one node that has some."""
    valid, error, good, node_errors = check(prompt, classes)
    assert not valid
    assert good == []
    assert error["type"] == "prompt_outputs_failed_validation"
    assert list(node_errors) == [node_id]
    assert node_errors[node_id]["class_type"] == prompt[node_id]["class_type"]
    (told,) = node_errors[node_id]["errors"]
    assert list(told) == ["type", "message", "details", "extra_info"]
    assert told["message"].endswith(".")
    json.dumps(node_errors, allow_nan=False)
    return dict(told)

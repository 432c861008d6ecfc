"""What is wrong with a prompt, in the shapes that pages and clients read.

Every error is {"type", "message", "details", "extra_info"}. The type is for programs; the message
says what kind of thing went wrong, the details say where and with which value.
"""

from __future__ import annotations

import difflib
import heapq
import os.path
import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from comfy_execution.failures import full_type_name

Error = dict[str, Any]

InputConfig = tuple[Any, dict[str, Any]]
"""Type and options of an input, as its node declares them."""

MANY_CHOICES = 20
"""Lists of more choices are not repeated in an error."""

_SUGGESTIONS = 3
_LONGEST_WORD = 255
"""No file has a longer name."""
_COMPARED = 50
"""So many choices, those that share most pairs of letters, are compared in full."""


def _error(kind: str, message: str, details: str, **extra_info: Any) -> Error:
    return {"type": kind, "message": message, "details": details, "extra_info": extra_info}


# -- of the whole prompt ---------------------------------------------------------------------------


def invalid_prompt(message: str, details: str, **extra_info: Any) -> Error:
    """The prompt cannot be read as a graph of known nodes."""
    return _error("invalid_prompt", message, details, **extra_info)


def prompt_no_outputs(details: str = "") -> Error:
    """Nothing that shows or saves a result was asked for."""
    return _error("prompt_no_outputs", "The prompt has no output node to run.", details)


def prompt_outputs_failed(errors: Iterable[Error]) -> Error:
    """No output can run.

    Args:
        errors: Those of the output nodes themselves.
    """
    lines = [f"{error['message']}: {error['details']}" for error in errors]
    message = "No output of the prompt can run."
    return _error("prompt_outputs_failed_validation", message, "\n".join(lines))


# -- of one input ----------------------------------------------------------------------------------


def required_input_missing(name: str) -> Error:
    """A required input has neither a link nor a value."""
    message = "A required input is neither linked nor set."
    return _error("required_input_missing", message, name, input_name=name)


def bad_linked_input(name: str, config: InputConfig, received: Any) -> Error:
    """A list that is no link."""
    return _error(
        "bad_linked_input",
        "A link must be a node's id and the number of its output.",
        name,
        input_name=name,
        input_config=list(config),
        received_value=received,
    )


def return_type_mismatch(name: str, config: InputConfig, received: Any, link: list[Any]) -> Error:
    """A link brings what the input does not take."""
    details = f"{name}, received_type({received}) mismatch input_type({_shown_type(config[0])})"
    return _error(
        "return_type_mismatch",
        "The linked output is of another type than the input.",
        details,
        input_name=name,
        input_config=list(config),
        received_type=received,
        linked_node=link,
    )


def invalid_input_type(name: str, config: InputConfig, received: Any, err: Exception) -> Error:
    """A value cannot be turned into the input's type."""
    return _error(
        "invalid_input_type",
        f"The value cannot be read as {config[0]}.",
        f"{name}, {received!r}, {err}",
        input_name=name,
        input_config=list(config),
        received_value=received,
        exception_message=str(err),
    )


def out_of_range(name: str, config: InputConfig, received: Any, *, is_small: bool) -> Error:
    """A number is below the input's minimum, or above its maximum."""
    kind = "value_smaller_than_min" if is_small else "value_bigger_than_max"
    side, limit = ("smaller than the minimum", "min") if is_small else ("above the maximum", "max")
    return _error(
        kind,
        f"The value {received} is {side}, {config[1][limit]}.",
        name,
        input_name=name,
        input_config=list(config),
        received_value=received,
    )


def value_not_in_list(
    name: str, config: InputConfig, received: Any, choices: Sequence[Any]
) -> Error:
    """A value is none of the input's choices; the nearest ones are named."""
    is_long = len(choices) > MANY_CHOICES
    listed = f"(list of length {len(choices)})" if is_long else str(list(choices))
    return _error(
        "value_not_in_list",
        "The value is none of the input's choices.",
        f"{name}: {received!r} not in {listed}{did_you_mean(received, choices)}",
        input_name=name,
        input_config=None if is_long else list(config),
        received_value=received,
    )


def custom_validation_failed(name: str, verdict: Any) -> Error:
    """The node's own check said no, maybe with a reason."""
    details = name if verdict is False else f"{name} - {verdict}"
    message = "The node refuses the value."
    return _error("custom_validation_failed", message, details, input_name=name)


# -- of a graph ------------------------------------------------------------------------------------


def dependency_cycle(name: str, link: list[Any], cycle: Sequence[str]) -> Error:
    """A node's input depends on the node's own output.

    Args:
        name: The input whose link closes the cycle.
        link: That link.
        cycle: Ids along the links, with the node first and last.
    """
    return _error(
        "dependency_cycle",
        "The node depends on its own output.",
        f"{name}, {' <- '.join(cycle)}",
        input_name=name,
        linked_node=link,
        cycle=list(cycle),
    )


def exception_inside(err: Exception, name: str, config: InputConfig, link: list[Any]) -> Error:
    """Looking at a node failed that another one's input is linked to.

    Args:
        err: What was raised.
        name: The input that led there.
        config: Of that input.
        link: Its link.
    """
    return _error(
        "exception_during_inner_validation",
        "A node that this prompt depends on could not be checked.",
        str(err),
        input_name=name,
        input_config=list(config),
        exception_message=str(err),
        exception_type=full_type_name(type(err)),
        traceback=traceback.format_tb(err.__traceback__),
        linked_node=link,
    )


def exception_outside(err: Exception) -> Error:
    """Looking at an output node failed."""
    return _error(
        "exception_during_validation",
        "The output node could not be checked.",
        str(err),
        exception_type=full_type_name(type(err)),
        traceback=traceback.format_tb(err.__traceback__),
    )


# -- words -----------------------------------------------------------------------------------------


def nearest(word: Any, choices: Iterable[Any]) -> list[str]:
    """The choices that someone who wrote a word may have meant, best first.

    A file in another folder, or in other case, comes before names that only look alike.

    Args:
        word: What was written; only strings have neighbours.
        choices: What there is; choices that are no strings are left out.
    """
    if not isinstance(word, str):
        return []
    names = [choice for choice in choices if isinstance(choice, str) and choice]
    base = _base_name(word)
    same = [name for name in names if _base_name(name) == base]
    if same:
        return same[:_SUGGESTIONS]
    by_stem = {_stem(name): name for name in names}
    stem = _stem(word)[:_LONGEST_WORD]
    pairs = {stem[at : at + 2] for at in range(len(stem) - 1)}
    # Comparing with thousands of names one by one would keep the server from answering others.
    likely = heapq.nlargest(_COMPARED, by_stem, key=lambda one: sum(pair in one for pair in pairs))
    close = difflib.get_close_matches(stem, likely, n=_SUGGESTIONS)
    return [by_stem[stem] for stem in close]


def did_you_mean(word: Any, choices: Iterable[Any]) -> str:
    """The end of a sentence that asks whether a near choice was meant; empty if there is none."""
    near = nearest(word, choices)
    return f"; did you mean {' or '.join(map(repr, near))}?" if near else ""


def _base_name(name: str) -> str:
    return name.replace("\\", "/").rsplit("/", 1)[-1].lower()


def _stem(name: str) -> str:
    """Without the extension: one that is long would make all names alike."""
    return os.path.splitext(name)[0].lower()


def _shown_type(kind: Any) -> Any:
    """A type for a sentence; a list of many choices by its length."""
    if isinstance(kind, list | tuple) and len(kind) > MANY_CHOICES:
        return f"list of length {len(kind)}"
    return kind

"""Says in sentences what is wrong with a prompt, and what went wrong when it ran."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import folder_paths
from app.headless.node_inputs import inputs_given
from app.headless.titles import title_of
from comfy_execution.validation_errors import did_you_mean

Prompt = Mapping[str, Mapping[str, Any]]

_SHOWN_LETTERS = 120
_SHOWN_CHOICES = 8


def describe(prompt: Prompt, number: Any) -> str:
    """Name a node: its id, its title and its class, as far as they are known."""
    node = prompt.get(str(number))
    if node is None:
        return f"Node {number}"
    kind = str(node.get("class_type") or "no class")
    title = title_of(node)
    return (
        f'Node {number} "{title}" ({kind})'
        if title and title != kind
        else f"Node {number} ({kind})"
    )


def short(value: Any) -> str:
    """A value as text of one line."""
    text = repr(value) if isinstance(value, str) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_LETTERS else f"{text[: _SHOWN_LETTERS - 3]}..."


def validation(
    prompt: Prompt,
    error: Mapping[str, Any] | None,
    node_errors: Mapping[str, Mapping[str, Any]],
    classes: Mapping[str, Any],
) -> list[str]:
    """What validation found, one sentence or two for each problem.

    Args:
        prompt: That was validated.
        error: Of the prompt as a whole; None if some outputs can run.
        node_errors: By node id.
        classes: Node classes by name; they tell what a name may have been meant as.
    """
    found = list(_unknown_classes(prompt, classes))
    for number, entry in node_errors.items():
        found += [
            f"{describe(prompt, number)}{_problem(prompt, number, one, classes)}"
            for one in entry.get("errors", ())
        ]
    if not found and error is not None:
        found.append(_of_prompt(error))
    return list(dict.fromkeys(found))


def _of_prompt(error: Mapping[str, Any]) -> str:
    if error.get("type") == "prompt_no_outputs":
        return (
            "The workflow has no node that gives anything out, such as SaveImage or PreviewImage."
        )
    texts = [str(error[key]).strip() for key in ("message", "details") if error.get(key)]
    return ": ".join(texts)


def _unknown_classes(prompt: Prompt, classes: Mapping[str, Any]) -> Iterator[str]:
    for number, node in prompt.items():
        kind = node.get("class_type")
        if not kind:
            yield f"Node {number} has no class_type."
        elif kind not in classes:
            yield (
                f"Node {number} is a '{kind}', and there is no such node"
                f"{did_you_mean(str(kind), classes) or '.'} Its pack may not be installed in "
                "custom_nodes, or may have failed to load."
            )


def _problem(
    prompt: Prompt, number: str, error: Mapping[str, Any], classes: Mapping[str, Any]
) -> str:
    """What follows a node's name in a sentence about one of its errors."""
    extra: Mapping[str, Any] = error.get("extra_info") or {}
    name = extra.get("input_name")
    if error.get("type") in ("exception_during_inner_validation", "exception_during_validation"):
        return _could_not_check(prompt, number, error, extra)
    where = f", input '{name}': " if name else ": "
    say = _SENTENCES.get(str(error.get("type")))
    if say is not None:
        return where + say(extra, error)
    if error.get("type") == "return_type_mismatch":
        return where + _mismatch(prompt, extra)
    if error.get("type") == "value_not_in_list":
        return where + _not_in_list(prompt, number, str(name), extra, classes)
    texts = [str(error[key]) for key in ("message", "details") if error.get(key)]
    return where + " ".join(": ".join(texts).split())


def _option(extra: Mapping[str, Any], name: str) -> Any:
    config: Any = extra.get("input_config") or ()
    options = config[1] if len(config) > 1 and isinstance(config[1], Mapping) else {}
    return options.get(name)


def _kind(extra: Mapping[str, Any]) -> str:
    config: Any = extra.get("input_config") or ("?",)
    return "COMBO" if isinstance(config[0], list | tuple) else str(config[0])


_SENTENCES: dict[str, Callable[[Mapping[str, Any], Mapping[str, Any]], str]] = {
    "required_input_missing": lambda extra, error: "it is missing. Give it a value or a link.",
    "bad_linked_input": lambda extra, error: (
        f'{short(extra.get("received_value"))} is no link. A link is ["node id", number of output].'
    ),
    "invalid_input_type": lambda extra, error: (
        f"{short(extra.get('received_value'))} cannot be read as {_kind(extra)}."
    ),
    "value_smaller_than_min": lambda extra, error: (
        f"{short(extra.get('received_value'))} is below {_option(extra, 'min')}, the least allowed."
    ),
    "value_bigger_than_max": lambda extra, error: (
        f"{short(extra.get('received_value'))} is above {_option(extra, 'max')}, the most allowed."
    ),
    "custom_validation_failed": lambda extra, error: f"the node refuses it: {error.get('details')}",
    "dependency_cycle": lambda extra, error: (
        f"it depends on its own result. {error.get('details') or ''}".strip()
    ),
}


def _mismatch(prompt: Prompt, extra: Mapping[str, Any]) -> str:
    linked = extra.get("linked_node") or ("?", "?")
    return (
        f"it takes {_kind(extra)}, but output {linked[1]} of {describe(prompt, linked[0])} "
        f"is {short(extra.get('received_type')).strip(chr(39))}."
    )


def _not_in_list(
    prompt: Prompt, number: str, name: str, extra: Mapping[str, Any], classes: Mapping[str, Any]
) -> str:
    value = extra.get("received_value")
    choices = _choices(prompt[number], name, classes)
    hint = did_you_mean(str(value), choices)
    folders = _folders_of(choices)
    if folders:
        places = " and ".join(folders)
        return f"there is no file {short(value)} in {places}{hint or '.'}"
    if not choices:
        return f"there is no {short(value)}, and nothing else to choose from."
    said = f"{short(value)} is none of its choices"
    if hint:
        return said + hint
    rest = len(choices) - _SHOWN_CHOICES
    shown = ", ".join(short(choice) for choice in choices[:_SHOWN_CHOICES])
    return f"{said}: {shown}{f' and {rest} more' if rest > 0 else ''}."


def _choices(node: Mapping[str, Any], name: str, classes: Mapping[str, Any]) -> Sequence[Any]:
    declared = inputs_given(classes[str(node["class_type"])], node["inputs"])
    return next((one.choices for one in declared if one.name == name), ())


def _folders_of(choices: Sequence[Any]) -> list[str]:
    """The folders whose files the choices are; empty if they are something else."""
    wanted = list(choices)
    for key in folder_paths.folder_names_and_paths:
        if wanted and folder_paths.get_filename_list(key) == wanted:
            return folder_paths.get_folder_paths(key)
    return []


def _could_not_check(
    prompt: Prompt, number: str, error: Mapping[str, Any], extra: Mapping[str, Any]
) -> str:
    inputs = prompt.get(number, {}).get("inputs") or {}
    for name, value in inputs.items():
        is_link = isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)
        if is_link and value[0] not in prompt:
            return f", input '{name}': it is linked to node {value[0]}, which does not exist."
    kind = str(extra.get("exception_type") or "an error").rpartition(".")[2]
    return f" could not be checked: {kind}: {' '.join(str(error.get('details')).split())}"


def execution(prompt: Prompt, failure: Mapping[str, Any], with_trace: bool) -> list[str]:
    """What a node raised.

    Args:
        prompt: That ran.
        failure: Data of the ``execution_error`` message.
        with_trace: Give every place on the way to the error; else the last only.

    Returns:
        Lines: the error, the node's plain inputs, where it was raised.
    """
    kind = str(failure.get("exception_type") or "Error").rpartition(".")[2]
    message = str(failure.get("exception_message") or "").strip()
    lines = [f"{describe(prompt, failure.get('node_id'))} failed: {kind}: {message}"]
    for name, values in (failure.get("current_inputs") or {}).items():
        shown = values[0] if isinstance(values, list | tuple) and len(values) == 1 else values
        lines.append(f"  {name} = {short(shown)}")
    trace = [str(entry).rstrip() for entry in failure.get("traceback") or ()]
    if with_trace:
        return lines + trace
    if trace:
        lines.append(f"  raised in {trace[-1].strip().splitlines()[0]}")
        lines.append("  --verbose shows the way there.")
    return lines

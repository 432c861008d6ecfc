"""``--set NODE.INPUT=VALUE``: changes inputs of a prompt before it is validated."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.headless.failures import UserError
from app.headless.node_inputs import DYNAMIC_COMBO, Declared, inputs_given
from app.headless.titles import title_of
from comfy_execution.validation_errors import did_you_mean

_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def apply(
    prompt: Mapping[str, dict[str, Any]], settings: Iterable[str], classes: Mapping[str, Any]
) -> None:
    """Change inputs in place.

    Args:
        prompt: Node id to {"class_type", "inputs", "_meta"}.
        settings: Such as "3.seed=5". A node is named by its id, or by its title or class where
            only one node has it.
        classes: Node classes by name; they tell the inputs' types.

    Raises:
        UserError: If a setting is malformed, names no node or input, or has a value of a wrong
            type; the prompt may then be changed in part.
    """
    for setting in settings:
        target, sign, text = setting.partition("=")
        if not sign or "." not in target:
            raise UserError(
                f"--set {setting}: this is not NODE.INPUT=VALUE. An example: --set 3.seed=5"
            )
        try:
            node, name = _find(prompt, target, classes)
            prompt[node]["inputs"][name] = _value(prompt[node], name, text, classes)
        except UserError as err:
            raise UserError(f"--set {setting}: {err}") from err


def _find(
    prompt: Mapping[str, dict[str, Any]], target: str, classes: Mapping[str, Any]
) -> tuple[str, str]:
    """Split "NODE.INPUT"; both may have dots in them."""
    places = [place for place, letter in enumerate(target) if letter == "."]
    named = [(target[:place], target[place + 1 :]) for place in places]
    found = [(node, name) for word, name in named for node in _nodes(prompt, word)]
    if not found:
        raise UserError(_no_node(prompt, target.rpartition(".")[0]))
    fitting = [
        (node, name)
        for node, name in found
        if name in _names(prompt[node], classes) or len(found) == 1
    ]
    nodes = list(dict.fromkeys(node for node, _ in fitting or found))
    if len(nodes) > 1:
        word = target.rpartition(".")[0]
        raise UserError(
            f"'{word}' names {len(nodes)} nodes: {_listed(prompt, nodes)}. Use the id of one."
        )
    node, name = (fitting or found)[0]
    known = _names(prompt[node], classes)
    if known and name not in known:
        raise UserError(
            f"node {_described(prompt, node)} has no input '{name}'"
            f"{did_you_mean(name, known) or '.'}"
        )
    return node, name


def _nodes(prompt: Mapping[str, dict[str, Any]], word: str) -> list[str]:
    """Nodes that a word names: by id, else by title, else by class."""
    if word in prompt:
        return [word]
    folded = word.casefold()
    for read in (title_of, _class):
        found = [number for number, node in prompt.items() if read(node).casefold() == folded]
        if found:
            return found
    return []


def _class(node: Mapping[str, Any]) -> str:
    return str(node.get("class_type") or "")


def _described(prompt: Mapping[str, dict[str, Any]], number: str) -> str:
    node = prompt[number]
    return f"{number} ({title_of(node) or _class(node)})"


def _listed(prompt: Mapping[str, dict[str, Any]], numbers: Iterable[str]) -> str:
    return ", ".join(_described(prompt, number) for number in numbers)


def _no_node(prompt: Mapping[str, dict[str, Any]], word: str) -> str:
    names = [*prompt, *filter(None, map(title_of, prompt.values())), *map(_class, prompt.values())]
    hint = did_you_mean(word, dict.fromkeys(names)) or f"; there are {_listed(prompt, prompt)}."
    return f"the workflow has no node '{word}'{hint}"


def _declared(node: Mapping[str, Any], classes: Mapping[str, Any]) -> Iterator[Declared]:
    if _class(node) in classes:
        yield from inputs_given(classes[_class(node)], node["inputs"])


def _names(node: Mapping[str, Any], classes: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys([*(one.name for one in _declared(node, classes)), *node["inputs"]]))


def _value(node: Mapping[str, Any], name: str, text: str, classes: Mapping[str, Any]) -> Any:
    """Read a value as the input's type wants it."""
    one = next((one for one in _declared(node, classes) if one.name == name), None)
    if one is None:
        return text
    if one.kind == "INT":
        return _number(text, int, "a whole number")
    if one.kind == "FLOAT":
        return _number(text, float, "a number")
    if one.kind == "BOOLEAN":
        return _boolean(text)
    if one.kind == "STRING":
        return text
    if one.choices or one.kind in ("COMBO", DYNAMIC_COMBO):
        return next((choice for choice in one.choices if str(choice) == text), text)
    return _link(one, text)


def _number(text: str, kind: type[int] | type[float], wanted: str) -> int | float:
    try:
        return kind(text)
    except ValueError as err:
        raise UserError(f"'{text}' is not {wanted}.") from err


def _boolean(text: str) -> bool:
    folded = text.casefold()
    if folded not in (*_TRUE, *_FALSE):
        raise UserError(f"'{text}' is neither true nor false.")
    return folded in _TRUE


def _link(one: Declared, text: str) -> Any:
    """A link, written as in the workflow: ["4", 0]."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if isinstance(found, list) and len(found) == 2 and isinstance(found[0], str):
        return found
    raise UserError(
        f"this input takes {one.kind} from another node. Write the link as in the workflow: "
        f'{one.name}=["4", 0]'
    )

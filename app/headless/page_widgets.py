"""What the fields of a node on the page hold, by the names of its inputs.

The page keeps them as a list in the order of the class's inputs, with places of its own between
them: after a seed what becomes of it after a run, after a file name an upload button.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.headless.node_inputs import DYNAMIC_COMBO, Declared, inputs_of, inputs_of_choice

_CONTROLS = ("fixed", "increment", "decrement", "randomize")
_BUTTONS = ("image", "video", "audio", "upload", "file", None)


def values_of(node_class: Any, stored: Any) -> dict[str, Any]:
    """Name the values of a node's fields.

    Args:
        node_class: The node's class.
        stored: ``widgets_values``: a list, a dict by name, or None.

    Returns:
        A value for each input that has a field; defaults where nothing is stored.
    """
    declared = inputs_of(node_class)
    if isinstance(stored, Mapping):
        return _from_names(declared, stored)
    return _from_list(declared, stored if isinstance(stored, Sequence) else ())


def _from_names(declared: Sequence[Declared], stored: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    todo = list(declared)
    while todo:
        one = todo.pop(0)
        if not one.has_widget:
            continue
        value = stored.get(one.name, one.default)
        if value is not None:
            found[one.name] = value
        if one.kind == DYNAMIC_COMBO:
            todo[:0] = inputs_of_choice(one, value)
    return found


def _from_list(declared: Sequence[Declared], stored: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    left = list(stored)
    todo = [one for one in declared if one.has_widget]
    while todo:
        one = todo.pop(0)
        value = left.pop(0) if left else one.default
        if value is not None:
            found[one.name] = value
        if one.kind == DYNAMIC_COMBO:
            todo[:0] = [sub for sub in inputs_of_choice(one, value) if sub.has_widget]
        # Files of other versions lack these places, so their content is looked at.
        if one.has_control and left and left[0] in _CONTROLS:
            left.pop(0)
        if one.has_button and left and left[0] in _BUTTONS:
            left.pop(0)
    return found

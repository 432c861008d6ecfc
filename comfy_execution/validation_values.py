"""Constants of a prompt: unwrapped, turned into the type that is declared, checked against limits."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comfy_execution import validation_errors as errors
from comfy_execution.graph_utils import ListValue
from comfy_execution.validation_errors import Error, InputConfig

WRAPPER = "__value__"
"""Key of a dict around a list that is a value and no link."""

_CONVERSIONS: dict[str, Callable[[Any], Any]] = {
    "INT": int,
    "FLOAT": float,
    "STRING": str,
    "BOOLEAN": bool,
}


def converted(value: Any, config: InputConfig) -> Any:
    """Unwrap a constant, and turn it into the declared type where that is a number, text or truth.

    Raises:
        ValueError: A text is no number.
        TypeError: A value of this kind is never a number.
        OverflowError: Infinity is no whole number.
    """
    value = unwrapped(value)
    kind = config[0]
    conversion = _CONVERSIONS.get(kind) if isinstance(kind, str) else None
    return value if conversion is None else conversion(value)


def unwrapped(value: Any) -> Any:
    """The value inside of ``{"__value__": value}``; any other value as it is."""
    if not isinstance(value, dict) or WRAPPER not in value:
        return value
    inside = value[WRAPPER]
    return ListValue(inside) if isinstance(inside, list) else inside


def faults(name: str, config: InputConfig, value: Any) -> list[Error]:
    """What a converted value breaks: minimum, maximum, list of choices."""
    found: list[Error] = []
    options = config[1]
    if isinstance(value, int | float):
        if options.get("min") is not None and value < options["min"]:
            found.append(errors.out_of_range(name, config, value, is_small=True))
        if options.get("max") is not None and value > options["max"]:
            found.append(errors.out_of_range(name, config, value, is_small=False))
    choices = choices_of(config)
    if choices is not None:
        several = _takes_several(options) and isinstance(value, list)
        strange = [one for one in (value if several else [value]) if one not in choices]
        found += [errors.value_not_in_list(name, config, one, choices) for one in strange]
    return found


def choices_of(config: InputConfig) -> Sequence[Any] | None:
    """The choices of a combo, in the classic or the schema style.

    Returns:
        None for any other input, and for a combo whose choices only the page knows.
    """
    kind, options = config
    if isinstance(kind, list | tuple):
        return kind
    choices = options.get("options")
    if kind != "COMBO" or choices is None or (not choices and options.get("remote")):
        return None
    return list(choices)


def _takes_several(options: Mapping[str, Any]) -> bool:
    return bool(options.get("multiselect") or options.get("multi_select"))

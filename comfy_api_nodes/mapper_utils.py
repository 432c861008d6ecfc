"""Inputs of nodes from fields of pydantic models, which describe what services take."""

from __future__ import annotations

import typing
from collections.abc import Iterable
from enum import Enum
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from comfy.comfy_types.node_typing import IO

_LIMITS = {"ge": "min", "gt": "min", "le": "max", "lt": "max", "multiple_of": "step"}
"""Attribute of a constraint to the option that it becomes."""

_NUMBERS = (IO.INT, IO.FLOAT)


def model_field_to_node_input(
    io_type: IO, base_model: type[BaseModel], field_name: str, **kwargs: Any
) -> tuple[IO, dict[str, Any]]:
    """Declare an input as a model's field has it.

    Args:
        io_type: Type of the input.
        base_model: The model.
        field_name: Name of its field.
        kwargs: Options that are added or replaced; "enum_type" is an enumeration with the choices
            of a combo whose field does not name them.

    Returns:
        Type and options: the field's default, its description as tooltip, limits of a number,
        choices of a combo.

    Raises:
        KeyError: If the model has no such field.
    """
    if field_name not in base_model.model_fields:
        known = ", ".join(base_model.model_fields)
        raise KeyError(f"Model {base_model.__name__} has no field {field_name!r}, but {known}.")
    field = base_model.model_fields[field_name]
    enum_type = kwargs.pop("enum_type", None)
    options: dict[str, Any] = {}
    if field.default is not PydanticUndefined and field.default is not None:
        default = field.default
        options["default"] = default.value if isinstance(default, Enum) else default
    if field.description:
        options["tooltip"] = field.description
    if io_type in _NUMBERS:
        options.update(_limits(field))
    if io_type == IO.COMBO:
        choices = _choices([enum_type] if enum_type else [field.annotation])
        if choices:
            options["options"] = choices
    return io_type, {**options, **kwargs}


def _limits(field: FieldInfo) -> dict[str, Any]:
    return {
        option: getattr(constraint, limit)
        for constraint in field.metadata
        for limit, option in _LIMITS.items()
        if getattr(constraint, limit, None) is not None
    }


def _choices(kinds: Iterable[Any]) -> list[Any]:
    """Values of enumerations and literals in these types, also within unions."""
    found: list[Any] = []
    for kind in kinds:
        if isinstance(kind, type) and issubclass(kind, Enum):
            found += [member.value for member in kind]
        elif typing.get_origin(kind) is Literal:
            found += typing.get_args(kind)
        else:
            found += _choices(typing.get_args(kind))
    return found

"""What a node class declares for the inputs that a prompt gives it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from comfy_execution.schema_nodes import DynamicPaths, InputTypes, SchemaNode

_SECTIONS = ("required", "optional", "hidden")

InputInfo = tuple[Any, str | None, dict[str, Any] | None]
"""Type, section and options of an input; three Nones if it is not declared."""


def is_schema_class(node: Any) -> bool:
    """Whether a class, or an instance's class, has a schema."""
    return issubclass(node if inspect.isclass(node) else type(node), SchemaNode)


def input_types_of(class_def: Any, given: Mapping[str, Any]) -> tuple[InputTypes, DynamicPaths]:
    """Sections of declared inputs, dynamic ones spread out as a prompt's inputs ask for it.

    Args:
        class_def: The node's class.
        given: The prompt node's inputs.
    """
    if is_schema_class(class_def):
        types, paths = class_def.INPUT_TYPES_FOR(given)
        return types, paths
    return class_def.INPUT_TYPES(), {}


def get_input_info(
    class_def: Any, input_name: str, valid_inputs: Mapping[str, Any] | None = None
) -> InputInfo:
    """Look up one input.

    Args:
        class_def: The node's class.
        input_name: Its name in the prompt.
        valid_inputs: Sections as ``INPUT_TYPES`` returns them; asked of the class if None.

    Returns:
        Its type, its section ("required", "optional" or "hidden") and its options; three Nones if
        the class does not declare it.
    """
    types = class_def.INPUT_TYPES() if valid_inputs is None else valid_inputs
    for section in _SECTIONS:
        declared = types.get(section)
        if declared and input_name in declared:
            kind, options = type_and_options(declared[input_name])
            return kind, section, options
    return None, None, None


def type_and_options(declaration: Any) -> tuple[Any, dict[str, Any]]:
    """Read a declaration: hidden inputs are a type alone, others (type,) or (type, options)."""
    if isinstance(declaration, str):
        return declaration, {}
    options = declaration[1] if len(declaration) > 1 else {}
    return declaration[0], options if isinstance(options, dict) else {}


def is_async_node(class_def: Any) -> bool:
    """Whether the function of a node class is async."""
    function = getattr(class_def, getattr(class_def, "FUNCTION", ""), None)
    return inspect.iscoroutinefunction(function)

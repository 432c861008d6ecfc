"""Dynamic inputs in a prompt: what they spread into, and their values put together again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from comfy_api.latest._dynamic import DynamicInput
from comfy_api.latest._inputs import Input
from comfy_api.latest._schema import Schema
from comfy_execution.schema_nodes import DynamicPaths, InputTypes


def expanded_types(schema: Schema, given: Mapping[str, Any]) -> tuple[InputTypes, DynamicPaths]:
    """A schema's inputs as they stand in a prompt.

    Args:
        schema: Of the node.
        given: The prompt node's inputs.

    Returns:
        Sections of inputs by their names in the prompt, and the path of each name that is part of
        a dynamic input.
    """
    sections: InputTypes = {"required": {}, "optional": {}}
    if schema.hidden:
        # The listing shows these as (type,); the executor reads classic nodes' plain types.
        sections["hidden"] = {entry.name: entry.value for entry in schema.hidden}
    paths: DynamicPaths = {}
    _spread(schema.inputs, "", given, sections, paths)
    return sections, paths


def _spread(
    inputs: Iterable[Input],
    prefix: str,
    given: Mapping[str, Any],
    sections: InputTypes,
    paths: DynamicPaths,
    optional: bool = False,
) -> None:
    for each in inputs:
        name = prefix + each.id
        may_lack = optional or each.optional
        if not isinstance(each, DynamicInput):
            sections["optional" if may_lack else "required"][name] = each.as_spec()
            if prefix:
                paths[name] = name
            continue
        parts = each.spread(name, given)
        if parts.own is not None:
            sections["optional" if may_lack else "required"][name] = parts.own
            if name in given:
                paths[name] = f"{name}.{each.id}"
        _spread(parts.inputs, f"{name}.", given, sections, paths, may_lack)


def nested(
    values: Mapping[str, Any], paths: DynamicPaths, with_keys: bool = False
) -> dict[str, Any]:
    """Put values of dynamic inputs into dicts; each dict that a path names exists.

    Args:
        values: By name in the prompt.
        paths: Dotted path by name in the prompt.
        with_keys: Make each value of a dynamic input (value, name in the prompt).
    """
    arguments = {name: value for name, value in values.items() if name not in paths}
    for name, path in paths.items():
        *parents, last = path.split(".")
        holder = arguments
        for parent in parents:
            holder = holder.setdefault(parent, {})
        if name in values:
            holder[last] = (values[name], name) if with_keys else values[name]
    return arguments

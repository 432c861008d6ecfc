"""Nodes as `/object_info` lists them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from comfy_api.latest._inputs import Input, Output, specs_by_section
from comfy_api.latest._schema import Schema


@dataclass
class NodeInfoV1:
    """The listing that a classic node has, in the order of its keys."""

    input: dict[str, Any]
    input_order: dict[str, list[str]]
    output: list[str]
    output_is_list: list[bool]
    output_name: list[str]
    name: str
    display_name: str
    description: str
    python_module: str
    category: str
    output_node: bool
    output_tooltips: list[str | None]
    output_matchtypes: list[str | None] | None
    deprecated: bool
    experimental: bool
    api_node: bool


@dataclass
class NodeInfoV3:
    """The listing by inputs and outputs."""

    input: dict[str, Any]
    output: list[dict[str, Any]]
    hidden: list[str]
    name: str
    display_name: str
    description: str
    python_module: str
    category: str
    output_node: bool
    deprecated: bool
    experimental: bool
    api_node: bool


def input_types(schema: Schema) -> dict[str, dict[str, Any]]:
    """Sections of inputs as ``INPUT_TYPES`` of a classic node gives them."""
    sections: dict[str, dict[str, Any]] = dict(specs_by_section(schema.inputs))
    if schema.hidden:
        sections["hidden"] = {entry.name: (entry.value,) for entry in schema.hidden}
    return sections


def info_v1(schema: Schema, python_module: str) -> dict[str, Any]:
    """The classic listing; newer keys follow where the schema uses them."""
    sections = input_types(schema)
    matches = [_template_id(output) for output in schema.outputs]
    info = NodeInfoV1(
        input=sections,
        input_order={section: list(entries) for section, entries in sections.items()},
        output=[output.get_io_type() for output in schema.outputs],
        output_is_list=[output.is_output_list for output in schema.outputs],
        output_name=[output.display_name or output.get_io_type() for output in schema.outputs],
        output_tooltips=[output.tooltip for output in schema.outputs],
        output_matchtypes=matches if any(matches) else None,
        **_common(schema, python_module),
    )
    return {**vars(info), **_newer(schema)}


def info_v3(schema: Schema, python_module: str) -> dict[str, Any]:
    """The listing by inputs and outputs."""
    return asdict(
        NodeInfoV3(
            input={given.id: _described(given) for given in schema.inputs},
            output=[{"type": out.get_io_type(), **out.as_dict()} for out in schema.outputs],
            hidden=[entry.value for entry in schema.hidden],
            **_common(schema, python_module),
        )
    )


def _common(schema: Schema, python_module: str) -> dict[str, Any]:
    return {
        "name": schema.node_id,
        # The page's own description of this listing wants a string.
        "display_name": schema.display_name or schema.node_id,
        "description": schema.description,
        "python_module": python_module,
        "category": schema.category,
        "output_node": schema.is_output_node,
        "deprecated": schema.is_deprecated,
        "experimental": schema.is_experimental,
        "api_node": schema.is_api_node,
    }


def _newer(schema: Schema) -> dict[str, Any]:
    said = {
        "search_aliases": schema.search_aliases,
        "dev_only": schema.is_dev_only,
        "has_intermediate_output": schema.has_intermediate_output,
        "essentials_category": schema.essentials_category,
    }
    return {key: value for key, value in said.items() if value}


def _described(given: Input) -> dict[str, Any]:
    return {"type": given.get_io_type(), "optional": given.optional, **given.as_dict()}


def _template_id(output: Output) -> str | None:
    template = getattr(output, "template", None)
    return None if template is None else template.template_id

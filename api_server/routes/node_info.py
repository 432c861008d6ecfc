"""Nodes as pages need them to build graphs: /object_info."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

from aiohttp import web

import folder_paths
import nodes
from api_server.utils import json_text
from comfy_execution.inputs import is_schema_class

logger = logging.getLogger(__name__)

_ONLY_IF_TRUE = {
    "deprecated": "DEPRECATED",
    "experimental": "EXPERIMENTAL",
    "is_input_list": "INPUT_IS_LIST",
    "has_intermediate_output": "HAS_INTERMEDIATE_OUTPUT",
    "search_aliases": "SEARCH_ALIASES",
    "dev_only": "DEV_ONLY",
    "essentials_category": "ESSENTIALS_CATEGORY",
}
# What a pack's class may raise without keeping the other nodes from the page.
_FAILURES = (Exception, SystemExit)


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the addresses.

    Args:
        routes: Gets them.
        server: The `PromptServer`.
    """

    @routes.get("/object_info")
    async def get_object_info(request: web.Request) -> web.Response:
        return _listing(list(nodes.NODE_CLASS_MAPPINGS))

    @routes.get("/object_info/{node_class}")
    async def get_object_info_of_one(request: web.Request) -> web.Response:
        name = request.match_info["node_class"]
        return _listing([name] if name in nodes.NODE_CLASS_MAPPINGS else [])


def _listing(names: Iterable[str]) -> web.Response:
    # Each folder is listed once for all nodes.
    with folder_paths.cache_helper:
        told = ", ".join(filter(None, map(_entry, names)))
    return web.Response(text=f"{{{told}}}", content_type="application/json")


def _entry(name: str) -> str | None:
    """Name and description of a node as JSON; None, and a line in the log, if it has none."""
    try:
        return f"{json_text.dumps(name)}: {json_text.dumps(node_info(name))}"
    except _FAILURES:
        logger.exception("The node %r cannot be described, so pages do not see it.", name)
        return None


def node_info(name: str) -> dict[str, Any]:
    """All that a page is told about a node.

    Args:
        name: Of its class in ``NODE_CLASS_MAPPINGS``.

    Raises:
        KeyError: There is no such class.
        Exception: Whatever the class raises when it is asked.
    """
    kind = nodes.NODE_CLASS_MAPPINGS[name]
    if is_schema_class(kind):
        told: dict[str, Any] = kind.GET_NODE_INFO_V1()
        return told
    inputs = kind.INPUT_TYPES()
    outputs = list(kind.RETURN_TYPES)

    def said(attribute: str, default: Any) -> Any:
        # None is what classes of packs have from a base that leaves it open; pages want a value.
        return getattr(kind, attribute, None) or default

    info = {
        "input": inputs,
        "input_order": {section: list(entries) for section, entries in inputs.items()},
        "output": outputs,
        "output_is_list": list(said("OUTPUT_IS_LIST", [False] * len(outputs))),
        "output_name": list(said("RETURN_NAMES", outputs)),
        "name": name,
        "display_name": nodes.NODE_DISPLAY_NAME_MAPPINGS.get(name, name),
        "description": said("DESCRIPTION", ""),
        "python_module": said("RELATIVE_PYTHON_MODULE", "nodes"),
        "category": said("CATEGORY", "sd"),
        "output_node": bool(getattr(kind, "OUTPUT_NODE", False)),
    }
    if getattr(kind, "OUTPUT_TOOLTIPS", None) is not None:
        info["output_tooltips"] = list(kind.OUTPUT_TOOLTIPS)
    for key, attribute in _ONLY_IF_TRUE.items():
        if getattr(kind, attribute, False):
            info[key] = getattr(kind, attribute)
    if hasattr(kind, "API_NODE"):
        info["api_node"] = kind.API_NODE
    return info

"""Small things that all versions of the interface share."""

from __future__ import annotations

from comfy_api.internal.dicts import prune_dict
from comfy_api.internal.properties import classproperty
from comfy_api.internal.versions import (
    ComfyAPIBase,
    ComfyAPIWithVersion,
    get_all_versions,
    register_versions,
)
from comfy_execution.schema_nodes import NodeResult as _NodeOutputInternal
from comfy_execution.schema_nodes import SchemaNode as _ComfyNodeInternal

__all__ = [
    "ComfyAPIBase",
    "ComfyAPIWithVersion",
    "_ComfyNodeInternal",
    "_NodeOutputInternal",
    "classproperty",
    "get_all_versions",
    "prune_dict",
    "register_versions",
]

"""What users call the nodes of a prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def title_of(node: Mapping[str, Any]) -> str:
    """The title that stands in a prompt's node; empty if there is none."""
    meta = node.get("_meta")
    return str(meta.get("title") or "") if isinstance(meta, Mapping) else ""

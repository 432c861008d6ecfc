"""Whatever comes out of a node, shown as text."""

from __future__ import annotations

import json
from typing import Any


def as_text(value: Any) -> str:
    """Texts as they are, plain values and lists and dicts of them as JSON, others as Python says."""
    if isinstance(value, str):
        return value
    if value is None or isinstance(value, (bool, int, float, complex)):
        return str(value)
    try:
        return json.dumps(value, indent=4, ensure_ascii=False)
    except (TypeError, ValueError):
        return str(value)


class PreviewAny:
    """Shows a value at the node."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"source": ("*", {})}}

    RETURN_TYPES = ()
    FUNCTION = "main"
    OUTPUT_NODE = True
    CATEGORY = "utils"

    def main(self, source: Any = None) -> dict[str, Any]:
        """Give the text; see `as_text`."""
        return {"ui": {"text": (as_text(source),)}}


NODE_CLASS_MAPPINGS = {"PreviewAny": PreviewAny}
NODE_DISPLAY_NAME_MAPPINGS = {"PreviewAny": "Preview as Text"}

"""Values typed in on the page, that several nodes can share."""

from __future__ import annotations

import sys
from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension

_MOST = sys.maxsize


def _schema(name: str, display_name: str, value: Any, output: Any) -> io.Schema:
    return io.Schema(
        node_id=name,
        display_name=display_name,
        category="utils/primitive",
        inputs=[value],
        outputs=[output],
    )


class _Value(io.ComfyNode):
    @classmethod
    def execute(cls, value: Any) -> io.NodeOutput:
        """Give it on."""
        return io.NodeOutput(value)


class String(_Value):
    """A text of one line."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _schema("PrimitiveString", "String", io.String.Input("value"), io.String.Output())


class StringMultiline(_Value):
    """A text of several lines."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        value = io.String.Input("value", multiline=True)
        return _schema("PrimitiveStringMultiline", "String (Multiline)", value, io.String.Output())


class Int(_Value):
    """A whole number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        value = io.Int.Input("value", min=-_MOST, max=_MOST, control_after_generate=True)
        return _schema("PrimitiveInt", "Int", value, io.Int.Output())


class Float(_Value):
    """A number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        value = io.Float.Input("value", min=-_MOST, max=_MOST, step=0.1)
        return _schema("PrimitiveFloat", "Float", value, io.Float.Output())


class Boolean(_Value):
    """True or false."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return _schema(
            "PrimitiveBoolean", "Boolean", io.Boolean.Input("value"), io.Boolean.Output()
        )


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(String, StringMultiline, Int, Float, Boolean)

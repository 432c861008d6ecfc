"""Values typed in on the page, that several nodes can share."""

from __future__ import annotations

import sys

from comfy_api.latest import io
from comfy_extras.extension import Extension

_CATEGORY = "utils/primitive"
_MOST = sys.maxsize


class String(io.ComfyNode):
    """A text of one line."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="PrimitiveString",
            display_name="String",
            category=_CATEGORY,
            inputs=[io.String.Input("value")],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        """Give it on."""
        return io.NodeOutput(value)


class StringMultiline(io.ComfyNode):
    """A text of several lines."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="PrimitiveStringMultiline",
            display_name="String (Multiline)",
            category=_CATEGORY,
            inputs=[io.String.Input("value", multiline=True)],
            outputs=[io.String.Output()],
        )

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        """Give it on."""
        return io.NodeOutput(value)


class Int(io.ComfyNode):
    """A whole number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        number = io.Int.Input("value", min=-_MOST, max=_MOST, control_after_generate=True)
        return io.Schema(
            node_id="PrimitiveInt",
            display_name="Int",
            category=_CATEGORY,
            inputs=[number],
            outputs=[io.Int.Output()],
        )

    @classmethod
    def execute(cls, value: int) -> io.NodeOutput:
        """Give it on."""
        return io.NodeOutput(value)


class Float(io.ComfyNode):
    """A number."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="PrimitiveFloat",
            display_name="Float",
            category=_CATEGORY,
            inputs=[io.Float.Input("value", min=-_MOST, max=_MOST, step=0.1)],
            outputs=[io.Float.Output()],
        )

    @classmethod
    def execute(cls, value: float) -> io.NodeOutput:
        """Give it on."""
        return io.NodeOutput(value)


class Boolean(io.ComfyNode):
    """True or false."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="PrimitiveBoolean",
            display_name="Boolean",
            category=_CATEGORY,
            inputs=[io.Boolean.Input("value")],
            outputs=[io.Boolean.Output()],
        )

    @classmethod
    def execute(cls, value: bool) -> io.NodeOutput:
        """Give it on."""
        return io.NodeOutput(value)


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(String, StringMultiline, Int, Float, Boolean)

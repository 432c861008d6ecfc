"""Control nets of several uses."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension

UNION_TYPES = (
    "openpose",
    "depth",
    "hed/pidi/scribble/ted",
    "canny/lineart/anime_lineart/mlsd",
    "normal",
    "segment",
    "tile",
    "repaint",
)
"""What a hint can be, in the order in which union ControlNets number it."""


class SetUnionControlNetType(io.ComfyNode):
    """Tells a union ControlNet what its hint is."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="SetUnionControlNetType",
            category="conditioning/controlnet",
            inputs=[
                io.ControlNet.Input("control_net"),
                io.Combo.Input("type", options=["auto", *UNION_TYPES]),
            ],
            outputs=[io.ControlNet.Output()],
        )

    @classmethod
    def execute(cls, control_net: Any, type: str) -> io.NodeOutput:
        """Give a copy; "auto" tells no type."""
        told = control_net.copy()
        told.set_extra_arg("control_type", [] if type == "auto" else [UNION_TYPES.index(type)])
        return io.NodeOutput(told)

    set_controlnet_type = execute


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(SetUnionControlNetType)

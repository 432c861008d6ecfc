"""Nodes of packs whose work the core does by itself, so that their graphs still run."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension


class WanBlockSwap(io.ComfyNode):
    """Gives a model on: which weights stay on the device is decided when it is loaded."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        return io.Schema(
            node_id="wanBlockSwap",
            category="",
            description="Has no effect: weights that do not fit are streamed anyway.",
            is_deprecated=True,
            inputs=[io.Model.Input("model")],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model: Any) -> io.NodeOutput:
        """The same model."""
        return io.NodeOutput(model)


async def comfy_entrypoint() -> Extension:
    """The nodes of this file."""
    return Extension(WanBlockSwap)

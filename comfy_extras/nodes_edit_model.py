"""Pictures that models for editing refer to."""

from __future__ import annotations

from typing import Any

import node_helpers
from comfy_api.latest import io
from comfy_extras.extension import Extension


class ReferenceLatent(io.ComfyNode):
    """Gives a prompt a latent to refer to; several follow one another."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="ReferenceLatent",
            category="advanced/conditioning/edit_models",
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Latent.Input("latent", optional=True),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Any, latent: dict[str, Any] | None = None) -> Any:
        """Add the latent to those of each part; without one the conditioning stays as it is."""
        if latent is None:
            return io.NodeOutput(conditioning)
        told = {"reference_latents": [latent["samples"]]}
        return io.NodeOutput(node_helpers.conditioning_set_values(conditioning, told, append=True))

    append = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(ReferenceLatent)

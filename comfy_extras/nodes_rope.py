"""Positions that rotary embeddings see, scaled and shifted."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema


class ScaleROPE(io.ComfyNode):
    """Scales and shifts positions, axis by axis."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = []
        for axis in ("x", "y", "t"):
            scale = io.Float.Input(f"scale_{axis}", default=1.0, min=0.0, max=100.0, step=0.1)
            shift = io.Float.Input(f"shift_{axis}", default=0.0, min=-256.0, max=256.0, step=0.1)
            inputs += [scale, shift]
        return patch_schema("ScaleROPE", "advanced/model_patches", inputs, is_experimental=True)

    @classmethod
    def execute(
        cls,
        model: Any,
        scale_x: float,
        shift_x: float,
        scale_y: float,
        shift_y: float,
        scale_t: float,
        shift_t: float,
    ) -> Any:
        """Tell a clone; networks without rotary embeddings of pictures do not look at it."""
        patched = model.clone()
        patched.set_model_rope_options(scale_x, shift_x, scale_y, shift_y, scale_t, shift_t)
        return io.NodeOutput(patched)


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(ScaleROPE)

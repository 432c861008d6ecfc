"""PixArt alpha: prompts with the size that the model is told."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.prompt_tokens import side_input, text_input


class CLIPTextEncodePixArtAlpha(io.ComfyNode):
    """A prompt with a size; PixArt sigma needs none."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CLIPTextEncodePixArtAlpha",
            category="advanced/conditioning",
            inputs=[
                side_input("width", 1024),
                side_input("height", 1024),
                text_input("text"),
                io.Clip.Input("clip"),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, width: int, height: int, text: str) -> Any:
        """Encode."""
        told = {"width": width, "height": height}
        tokens = clip.tokenize(text)
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens, add_dict=told))

    encode = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(CLIPTextEncodePixArtAlpha)

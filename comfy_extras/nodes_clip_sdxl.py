"""Prompts for SDXL and its refiner, with the sizes that these models are told."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.prompt_tokens import pad_to_equal, side_input, text_input, tokens_of

_CATEGORY = "advanced/conditioning"


class CLIPTextEncodeSDXLRefiner(io.ComfyNode):
    """A prompt for the refiner."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CLIPTextEncodeSDXLRefiner",
            category=_CATEGORY,
            inputs=[
                io.Float.Input("ascore", default=6.0, min=0.0, max=1000.0, step=0.01),
                side_input("width", 1024),
                side_input("height", 1024),
                text_input("text"),
                io.Clip.Input("clip"),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, ascore: float, width: int, height: int, text: str) -> Any:
        """Encode; `ascore` is how beautiful the picture shall be."""
        told = {"aesthetic_score": ascore, "width": width, "height": height}
        tokens = clip.tokenize(text)
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens, add_dict=told))

    encode = execute


class CLIPTextEncodeSDXL(io.ComfyNode):
    """A prompt for SDXL, which may differ for both of its encoders."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CLIPTextEncodeSDXL",
            category=_CATEGORY,
            inputs=[
                io.Clip.Input("clip"),
                side_input("width", 1024),
                side_input("height", 1024),
                side_input("crop_w", 0),
                side_input("crop_h", 0),
                side_input("target_width", 1024),
                side_input("target_height", 1024),
                text_input("text_g"),
                text_input("text_l"),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(
        cls,
        clip: Any,
        width: int,
        height: int,
        crop_w: int,
        crop_h: int,
        target_width: int,
        target_height: int,
        text_g: str,
        text_l: str,
    ) -> Any:
        """Encode.

        Args:
            width: Of the picture as it was before it was cropped, in pixels; with `height`.
            crop_w: Pixels that were cut off at the left; with `crop_h` at the top.
            target_width: Of the picture; with `target_height`.
            text_g: For the larger encoder.
            text_l: For the smaller one.
        """
        tokens = tokens_of(clip, {"g": text_g, "l": text_l}, "CLIPTextEncodeSDXL")
        pad_to_equal(clip, tokens, ("g", "l"))
        told = {
            "width": width,
            "height": height,
            "crop_w": crop_w,
            "crop_h": crop_h,
            "target_width": target_width,
            "target_height": target_height,
        }
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens, add_dict=told))

    encode = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(CLIPTextEncodeSDXLRefiner, CLIPTextEncodeSDXL)

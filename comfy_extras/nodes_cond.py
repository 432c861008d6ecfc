"""Prompts for control nets, and how T5 tokenizers fill up short ones."""

from __future__ import annotations

from typing import Any

import node_helpers
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.prompt_tokens import text_input

_CATEGORY = "_for_testing/conditioning"
_T5_TOKENIZERS = ("t5xxl", "pile_t5xl", "t5base", "mt5xl", "umt5xxl")


class CLIPTextEncodeControlnet(io.ComfyNode):
    """Gives the control nets of a conditioning a prompt of their own."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CLIPTextEncodeControlnet",
            category=_CATEGORY,
            inputs=[
                io.Clip.Input("clip"),
                io.Conditioning.Input("conditioning"),
                text_input("text"),
            ],
            outputs=[io.Conditioning.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, clip: Any, conditioning: Any, text: str) -> Any:
        """Encode the text, and set it in each part."""
        cond, pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled=True)
        told = {"cross_attn_controlnet": cond, "pooled_output_controlnet": pooled}
        return io.NodeOutput(node_helpers.conditioning_set_values(conditioning, told))

    encode = execute


class T5TokenizerOptions(io.ComfyNode):
    """Sets how T5 tokenizers fill up short prompts."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="T5TokenizerOptions",
            category=_CATEGORY,
            inputs=[
                io.Clip.Input("clip"),
                io.Int.Input("min_padding", default=0, min=0, max=10000, step=1),
                io.Int.Input("min_length", default=0, min=0, max=10000, step=1),
            ],
            outputs=[io.Clip.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, clip: Any, min_padding: int, min_length: int) -> Any:
        """Set, on a clone, how many tokens are added at least, and how many there are at least."""
        changed = clip.clone()
        for name in _T5_TOKENIZERS:
            changed.set_tokenizer_option(f"{name}_min_padding", min_padding)
            changed.set_tokenizer_option(f"{name}_min_length", min_length)
        return io.NodeOutput(changed)

    set_options = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(CLIPTextEncodeControlnet, T5TokenizerOptions)

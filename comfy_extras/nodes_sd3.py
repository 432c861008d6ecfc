"""Stable Diffusion 3: prompts, empty latents, control nets."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras import empty_latents
from comfy_extras.classic.controlnets import ControlNetApplyAdvanced
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import percent_input
from comfy_extras.guidance.skip_layers import SkipLayerGuidanceSD3
from comfy_extras.prompt_tokens import pad_to_equal, text_input, tokens_of

_LATENT_PIXELS = 8
_LATENT_CHANNELS = 16


class EmptySD3LatentImage(io.ComfyNode):
    """A latent without a picture, for models with 16 channels."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return empty_latents.schema("EmptySD3LatentImage", "latent/sd3")

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> Any:
        """Zeros [batch_size, 16, height / 8, width / 8]."""
        latent = empty_latents.empty(width, height, batch_size, _LATENT_CHANNELS, _LATENT_PIXELS)
        return io.NodeOutput(latent)

    generate = execute


class CLIPTextEncodeSD3(io.ComfyNode):
    """A prompt for SD3, which may differ for its three encoders."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CLIPTextEncodeSD3",
            category="advanced/conditioning",
            inputs=[
                io.Clip.Input("clip"),
                text_input("clip_l"),
                text_input("clip_g"),
                text_input("t5xxl"),
                io.Combo.Input("empty_padding", options=["none", "empty_prompt"]),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, clip_l: str, clip_g: str, t5xxl: str, empty_padding: str) -> Any:
        """Encode; with `empty_padding` "none" an encoder without a text gives nothing at all."""
        texts = {"l": clip_l, "g": clip_g, "t5xxl": t5xxl}
        tokens = tokens_of(clip, texts, "CLIPTextEncodeSD3")
        if empty_padding == "none":
            tokens.update({name: [] for name, text in texts.items() if not text})
        pad_to_equal(clip, tokens, ("l", "g"))
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens))

    encode = execute


class ControlNetApplySD3(io.ComfyNode):
    """Adds a control net to both prompts; its picture is encoded by a VAE."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="ControlNetApplySD3",
            display_name="Apply Controlnet with VAE",
            category="conditioning/controlnet",
            inputs=[
                io.Conditioning.Input("positive"),
                io.Conditioning.Input("negative"),
                io.ControlNet.Input("control_net"),
                io.Vae.Input("vae"),
                io.Image.Input("image"),
                io.Float.Input("strength", default=1.0, min=0.0, max=10.0, step=0.01),
                percent_input("start_percent", 0.0),
                percent_input("end_percent", 1.0),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive"),
                io.Conditioning.Output(display_name="negative"),
            ],
            is_deprecated=True,
        )

    @classmethod
    def execute(
        cls,
        positive: Any,
        negative: Any,
        control_net: Any,
        image: torch.Tensor,
        strength: float,
        start_percent: float,
        end_percent: float,
        vae: Any = None,
    ) -> Any:
        """See `comfy_extras.classic.controlnets.ControlNetApplyAdvanced`."""
        both = ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, control_net, image, strength, start_percent, end_percent, vae=vae
        )
        return io.NodeOutput(*both)

    apply_controlnet = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(
        EmptySD3LatentImage, CLIPTextEncodeSD3, ControlNetApplySD3, SkipLayerGuidanceSD3
    )

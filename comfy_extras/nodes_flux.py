"""Flux: prompts, guidance as a number, sizes of pictures and latents, noise levels."""

from __future__ import annotations

from typing import Any

import torch

import node_helpers
from comfy.model_sampling import flux_time_shift
from comfy_api.latest import io
from comfy_extras import empty_latents
from comfy_extras.extension import Extension
from comfy_extras.pictures.geometry import scaled
from comfy_extras.prompt_tokens import text_input, tokens_of
from comfy_extras.sampling.schedule_nodes import schema, steps_input
from node_helpers import MAX_RESOLUTION

_CATEGORY = "advanced/conditioning/flux"

KONTEXT_SIZES = [
    *((672, 1568), (688, 1504), (720, 1456), (752, 1392), (800, 1328), (832, 1248), (880, 1184)),
    *((944, 1104), (1024, 1024), (1104, 944), (1184, 880), (1248, 832), (1328, 800), (1392, 752)),
    *((1456, 720), (1504, 688), (1568, 672)),
]
"""Width and height that FLUX.1 Kontext was trained with, as Black Forest Labs published them."""

_LATENT_PIXELS = 16
_LATENT_CHANNELS = 128


def _guidance() -> Any:
    return io.Float.Input("guidance", default=3.5, min=0.0, max=100.0, step=0.1)


class CLIPTextEncodeFlux(io.ComfyNode):
    """A prompt for Flux, which may differ for both of its encoders."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="CLIPTextEncodeFlux",
            category=_CATEGORY,
            inputs=[
                io.Clip.Input("clip"),
                text_input("clip_l"),
                text_input("t5xxl"),
                _guidance(),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, clip: Any, clip_l: str, t5xxl: str, guidance: float) -> Any:
        """Encode."""
        tokens = tokens_of(clip, {"l": clip_l, "t5xxl": t5xxl}, "CLIPTextEncodeFlux")
        told = {"guidance": guidance}
        return io.NodeOutput(clip.encode_from_tokens_scheduled(tokens, add_dict=told))

    encode = execute


class FluxGuidance(io.ComfyNode):
    """Sets the guidance that a distilled model is told."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="FluxGuidance",
            category=_CATEGORY,
            inputs=[io.Conditioning.Input("conditioning"), _guidance()],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Any, guidance: float) -> Any:
        """Set it in each part."""
        told = {"guidance": guidance}
        return io.NodeOutput(node_helpers.conditioning_set_values(conditioning, told))

    append = execute


class FluxDisableGuidance(io.ComfyNode):
    """Tells a distilled model of no guidance at all."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="FluxDisableGuidance",
            category=_CATEGORY,
            inputs=[io.Conditioning.Input("conditioning")],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, conditioning: Any) -> Any:
        """Set None in each part."""
        told = {"guidance": None}
        return io.NodeOutput(node_helpers.conditioning_set_values(conditioning, told))

    append = execute


class FluxKontextImageScale(io.ComfyNode):
    """Resizes a picture to a size that Kontext was trained with."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return io.Schema(
            node_id="FluxKontextImageScale",
            category=_CATEGORY,
            inputs=[io.Image.Input("image")],
            outputs=[io.Image.Output()],
        )

    @classmethod
    def execute(cls, image: torch.Tensor) -> Any:
        """Resize [B, H, W, C] to the size of `KONTEXT_SIZES` nearest in aspect, centre kept."""
        aspect = image.shape[2] / image.shape[1]
        width, height = min(KONTEXT_SIZES, key=lambda size: abs(size[0] / size[1] - aspect))
        return io.NodeOutput(scaled(image, width, height, "lanczos", "center"))

    scale = execute


class FluxKontextMultiReferenceLatentMethod(io.ComfyNode):
    """Says how a model tells several reference latents apart."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        methods = ["offset", "index", "uxo/uno", "index_timestep_zero"]
        return io.Schema(
            node_id="FluxKontextMultiReferenceLatentMethod",
            display_name="Edit Model Reference Method",
            category=_CATEGORY,
            inputs=[
                io.Conditioning.Input("conditioning"),
                io.Combo.Input("reference_latents_method", options=methods),
            ],
            outputs=[io.Conditioning.Output()],
            is_experimental=True,
        )

    @classmethod
    def execute(cls, conditioning: Any, reference_latents_method: str) -> Any:
        """Set it in each part; a method of two names goes by the first."""
        told = {"reference_latents_method": reference_latents_method.partition("/")[0]}
        return io.NodeOutput(node_helpers.conditioning_set_values(conditioning, told))

    append = execute


class EmptyFlux2LatentImage(io.ComfyNode):
    """A latent without a picture for Flux 2."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return empty_latents.schema("EmptyFlux2LatentImage", "latent", "Empty Flux 2 Latent")

    @classmethod
    def execute(cls, width: int, height: int, batch_size: int = 1) -> Any:
        """Zeros [batch_size, 128, height / 16, width / 16]."""
        latent = empty_latents.empty(width, height, batch_size, _LATENT_CHANNELS, _LATENT_PIXELS)
        return io.NodeOutput(latent)

    generate = execute


def flux2_shift(tokens: int, steps: int) -> float:
    """The shift mu of Flux 2's noise levels for a picture of so many tokens.

    Two lines in the number of tokens, fitted by Black Forest Labs for runs of 10 and of 200 steps,
    are joined linearly in the steps; large pictures take the second one. Constants as published.
    """
    at_200 = 0.00016927 * tokens + 0.45666666
    if tokens > 4300:
        return at_200
    at_10 = 8.73809524e-05 * tokens + 1.89833333
    return at_200 + (at_10 - at_200) * (200 - steps) / 190


class Flux2Scheduler(io.ComfyNode):
    """The noise levels of Flux 2 for a size of picture."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        sides = [
            io.Int.Input(name, default=1024, min=16, max=MAX_RESOLUTION, step=1)
            for name in ("width", "height")
        ]
        return schema("Flux2Scheduler", [steps_input(most=4096), *sides])

    @classmethod
    def execute(cls, steps: int, width: int, height: int) -> Any:
        """Even times, shifted: [steps + 1] from 1 to 0."""
        tokens = round(width * height / _LATENT_PIXELS**2)
        times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        shifted = flux_time_shift(flux2_shift(tokens, steps), 1.0, times)
        return io.NodeOutput(shifted.float())

    get_sigmas = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(
        CLIPTextEncodeFlux,
        FluxGuidance,
        FluxDisableGuidance,
        FluxKontextImageScale,
        FluxKontextMultiReferenceLatentMethod,
        EmptyFlux2LatentImage,
        Flux2Scheduler,
    )

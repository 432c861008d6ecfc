"""FreeU: a UNet's skips and what comes up from below, weighed anew."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema
from comfy_extras.guidance.spectrum import scale_frequencies

_CATEGORY = "model_patches/unet"

Backbone = Callable[[torch.Tensor, float], torch.Tensor]


def evenly(h: torch.Tensor, b: float) -> torch.Tensor:
    """Scale the first half of the channels [B, C, H, W] by b."""
    first, second = h.chunk(2, dim=1)
    return torch.cat([first * b, second], dim=1)


def by_structure(h: torch.Tensor, b: float) -> torch.Tensor:
    """Scale the first half of the channels by up to b, where the mean of all channels is high.

    Source: Si et al. 2023, "FreeU", equations 3 and 4.
    """
    mean = h.mean(1, keepdim=True)
    lowest, highest = mean.amin((2, 3), keepdim=True), mean.amax((2, 3), keepdim=True)
    # A flat mean says nothing of structure.
    height = (mean - lowest) / (highest - lowest).clamp(min=torch.finfo(h.dtype).tiny)
    first, second = h.chunk(2, dim=1)
    return torch.cat([first * (1.0 + (b - 1.0) * height), second], dim=1)


def with_freeu(
    model: Any, scale_backbone: Backbone, b1: float, b2: float, s1: float, s2: float
) -> Any:
    """A clone whose blocks of four and two times the model's channels are patched.

    Args:
        model: A patcher of a UNet.
        scale_backbone: For the features from below.
        b1: Their factor in blocks of four times the channels; `b2` in those of two times.
        s1: Factor of the low frequencies of skips there; `s2` likewise.
    """
    channels = model.model.model_config.unet_config["model_channels"]
    factors = {channels * 4: (b1, s1), channels * 2: (b2, s2)}

    def patch(
        h: torch.Tensor, hsp: torch.Tensor, transformer_options: dict[str, Any]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found = factors.get(h.shape[1])
        if found is None:
            return h, hsp
        b, s = found
        return scale_backbone(h, b), scale_frequencies(hsp, 1, s)

    patched = model.clone()
    patched.set_model_output_block_patch(patch)
    return patched


def _inputs(b1: float, b2: float) -> list[Any]:
    defaults = {"b1": b1, "b2": b2, "s1": 0.9, "s2": 0.2}
    return [
        io.Float.Input(name, default=default, min=0.0, max=10.0, step=0.01)
        for name, default in defaults.items()
    ]


class FreeU(io.ComfyNode):
    """FreeU in its first form."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return patch_schema("FreeU", _CATEGORY, _inputs(1.1, 1.2))

    @classmethod
    def execute(cls, model: Any, b1: float, b2: float, s1: float, s2: float) -> Any:
        """See `with_freeu` and `evenly`."""
        return io.NodeOutput(with_freeu(model, evenly, b1, b2, s1, s2))

    patch = execute


class FreeU_V2(io.ComfyNode):
    """FreeU in its second form."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        return patch_schema("FreeU_V2", _CATEGORY, _inputs(1.3, 1.4))

    @classmethod
    def execute(cls, model: Any, b1: float, b2: float, s1: float, s2: float) -> Any:
        """See `with_freeu` and `by_structure`."""
        return io.NodeOutput(with_freeu(model, by_structure, b1, b2, s1, s2))

    patch = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(FreeU, FreeU_V2)

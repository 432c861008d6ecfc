"""Guidance without what oversaturates."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema, projected


class ProjectedGuidance:
    """Adaptive projected guidance; remembers the differences of earlier steps of a run.

    Source: Sadat et al. 2024, "Eliminating Oversaturation and Artifacts of High Guidance Scales in
    Diffusion Models", algorithm 1.

    Attributes:
        eta: Weight of what is parallel to the positive prediction; 1 keeps it.
        norm_threshold: The longest difference of a row; 0 for no limit.
        momentum: Weight of the earlier differences.
    """

    def __init__(self, eta: float, norm_threshold: float, momentum: float) -> None:
        self.eta, self.norm_threshold, self.momentum = eta, norm_threshold, momentum
        self._sigma = 0.0
        self._mean: torch.Tensor | None = None

    def _difference(self, difference: torch.Tensor, sigma: float) -> torch.Tensor:
        """With momentum, unless a new run began: its level is above the last one's."""
        if self._mean is None or sigma > self._sigma or self._mean.shape != difference.shape:
            self._mean = difference
        else:
            self._mean = difference + self._mean.to(difference) * self.momentum
        self._sigma = sigma
        return self._mean

    def __call__(self, args: dict[str, Any]) -> list[torch.Tensor]:
        """Change the positive prediction so that the usual guidance gives the projected one."""
        positive, negative, *others = args["conds_out"]
        scale = args["cond_scale"]
        if scale == 0:
            return [positive, negative, *others]
        sigma = args["sigma"].flatten()[0].item()
        difference = self._difference(positive - negative, sigma)
        if self.norm_threshold > 0:
            axes = tuple(range(1, difference.ndim))
            length = torch.linalg.vector_norm(difference, dim=axes, keepdim=True)
            difference = difference * (self.norm_threshold / length.clamp(min=1e-12)).clamp(max=1.0)
        parallel = projected(difference, positive)
        kept = difference - parallel * (1.0 - self.eta)
        wanted = positive + kept * (scale - 1.0)
        return [negative + (wanted - negative) / scale, negative, *others]


class APG(io.ComfyNode):
    """Adaptive projected guidance."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Float.Input("eta", default=1.0, min=-10.0, max=10.0, step=0.01),
            io.Float.Input("norm_threshold", default=5.0, min=0.0, max=50.0, step=0.1),
            io.Float.Input("momentum", default=0.0, min=-5.0, max=1.0, step=0.01),
        ]
        return patch_schema(
            "APG", "sampling/custom_sampling", inputs, "Adaptive Projected Guidance"
        )

    @classmethod
    def execute(cls, model: Any, eta: float, norm_threshold: float, momentum: float) -> Any:
        """Patch a clone; see `ProjectedGuidance`."""
        patched = model.clone()
        guidance = ProjectedGuidance(eta, norm_threshold, momentum)
        patched.set_model_sampler_pre_cfg_function(guidance)
        return io.NodeOutput(patched)


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(APG)

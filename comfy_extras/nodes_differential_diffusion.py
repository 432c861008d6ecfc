"""Inpainting by a grey mask that says from which moment on a place may change."""

from __future__ import annotations

from typing import Any

import torch

from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.guidance.patching import patch_schema


def remaining_time(sampling: Any, sigma: torch.Tensor, sigmas: torch.Tensor) -> torch.Tensor:
    """How much of a run's time is left: 1 at its first level, 0 at its end.

    Args:
        sampling: The model's sampling object.
        sigma: The current level.
        sigmas: [steps + 1], the run's levels.
    """
    last = torch.maximum(sampling.sigma_min.to(sigmas), sigmas[-1])
    start, end, now = (
        sampling.timestep(level).to(torch.float32) for level in (sigmas[0], last, sigma)
    )
    return (now - end) / (start - end)


class DifferentialDiffusion(io.ComfyNode):
    """Lets the brightness of the noise mask say how early a place begins to change."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        strength = io.Float.Input(
            "strength", default=1.0, min=0.0, max=1.0, step=0.01, optional=True
        )
        return patch_schema(
            *("DifferentialDiffusion", "_for_testing", [strength], "Differential Diffusion"),
            is_experimental=True,
        )

    @classmethod
    def execute(cls, model: Any, strength: float = 1.0) -> Any:
        """Set the mask's function on a clone: 1 where the mask is at least the time left, else 0.

        Source: Levin and Fried 2023, "Differential Diffusion", algorithm 1.

        Args:
            strength: 0 to 1; below 1 that is mixed with the mask itself.
        """

        def threshold(
            sigma: torch.Tensor, denoise_mask: torch.Tensor, extra_options: dict[str, Any]
        ) -> torch.Tensor:
            sampling = extra_options["model"].inner_model.model_sampling
            left = remaining_time(sampling, sigma[0], extra_options["sigmas"])
            # The last level may be the model's lowest, where no time is left: black stays black.
            is_open = (denoise_mask >= left) & (denoise_mask > 0)
            changes = is_open.to(denoise_mask.dtype)
            return torch.lerp(denoise_mask, changes, strength)

        patched = model.clone()
        patched.set_model_denoise_mask_function(threshold)
        return io.NodeOutput(patched)

    apply = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(DifferentialDiffusion)

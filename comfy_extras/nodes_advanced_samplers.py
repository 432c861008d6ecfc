"""A sampler of consistency models that enlarges the latent on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import comfy.samplers
import comfy.utils
from comfy.k_diffusion.run import Noise, Run
from comfy.k_diffusion.sampling import default_noise_sampler
from comfy_api.latest import io
from comfy_extras.extension import Extension
from comfy_extras.sampling.sampler_nodes import schema

_METHODS = ["bislerp", "nearest-exact", "bilinear", "area", "bicubic"]


@torch.no_grad()
def sample_lcm_upscale(
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    sigmas: torch.Tensor,
    extra_args: dict[str, Any] | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
    disable: bool | None = None,
    scale_ratio: float = 1.0,
    scale_steps: int = -1,
    upscale_method: str = "bislerp",
    noise_sampler: Callable[[torch.Tensor], Noise] | None = None,
) -> torch.Tensor:
    """As `sample_lcm`, but each D of the first steps is enlarged before noise is added.

    Args:
        x: [B, C, H, W].
        scale_ratio: Of both sides, in the end; it grows evenly.
        scale_steps: In how many steps; -1 for the first half of them.
        upscale_method: See `comfy.utils.common_upscale`.
        noise_sampler: Makes a noise sampler for states of one size.
    """
    run = Run(model, x, sigmas, extra_args, callback, disable)
    steps = len(run.levels) - 1
    growing = max(steps // 2, 1) if scale_steps < 0 else min(scale_steps, steps)
    rows, columns = x.shape[-2:]
    for i, sigma, sigma_next in run:
        x = run.evaluate(x, i)
        if i < growing:
            scale = 1.0 + (scale_ratio - 1.0) * (i + 1) / growing
            sides = max(round(columns * scale), 1), max(round(rows * scale), 1)
            x = comfy.utils.common_upscale(x, *sides, upscale_method, "disabled")
        if sigma_next > 0:
            # Sizes differ, so each step has a sampler, and a seed, of its own.
            seed = None if run.seed is None else run.seed + i
            made = default_noise_sampler(x, seed) if noise_sampler is None else noise_sampler(x)
            noise = run.by_level(made)
            x = x * run.path.alpha(sigma_next) + noise(sigma, sigma_next) * sigma_next
    return x


class SamplerLCMUpscale(io.ComfyNode):
    """Consistency steps that enlarge the latent."""

    @classmethod
    def define_schema(cls) -> Any:
        """See nodes."""
        inputs = [
            io.Float.Input("scale_ratio", default=1.0, min=0.1, max=20.0, step=0.01),
            io.Int.Input("scale_steps", default=-1, min=-1, max=1000, step=1),
            io.Combo.Input("upscale_method", options=_METHODS),
        ]
        return schema("SamplerLCMUpscale", inputs)

    @classmethod
    def execute(cls, scale_ratio: float, scale_steps: int, upscale_method: str) -> Any:
        """See `sample_lcm_upscale`."""
        options = {
            "scale_ratio": scale_ratio,
            "scale_steps": scale_steps,
            "upscale_method": upscale_method,
        }
        return io.NodeOutput(comfy.samplers.KSAMPLER(sample_lcm_upscale, extra_options=options))

    get_sampler = execute


async def comfy_entrypoint() -> Extension:
    """See nodes."""
    return Extension(SamplerLCMUpscale)

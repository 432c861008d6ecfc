"""Classifier-free guidance, and what packs do instead of it or afterwards."""

from __future__ import annotations

from typing import Any

import torch


def guide(
    model: Any,
    cond_pred: torch.Tensor,
    uncond_pred: torch.Tensor,
    cond_scale: float,
    x: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any],
    cond: Any = None,
    uncond: Any = None,
) -> torch.Tensor:
    """Guide: D = D_neg + s (D_pos - D_neg), unless `sampler_cfg_function` does it.

    What `sampler_cfg_function` gets and returns is noise, x - D; each of
    `sampler_post_cfg_function` gets and returns D.

    Args:
        model: A `BaseModel`.
        cond_pred: [B, C, ...], D under the positive prompt.
        uncond_pred: The same under the negative prompt.
        cond_scale: s.
        x: [B, C, ...], the noisy latent.
        timestep: [B], sigmas.
        model_options: Where the functions are.
        cond: Positive conditions.
        uncond: Negative conditions, or None.

    Source: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6, for D.
    """
    about = {
        "cond_scale": cond_scale,
        "input": x,
        "sigma": timestep,
        "cond_denoised": cond_pred,
        "uncond_denoised": uncond_pred,
        "model": model,
        "model_options": model_options,
    }
    if "sampler_cfg_function" in model_options:
        noise = {"cond": x - cond_pred, "uncond": x - uncond_pred, "timestep": timestep}
        prompts = {"input_cond": cond, "input_uncond": uncond}
        result = x - model_options["sampler_cfg_function"]({**about, **noise, **prompts})
    else:
        result = uncond_pred + (cond_pred - uncond_pred) * cond_scale
    for function in model_options.get("sampler_post_cfg_function", ()):
        result = function({**about, "denoised": result, "cond": cond, "uncond": uncond})
    return result

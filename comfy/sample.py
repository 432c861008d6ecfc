"""Noise, and sampling as nodes call it.

Packs replace `sample` and `prepare_noise` here: call them through this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import comfy.model_management
import comfy.samplers
import comfy.utils

Conditioning = list[Any]


def prepare_noise(
    latent_image: torch.Tensor, seed: int, noise_inds: Sequence[int] | None = None
) -> torch.Tensor:
    """Unit normal noise for a latent, the same on every machine.

    Args:
        latent_image: [B, C, ...]; the noise has its shape and dtype, and is on the CPU.
        seed: 0 to 2^64 - 1. Seeds torch's global generator.
        noise_inds: Which picture of a larger batch each row is; equal ones get equal noise.
    """
    generator = torch.manual_seed(seed)
    like: dict[str, Any] = {"dtype": latent_image.dtype, "device": "cpu"}
    if noise_inds is None:
        return torch.randn(latent_image.shape, generator=generator, **like)
    row = (1, *latent_image.shape[1:])
    kept = {}
    for index in range(max(noise_inds) + 1):
        drawn = torch.randn(row, generator=generator, **like)
        if index in noise_inds:
            kept[index] = drawn
    return torch.cat([kept[index] for index in noise_inds])


def fix_empty_latent_channels(model: Any, latent_image: torch.Tensor) -> torch.Tensor:
    """Give an empty latent the channels, and the time axis, that a model wants."""
    latent_format = model.get_model_object("latent_format")
    channels = latent_format.latent_channels
    if latent_image.shape[1] != channels and torch.count_nonzero(latent_image) == 0:
        latent_image = comfy.utils.repeat_to_batch_size(latent_image, channels, dim=1)
    if latent_format.latent_dimensions == 3 and latent_image.ndim == 4:
        latent_image = latent_image.unsqueeze(2)
    return latent_image


def prepare_sampling(
    model: Any, noise_shape: Any, positive: Any, negative: Any, noise_mask: Any
) -> tuple[Any, Any, Any, Any, list[Any]]:
    """Deprecated: sampling loads what it needs by itself; returns what it got."""
    return model, positive, negative, noise_mask, []


def cleanup_additional_models(models: Any) -> None:
    """Deprecated: does nothing."""


def sample(
    model: Any,
    noise: torch.Tensor,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: torch.Tensor,
    denoise: float = 1.0,
    disable_noise: bool = False,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
    noise_mask: torch.Tensor | None = None,
    sigmas: torch.Tensor | None = None,
    callback: Any = None,
    disable_pbar: bool = False,
    seed: int | None = None,
) -> torch.Tensor:
    """Sample with a sampler and a scheduler by name; see `comfy.samplers.KSampler`.

    Returns:
        A latent, fp32, on the intermediate device.
    """
    sampler = comfy.samplers.KSampler(
        model,
        steps=steps,
        device=model.load_device,
        sampler=sampler_name,
        scheduler=scheduler,
        denoise=denoise,
        model_options=model.model_options,
    )
    samples = sampler.sample(
        noise,
        positive,
        negative,
        cfg=cfg,
        latent_image=latent_image,
        start_step=start_step,
        last_step=last_step,
        force_full_denoise=force_full_denoise,
        denoise_mask=noise_mask,
        sigmas=sigmas,
        callback=callback,
        disable_pbar=disable_pbar,
        seed=seed,
    )
    return samples.to(comfy.model_management.intermediate_device())


def sample_custom(
    model: Any,
    noise: torch.Tensor,
    cfg: float,
    sampler: Any,
    sigmas: torch.Tensor,
    positive: Conditioning,
    negative: Conditioning,
    latent_image: torch.Tensor,
    noise_mask: torch.Tensor | None = None,
    callback: Any = None,
    disable_pbar: bool = False,
    seed: int | None = None,
) -> torch.Tensor:
    """Sample with a SAMPLER and SIGMAS.

    Returns:
        A latent, fp32, on the intermediate device.
    """
    samples = comfy.samplers.sample(
        model,
        noise,
        positive,
        negative,
        cfg,
        model.load_device,
        sampler,
        sigmas,
        model_options=model.model_options,
        latent_image=latent_image,
        denoise_mask=noise_mask,
        callback=callback,
        disable_pbar=disable_pbar,
        seed=seed,
    )
    return samples.to(comfy.model_management.intermediate_device())

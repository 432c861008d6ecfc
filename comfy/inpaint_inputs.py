"""What an inpainting network is given beside the noisy latent: a mask, and the picture behind it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

import comfy.utils

# What the VAE of SD 1.5 gives for a grey picture, scaled as the network sees latents.
GREY_LATENT = (0.8223, -0.6876, 0.6364, 0.1380)

Process = Callable[[torch.Tensor], torch.Tensor]


def grey_like(latent: torch.Tensor) -> torch.Tensor:
    """The latent of a grey picture, of the shape [B, C, H, W] of another."""
    grey = torch.zeros_like(latent)
    for channel, value in enumerate(GREY_LATENT[: latent.shape[1]]):
        grey[:, channel] = value
    return grey


def _mask(kwargs: Mapping[str, Any], noise: torch.Tensor) -> torch.Tensor | None:
    """The mask of where to paint (1) at the latent's size, [B, 1, H, W], of zeros and ones."""
    mask = kwargs.get("concat_mask")
    if mask is None:
        mask = kwargs.get("denoise_mask")
    if mask is None:
        return None
    height, width = noise.shape[-2:]
    if mask.ndim == 4:
        mask = mask.mean(dim=1, keepdim=True)
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).to(noise)
    # A border of several pixels per latent position: the networks were trained on whole ones.
    mask = comfy.utils.common_upscale(mask, width, height, "bilinear", "none").round()
    return comfy.utils.resize_to_batch_size(mask, noise.shape[0])


def _picture(
    kwargs: Mapping[str, Any], noise: torch.Tensor, mask: torch.Tensor | None, process: Process
) -> torch.Tensor:
    """The latent [B, C, H, W] of the picture, grey where it is to be painted."""
    height, width = noise.shape[-2:]
    given = kwargs.get("concat_latent_image")
    picture = kwargs.get("latent_image") if given is None else process(given)
    if picture is None or (given is None and mask is None):
        return grey_like(noise)
    picture = picture.to(noise)
    if picture.shape[-2:] != noise.shape[-2:]:
        picture = comfy.utils.common_upscale(picture, width, height, "bilinear", "center")
    picture = comfy.utils.resize_to_batch_size(picture, noise.shape[0])
    if given is not None or mask is None:
        return picture  # whoever gave it has hidden what the mask covers
    return torch.where(mask > 0.5, grey_like(picture), picture)


def inpaint_inputs(kwargs: Mapping[str, Any], process: Process) -> torch.Tensor:
    """Join mask and masked picture.

    Args:
        kwargs: Of `BaseModel.extra_conds`: ``noise`` [B, C, H, W], and where they are given
            ``concat_mask`` or ``denoise_mask`` (1 where to paint), ``concat_latent_image`` as the
            VAE gave it, ``latent_image`` as the network sees it.
        process: Scales ``concat_latent_image`` to what the network sees.

    Returns:
        [B, 1 + C, H, W]: the mask, then the picture. Without a mask all is painted; without a
        picture it is grey.
    """
    noise = kwargs["noise"]
    mask = _mask(kwargs, noise)
    picture = _picture(kwargs, noise, mask, process)
    if mask is None:
        mask = torch.ones_like(noise[:, :1])
    return torch.cat([mask, picture], dim=1)

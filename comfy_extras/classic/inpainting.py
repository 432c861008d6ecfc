"""Inpainting: latents that say where to paint."""

from __future__ import annotations

from typing import Any

import torch

import comfy.utils
from comfy_extras.pictures.geometry import middle
from node_helpers import conditioning_set_values

Latent = dict[str, Any]
Conditioning = list[Any]

_LATENT_PIXELS = 8
_GREY = 0.5


def _fit(pixels: torch.Tensor, mask: torch.Tensor, unit: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Cut a picture evenly at both sides to multiples of a unit, and its mask with it.

    Args:
        pixels: (batch, height, width, channels).
        mask: Any size, its last two axes spatial. Masks are repeated or cut to the pictures' number;
            one mask goes with all pictures, and one picture with all masks.
        unit: Pixels per position of the latent.

    Returns:
        The picture, and the mask as (batch, 1, height, width).
    """
    height, width = pixels.shape[1:3]
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    mask = torch.nn.functional.interpolate(mask, size=(height, width), mode="bilinear")
    if 1 not in (pixels.shape[0], mask.shape[0]):
        mask = comfy.utils.repeat_to_batch_size(mask, pixels.shape[0])
    rows, columns = (middle(side, unit) for side in (height, width))
    return pixels[:, rows, columns], mask[:, :, rows, columns]


def _greyed(pixels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The picture with what the mask (batch, 1, height, width) covers set to grey."""
    covered = mask.round().movedim(1, -1)
    return pixels * (1.0 - covered) + _GREY * covered


def _grown(mask: torch.Tensor, pixels: int) -> torch.Tensor:
    """A mask of zeros and ones, every one of which spread to a square of that many pixels."""
    mask = mask.round()
    if pixels == 0:
        return mask
    height, width = mask.shape[-2:]
    spread = torch.nn.functional.max_pool2d(mask, pixels, stride=1, padding=pixels // 2)
    return spread[..., :height, :width]


class VAEEncodeForInpaint:
    """Turns a picture into a latent with grey where it is to be painted anew."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "pixels": ("IMAGE",),
                "vae": ("VAE",),
                "mask": ("MASK",),
                "grow_mask_by": ("INT", {"default": 6, "min": 0, "max": 64, "step": 1}),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"
    CATEGORY = "latent/inpaint"

    def encode(
        self, vae: Any, pixels: torch.Tensor, mask: torch.Tensor, grow_mask_by: int = 6
    ) -> tuple[Latent]:
        """Give the latent, for sampling with denoise 1, and as its noise mask the grown mask."""
        pixels, mask = _fit(pixels, mask, vae.downscale_ratio)
        samples = vae.encode(_greyed(pixels[..., :3], mask))
        return ({"samples": samples, "noise_mask": _grown(mask, grow_mask_by)},)


class SetLatentNoiseMask:
    """Says where a latent is to be changed; elsewhere it stays as it is."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"samples": ("LATENT",), "mask": ("MASK",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "set_mask"
    CATEGORY = "latent/inpaint"

    def set_mask(self, samples: Latent, mask: torch.Tensor) -> tuple[Latent]:
        """Set the noise mask, (batch, 1, height, width), of any size."""
        return ({**samples, "noise_mask": mask.reshape(-1, 1, *mask.shape[-2:])},)


class InpaintModelConditioning:
    """Gives a model that was trained for inpainting the picture round the mask."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        limit = {"default": True, "tooltip": "Change only what the mask covers."}
        return {
            "required": {
                "positive": ("CONDITIONING",),
                "negative": ("CONDITIONING",),
                "vae": ("VAE",),
                "pixels": ("IMAGE",),
                "mask": ("MASK",),
                "noise_mask": ("BOOLEAN", limit),
            }
        }

    RETURN_TYPES = ("CONDITIONING", "CONDITIONING", "LATENT")
    RETURN_NAMES = ("positive", "negative", "latent")
    FUNCTION = "encode"
    CATEGORY = "conditioning/inpaint"

    def encode(
        self,
        positive: Conditioning,
        negative: Conditioning,
        pixels: torch.Tensor,
        vae: Any,
        mask: torch.Tensor,
        noise_mask: bool = True,
    ) -> tuple[Conditioning, Conditioning, Latent]:
        """Give both prompts with mask and greyed picture, and the whole picture's latent."""
        pixels, mask = _fit(pixels[..., :3], mask, _LATENT_PIXELS)
        latent: Latent = {"samples": vae.encode(pixels)}
        if noise_mask:
            latent["noise_mask"] = mask
        values = {
            "concat_latent_image": vae.encode(_greyed(pixels, mask)),
            "concat_mask": mask,
        }
        greyed, against = (conditioning_set_values(one, values) for one in (positive, negative))
        return greyed, against, latent


NODE_CLASS_MAPPINGS = {
    "VAEEncodeForInpaint": VAEEncodeForInpaint,
    "SetLatentNoiseMask": SetLatentNoiseMask,
    "InpaintModelConditioning": InpaintModelConditioning,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "VAEEncodeForInpaint": "VAE Encode (for Inpainting)",
    "SetLatentNoiseMask": "Set Latent Noise Mask",
}

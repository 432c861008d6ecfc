"""Lists of batches, cut anew into batches of one size."""

from __future__ import annotations

import itertools
from typing import Any

import torch

from comfy_extras.latents.rebatching import Latent, rebatched

_MOST = 4096


def _batch_size() -> tuple[str, dict[str, Any]]:
    return "INT", {"default": 1, "min": 1, "max": _MOST}


def rebatched_images(batches: list[torch.Tensor], size: int) -> list[torch.Tensor]:
    """Join neighbours that are equal in shape, and cut what comes of it.

    Args:
        batches: (batch, height, width, channels).
        size: Of each new batch; the last one before a change of shape may be smaller.
    """
    runs = itertools.groupby(batches, key=lambda batch: batch.shape[1:])
    return [part for _, run in runs for part in torch.cat(list(run)).split(size)]


class LatentRebatch:
    """Cuts a list of batches of latents anew."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"latents": ("LATENT",), "batch_size": _batch_size()}}

    RETURN_TYPES = ("LATENT",)
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "rebatch"
    CATEGORY = "latent/batch"

    def rebatch(self, latents: list[Latent], batch_size: list[int]) -> tuple[list[Latent]]:
        """See `comfy_extras.latents.rebatching.rebatched`."""
        return (rebatched(latents, batch_size[0]),)


class ImageRebatch:
    """Cuts a list of batches of pictures anew."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"images": ("IMAGE",), "batch_size": _batch_size()}}

    RETURN_TYPES = ("IMAGE",)
    INPUT_IS_LIST = True
    OUTPUT_IS_LIST = (True,)
    FUNCTION = "rebatch"
    CATEGORY = "image/batch"

    def rebatch(
        self, images: list[torch.Tensor], batch_size: list[int]
    ) -> tuple[list[torch.Tensor]]:
        """See `rebatched_images`."""
        return (rebatched_images(images, batch_size[0]),)


NODE_CLASS_MAPPINGS = {"RebatchLatents": LatentRebatch, "RebatchImages": ImageRebatch}
NODE_DISPLAY_NAME_MAPPINGS = {
    "RebatchLatents": "Rebatch Latents",
    "RebatchImages": "Rebatch Images",
}

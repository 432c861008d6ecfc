"""Latents: empty ones, from pictures and back, batches of them, and files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from node_helpers import MAX_RESOLUTION

Latent = dict[str, Any]

_LATENT_PIXELS = 8
_EMPTY_CHANNELS = 4
_MOST_ROWS = 64


def _pixels(default: int, least: int, step: int) -> tuple[str, dict[str, Any]]:
    return "INT", {"default": default, "min": least, "max": MAX_RESOLUTION, "step": step}


class EmptyLatentImage:
    """A latent of zeros, to be filled with noise."""

    def __init__(self) -> None:
        self.device = comfy.model_management.intermediate_device()

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "width": _pixels(512, 16, 8),
                "height": _pixels(512, 16, 8),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "generate"
    CATEGORY = "latent"

    def generate(self, width: int, height: int, batch_size: int = 1) -> tuple[Latent]:
        """Give samples [batch, 4, height / 8, width / 8]; sampling fits the channels to the model."""
        sides = (height // _LATENT_PIXELS, width // _LATENT_PIXELS)
        samples = torch.zeros((batch_size, _EMPTY_CHANNELS, *sides), device=self.device)
        return ({"samples": samples},)


class VAEDecode:
    """Turns latents into pictures."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = "latent"
    DESCRIPTION = "Decodes latents to pictures."

    def decode(self, vae: Any, samples: Latent) -> tuple[torch.Tensor]:
        """Give (batch, height, width, channels), 0 to 1; frames of videos follow each other."""
        latent = samples["samples"]
        if latent.is_nested:
            latent = latent.unbind()[0]
        return (_frames_as_batch(vae.decode(latent)),)


def _frames_as_batch(pictures: torch.Tensor) -> torch.Tensor:
    return pictures.flatten(0, -4) if pictures.ndim > 4 else pictures


def _tile_inputs(step: int) -> dict[str, Any]:
    return {
        "tile_size": ("INT", {"default": 512, "min": 64, "max": 4096, "step": step}),
        "overlap": ("INT", {"default": 64, "min": 0, "max": 4096, "step": 32}),
        "temporal_size": ("INT", {"default": 64, "min": 8, "max": 4096, "step": 4}),
        "temporal_overlap": ("INT", {"default": 8, "min": 4, "max": 4096, "step": 4}),
    }


def _shared(tile_size: int, overlap: int) -> int:
    """What neighbours may share: tilings of half the width need to get ahead, too."""
    return min(overlap, tile_size // 4)


class VAEDecodeTiled:
    """Turns latents into pictures tile by tile, in little memory."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"samples": ("LATENT",), "vae": ("VAE",), **_tile_inputs(32)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "decode"
    CATEGORY = "_for_testing"

    def decode(
        self,
        vae: Any,
        samples: Latent,
        tile_size: int,
        overlap: int = 64,
        temporal_size: int = 64,
        temporal_overlap: int = 8,
    ) -> tuple[torch.Tensor]:
        """Give what `VAEDecode` gives.

        Args:
            tile_size: Side of a tile, in pixels.
            overlap: Of neighbours, in pixels; a quarter of a tile at most.
            temporal_size: Length of a tile of a video, in frames.
            temporal_overlap: Of those, in frames; half a tile at most.
        """
        ratio = vae.spacial_compression_decode()
        side = tile_size // ratio
        shared = _shared(tile_size, overlap) // ratio
        length, shared_frames = None, None
        frames_each = vae.temporal_compression_decode()
        if frames_each is not None:
            length = max(2, temporal_size // frames_each)
            shared_frames = max(1, min(length // 2, temporal_overlap // frames_each))
        pictures = vae.decode_tiled(
            samples["samples"],
            tile_x=side,
            tile_y=side,
            overlap=shared,
            tile_t=length,
            overlap_t=shared_frames,
        )
        return (_frames_as_batch(pictures),)


class VAEEncode:
    """Turns pictures into latents."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"
    CATEGORY = "latent"

    def encode(self, vae: Any, pixels: torch.Tensor) -> tuple[Latent]:
        """Encode (batch, height, width, channels), 0 to 1; only the colours are looked at."""
        return ({"samples": vae.encode(pixels[..., :3])},)


class VAEEncodeTiled:
    """Turns pictures into latents tile by tile, in little memory."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"pixels": ("IMAGE",), "vae": ("VAE",), **_tile_inputs(64)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "encode"
    CATEGORY = "_for_testing"

    def encode(
        self,
        vae: Any,
        pixels: torch.Tensor,
        tile_size: int,
        overlap: int,
        temporal_size: int = 64,
        temporal_overlap: int = 8,
    ) -> tuple[Latent]:
        """Give what `VAEEncode` gives; see `VAEDecodeTiled` for the sizes."""
        samples = vae.encode_tiled(
            pixels[..., :3],
            tile_x=tile_size,
            tile_y=tile_size,
            overlap=_shared(tile_size, overlap),
            tile_t=temporal_size,
            overlap_t=temporal_overlap,
        )
        return ({"samples": samples},)


def _mask_per_row(mask: torch.Tensor, rows: int) -> torch.Tensor:
    """One mask for all rows stays one; fewer than rows start over."""
    if mask.shape[0] in (1, rows):
        return mask
    return comfy.utils.repeat_to_batch_size(mask, rows)


class LatentFromBatch:
    """Takes some latents of a batch; they get the noise that they had in it."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "samples": ("LATENT",),
                "batch_index": ("INT", {"default": 0, "min": 0, "max": _MOST_ROWS - 1}),
                "length": ("INT", {"default": 1, "min": 1, "max": _MOST_ROWS}),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "frombatch"
    CATEGORY = "latent/batch"

    def frombatch(self, samples: Latent, batch_index: int, length: int) -> tuple[Latent]:
        """Give `length` rows from `batch_index` on, as far as there are any."""
        rows = samples["samples"].shape[0]
        start = min(rows - 1, batch_index)
        taken = slice(start, min(rows, start + length))
        given = dict(samples, samples=samples["samples"][taken].clone())
        if samples.get("noise_mask") is not None:
            mask = _mask_per_row(samples["noise_mask"], rows)
            given["noise_mask"] = mask.clone() if mask.shape[0] == 1 else mask[taken].clone()
        given["batch_index"] = list(_indices(samples))[taken]
        return (given,)


def _indices(samples: Latent) -> Sequence[int]:
    """Which pictures of a larger batch the rows are."""
    known: Sequence[int] | None = samples.get("batch_index")
    return range(samples["samples"].shape[0]) if known is None else known


class RepeatLatentBatch:
    """Repeats a batch; each copy gets noise of its own."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        amount = {"default": 1, "min": 1, "max": _MOST_ROWS}
        return {"required": {"samples": ("LATENT",), "amount": ("INT", amount)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "repeat"
    CATEGORY = "latent/batch"

    def repeat(self, samples: Latent, amount: int) -> tuple[Latent]:
        """Give the batch `amount` times."""
        rows = samples["samples"].shape[0]
        given = dict(samples, samples=_repeated(samples["samples"], amount))
        mask = samples.get("noise_mask")
        if mask is not None and mask.shape[0] > 1:
            given["noise_mask"] = _repeated(_mask_per_row(mask, rows), amount)
        known = samples.get("batch_index")
        if known is not None:
            span = max(known) - min(known) + 1
            given["batch_index"] = [
                index + copy * span for copy in range(amount) for index in known
            ]
        return (given,)


def _repeated(tensor: torch.Tensor, amount: int) -> torch.Tensor:
    return tensor.repeat(amount, *[1] * (tensor.ndim - 1))


NODE_CLASS_MAPPINGS = {
    "EmptyLatentImage": EmptyLatentImage,
    "VAEDecode": VAEDecode,
    "VAEDecodeTiled": VAEDecodeTiled,
    "VAEEncode": VAEEncode,
    "VAEEncodeTiled": VAEEncodeTiled,
    "LatentFromBatch": LatentFromBatch,
    "RepeatLatentBatch": RepeatLatentBatch,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "EmptyLatentImage": "Empty Latent Image",
    "VAEDecode": "VAE Decode",
    "VAEDecodeTiled": "VAE Decode (Tiled)",
    "VAEEncode": "VAE Encode",
    "VAEEncodeTiled": "VAE Encode (Tiled)",
    "LatentFromBatch": "Latent From Batch",
    "RepeatLatentBatch": "Repeat Latent Batch",
}

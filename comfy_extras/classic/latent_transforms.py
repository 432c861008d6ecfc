"""Latents resized, turned, cut and laid over each other; sizes in pixels are eighths of them."""

from __future__ import annotations

from typing import Any

import torch

import comfy.utils
from node_helpers import MAX_RESOLUTION

Latent = dict[str, Any]

_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "bislerp"]
_LATENT_PIXELS = 8
_LEAST_PIXELS = 64
_TURNS = {"none": 0, "90 degrees": 1, "180 degrees": 2, "270 degrees": 3}


def _pixels(default: int, least: int = 0) -> tuple[str, dict[str, Any]]:
    return "INT", {"default": default, "min": least, "max": MAX_RESOLUTION, "step": 8}


class LatentUpscale:
    """Resizes a latent; 0 keeps the aspect."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "samples": ("LATENT",),
                "upscale_method": (_METHODS,),
                "width": _pixels(512),
                "height": _pixels(512),
                "crop": (["disabled", "center"],),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "upscale"
    CATEGORY = "latent"

    def upscale(
        self, samples: Latent, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[Latent]:
        """Resize to pixels, 64 at least; both sizes 0 leave the latent as it is."""
        if width == 0 and height == 0:
            return (samples,)
        rows, columns = samples["samples"].shape[-2:]
        width = max(_LEAST_PIXELS, width or round(columns * max(_LEAST_PIXELS, height) / rows))
        height = max(_LEAST_PIXELS, height or round(rows * width / columns))
        sides = (width // _LATENT_PIXELS, height // _LATENT_PIXELS)
        resized = comfy.utils.common_upscale(samples["samples"], *sides, upscale_method, crop)
        return ({**samples, "samples": resized},)


class LatentUpscaleBy:
    """Resizes a latent by a factor."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        factor = {"default": 1.5, "min": 0.01, "max": 8.0, "step": 0.01}
        return {
            "required": {
                "samples": ("LATENT",),
                "upscale_method": (_METHODS,),
                "scale_by": ("FLOAT", factor),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "upscale"
    CATEGORY = "latent"

    def upscale(self, samples: Latent, upscale_method: str, scale_by: float) -> tuple[Latent]:
        """Resize both sides; one position is left at least."""
        rows, columns = samples["samples"].shape[-2:]
        width, height = (max(1, round(side * scale_by)) for side in (columns, rows))
        how = (width, height, upscale_method, "disabled")
        resized = comfy.utils.common_upscale(samples["samples"], *how)
        return ({**samples, "samples": resized},)


class LatentRotate:
    """Turns a latent clockwise."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"samples": ("LATENT",), "rotation": (list(_TURNS),)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "rotate"
    CATEGORY = "latent/transform"

    def rotate(self, samples: Latent, rotation: str) -> tuple[Latent]:
        """Turn by "none", "90 degrees", "180 degrees" or "270 degrees"."""
        turned = torch.rot90(samples["samples"], _TURNS[rotation], dims=(-1, -2))
        return ({**samples, "samples": turned},)


class LatentFlip:
    """Mirrors a latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        ways = ["x-axis: vertically", "y-axis: horizontally"]
        return {"required": {"samples": ("LATENT",), "flip_method": (ways,)}}

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "flip"
    CATEGORY = "latent/transform"

    def flip(self, samples: Latent, flip_method: str) -> tuple[Latent]:
        """Mirror at the axis with which `flip_method` begins."""
        axis = -2 if flip_method.startswith("x") else -1
        return ({**samples, "samples": samples["samples"].flip(axis)},)


class LatentCrop:
    """Cuts a rectangle out of a latent."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "samples": ("LATENT",),
                "width": _pixels(512, 64),
                "height": _pixels(512, 64),
                "x": _pixels(0),
                "y": _pixels(0),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "crop"
    CATEGORY = "latent/transform"

    def crop(self, samples: Latent, width: int, height: int, x: int, y: int) -> tuple[Latent]:
        """Cut; a rectangle that begins outside is moved in, one that ends outside is cut short."""
        rows, columns = samples["samples"].shape[-2:]
        down, across = _cut(rows, y, height), _cut(columns, x, width)
        return ({**samples, "samples": samples["samples"][..., down, across]},)


def _cut(length: int, start: int, size: int) -> slice:
    """Positions of `size` pixels from pixel `start` on, with the least picture kept inside."""
    last = max(0, length - _LEAST_PIXELS // _LATENT_PIXELS)
    first = min(start // _LATENT_PIXELS, last)
    return slice(first, first + size // _LATENT_PIXELS)


class LatentComposite:
    """Lays one latent over another."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "samples_to": ("LATENT",),
                "samples_from": ("LATENT",),
                "x": _pixels(0),
                "y": _pixels(0),
                "feather": _pixels(0),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "composite"
    CATEGORY = "latent"

    def composite(
        self,
        samples_to: Latent,
        samples_from: Latent,
        x: int,
        y: int,
        composite_method: str = "normal",
        feather: int = 0,
    ) -> tuple[Latent]:
        """Put `samples_from` at pixel (x, y) of `samples_to`.

        Args:
            composite_method: Without effect: there is one.
            feather: Pixels over which it fades in from those of its edges that lie inside.
        """
        result = samples_to["samples"].clone()
        rows, columns = result.shape[-2:]
        top, left = y // _LATENT_PIXELS, x // _LATENT_PIXELS
        laid = samples_from["samples"][..., : max(0, rows - top), : max(0, columns - left)]
        laid = comfy.utils.repeat_to_batch_size(laid.to(result), result.shape[0])
        height, width = laid.shape[-2:]
        under = result[..., top : top + height, left : left + width]
        fade = feather // _LATENT_PIXELS
        down = _fade_in(height, fade, starts_inside=top > 0, ends_inside=top + height < rows)
        across = _fade_in(width, fade, starts_inside=left > 0, ends_inside=left + width < columns)
        opacity = (down[:, None] * across).to(result)
        under.copy_(laid * opacity + under * (1.0 - opacity))
        return ({**samples_to, "samples": result},)


def _fade_in(length: int, fade: int, *, starts_inside: bool, ends_inside: bool) -> torch.Tensor:
    """Opacity along one axis: 1/fade, 2/fade ... 1 from each end that lies inside."""
    opacity = torch.ones(length)
    if fade == 0:
        return opacity
    ramp = (torch.arange(1, length + 1) / fade).clamp(max=1.0)
    if starts_inside:
        opacity = opacity * ramp
    if ends_inside:
        opacity = opacity * ramp.flip(0)
    return opacity


class LatentBlend:
    """Mixes two latents."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        factor = {"default": 0.5, "min": 0, "max": 1, "step": 0.01}
        return {
            "required": {
                "samples1": ("LATENT",),
                "samples2": ("LATENT",),
                "blend_factor": ("FLOAT", factor),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "blend"
    CATEGORY = "_for_testing"

    def blend(self, samples1: Latent, samples2: Latent, blend_factor: float) -> tuple[Latent]:
        """Mix: factor 1 is `samples1` alone; `samples2` takes its size, and its batch unless that is one."""
        first, second = samples1["samples"], samples2["samples"]
        if second.shape[-2:] != first.shape[-2:]:
            rows, columns = first.shape[-2:]
            second = comfy.utils.common_upscale(second, columns, rows, "bicubic", "center")
        if first.shape[0] > 1:
            second = comfy.utils.repeat_to_batch_size(second, first.shape[0])
        mixed = first * blend_factor + second * (1.0 - blend_factor)
        return ({**samples1, "samples": mixed},)


NODE_CLASS_MAPPINGS = {
    "LatentUpscale": LatentUpscale,
    "LatentUpscaleBy": LatentUpscaleBy,
    "LatentRotate": LatentRotate,
    "LatentFlip": LatentFlip,
    "LatentCrop": LatentCrop,
    "LatentComposite": LatentComposite,
    "LatentBlend": LatentBlend,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "LatentUpscale": "Upscale Latent",
    "LatentUpscaleBy": "Upscale Latent By",
    "LatentRotate": "Rotate Latent",
    "LatentFlip": "Flip Latent",
    "LatentCrop": "Crop Latent",
    "LatentComposite": "Latent Composite",
    "LatentBlend": "Latent Blend",
}

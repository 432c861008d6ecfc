"""Pictures in memory: scaled, inverted, joined, framed."""

from __future__ import annotations

from typing import Any

import torch

from comfy_extras.pictures.geometry import scaled
from node_helpers import MAX_RESOLUTION, image_alpha_fix

_METHODS = ["nearest-exact", "bilinear", "area", "bicubic", "lanczos"]


def _size(**settings: Any) -> tuple[str, dict[str, Any]]:
    return "INT", {"default": 512, "min": 0, "max": MAX_RESOLUTION, "step": 1, **settings}


class ImageScale:
    """Scales to a size; 0 keeps the aspect."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (_METHODS,),
                "width": _size(),
                "height": _size(),
                "crop": (["disabled", "center"],),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    def upscale(
        self, image: torch.Tensor, upscale_method: str, width: int, height: int, crop: str
    ) -> tuple[torch.Tensor]:
        """Scale; both sizes 0 leave the picture as it is."""
        if width == 0 and height == 0:
            return (image,)
        rows, columns = image.shape[1:3]
        width = width or max(1, round(columns * height / rows))
        height = height or max(1, round(rows * width / columns))
        return (scaled(image, width, height, upscale_method, crop),)


class ImageScaleBy:
    """Scales by a factor."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        factor = {"default": 1.0, "min": 0.01, "max": 8.0, "step": 0.01}
        return {
            "required": {
                "image": ("IMAGE",),
                "upscale_method": (_METHODS,),
                "scale_by": ("FLOAT", factor),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "upscale"
    CATEGORY = "image/upscaling"

    def upscale(
        self, image: torch.Tensor, upscale_method: str, scale_by: float
    ) -> tuple[torch.Tensor]:
        """Scale both sizes; one pixel is left at least."""
        rows, columns = image.shape[1:3]
        width, height = (max(1, round(side * scale_by)) for side in (columns, rows))
        return (scaled(image, width, height, upscale_method, "disabled"),)


class ImageInvert:
    """Negative of a picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"image": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "invert"
    CATEGORY = "image"

    def invert(self, image: torch.Tensor) -> tuple[torch.Tensor]:
        """1 - image."""
        return (1.0 - image,)


class ImageBatch:
    """Joins two batches; the second takes the size of the first."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {"required": {"image1": ("IMAGE",), "image2": ("IMAGE",)}}

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "batch"
    CATEGORY = "image"
    DEPRECATED = True

    def batch(self, image1: torch.Tensor, image2: torch.Tensor) -> tuple[torch.Tensor]:
        """Join along the first axis."""
        image1, image2 = image_alpha_fix(image1, image2)
        if image1.shape[1:] != image2.shape[1:]:
            rows, columns = image1.shape[1:3]
            image2 = scaled(image2, columns, rows, "bilinear", "center")
        return (torch.cat((image1, image2)),)


class EmptyImage:
    """A plain picture."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        colour = {"default": 0, "min": 0, "max": 0xFFFFFF, "step": 1, "display": "color"}
        return {
            "required": {
                "width": _size(min=1),
                "height": _size(min=1),
                "batch_size": ("INT", {"default": 1, "min": 1, "max": 4096}),
                "color": ("INT", colour),
            }
        }

    RETURN_TYPES = ("IMAGE",)
    FUNCTION = "generate"
    CATEGORY = "image"

    def generate(
        self, width: int, height: int, batch_size: int = 1, color: int = 0
    ) -> tuple[torch.Tensor]:
        """Fill with a colour given as 0xRRGGBB."""
        rgb = torch.tensor([color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF]) / 255.0
        return (rgb.expand(batch_size, height, width, 3).contiguous(),)


class ImagePadForOutpaint:
    """Puts a grey border round a picture, and says where it is."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        border = _size(default=0, step=8)
        return {
            "required": {
                "image": ("IMAGE",),
                "left": border,
                "top": border,
                "right": border,
                "bottom": border,
                "feathering": _size(default=40),
            }
        }

    RETURN_TYPES = ("IMAGE", "MASK")
    FUNCTION = "expand_image"
    CATEGORY = "image"

    def expand_image(
        self, image: torch.Tensor, left: int, top: int, right: int, bottom: int, feathering: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Give the framed picture, and a mask (1, height, width): 1 on the border.

        Inside, the mask falls with the square of the distance to those edges that were moved, to 0
        at the distance `feathering`; not at all where the picture is too small for that.
        """
        count, rows, columns, channels = image.shape
        size = (rows + top + bottom, columns + left + right)
        framed = image.new_full((count, *size, channels), 0.5)
        inside = (slice(top, top + rows), slice(left, left + columns))
        framed[:, inside[0], inside[1]] = image
        mask = torch.ones(size)
        mask[inside] = _ramp((rows, columns), (left, top, right, bottom), feathering)
        return framed, mask.unsqueeze(0)


def _ramp(
    size: tuple[int, int], borders: tuple[int, int, int, int], feathering: int
) -> torch.Tensor:
    rows, columns = size
    if feathering <= 0 or 2 * feathering >= min(rows, columns):
        return torch.zeros(size)
    left, top, right, bottom = borders
    far = float(max(rows, columns))
    across, down = torch.arange(columns), torch.arange(rows)
    from_left = across if left else torch.full((columns,), far)
    from_right = columns - across if right else torch.full((columns,), far)
    from_top = down if top else torch.full((rows,), far)
    from_bottom = rows - down if bottom else torch.full((rows,), far)
    nearest = torch.minimum(
        torch.minimum(from_left, from_right)[None, :], torch.minimum(from_top, from_bottom)[:, None]
    )
    return ((feathering - nearest) / feathering).clamp(min=0).square()


NODE_CLASS_MAPPINGS = {
    "ImageScale": ImageScale,
    "ImageScaleBy": ImageScaleBy,
    "ImageInvert": ImageInvert,
    "ImageBatch": ImageBatch,
    "EmptyImage": EmptyImage,
    "ImagePadForOutpaint": ImagePadForOutpaint,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "ImageScale": "Upscale Image",
    "ImageScaleBy": "Upscale Image By",
    "ImageInvert": "Invert Image",
    "ImageBatch": "Batch Images",
    "ImagePadForOutpaint": "Pad Image for Outpainting",
}

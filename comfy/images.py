"""Resampling of image and latent batches, and batch sizes brought to match.

Tensors are B, C, H, W (or with more axes between C and H) unless said otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

# Below this distance from 0 or pi the sine of the angle says nothing; slerp goes over into lerp.
_PARALLEL = 1e-5
_MASK_MODES = {1: "linear", 2: "bilinear", 3: "trilinear"}


def _slerp(start: torch.Tensor, end: torch.Tensor, ratio: torch.Tensor) -> torch.Tensor:
    """Turn unit directions along the great circle, and interpolate lengths linearly.

    Args:
        start: Vectors along axis 1, any shape.
        end: As `start`.
        ratio: 0 at `start`, 1 at `end`; broadcasts.

    Source:
        Shoemake 1985, "Animating rotation with quaternion curves", equation of Slerp.
    """
    length_start = start.norm(dim=1, keepdim=True)
    length_end = end.norm(dim=1, keepdim=True)
    unit_start = torch.where(length_start > 0, start / length_start, 0.0)
    unit_end = torch.where(length_end > 0, end / length_end, 0.0)
    cosine = (unit_start * unit_end).sum(dim=1, keepdim=True)
    parallel = cosine.abs() > 1 - _PARALLEL
    omega = torch.acos(cosine.masked_fill(parallel, 0.0))
    turned = torch.sin((1 - ratio) * omega) * unit_start + torch.sin(ratio * omega) * unit_end
    turned = turned / torch.sin(omega) * torch.lerp(length_start, length_end, ratio)
    return torch.where(parallel, torch.lerp(start, end, ratio), turned)


def _bislerp_axis(samples: torch.Tensor, axis: int, length: int) -> torch.Tensor:
    """Resample one axis: centres of pixels correspond, borders are repeated."""
    old = samples.shape[axis]
    # On the CPU: Apple's GPU and some of Intel's have no fp64.
    positions = torch.arange(length, dtype=torch.float64)
    positions = ((positions + 0.5) * (old / length) - 0.5).clamp(0, old - 1)
    first = positions.floor().long()
    second = (first + 1).clamp(max=old - 1).to(samples.device)
    along = [1] * samples.ndim
    along[axis] = length
    ratio = (positions - first).to(samples.dtype).to(samples.device).reshape(along)
    first = first.to(samples.device)
    return _slerp(samples.index_select(axis, first), samples.index_select(axis, second), ratio)


def bislerp(samples: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resize by spherical interpolation of the channel vectors, across, then down.

    Args:
        samples: B, C, H, W; any floating dtype.
        width: Pixels.
        height: Pixels.

    Returns:
        B, C, height, width in the dtype of `samples`; computed in fp32.
    """
    across = _bislerp_axis(samples.float(), 3, width)
    return _bislerp_axis(across, 2, height).to(samples.dtype)


def _lanczos_bytes(image: np.ndarray[Any, Any], width: int, height: int) -> np.ndarray[Any, Any]:
    """Resize one H, W, C array of bytes; 3 and 4 channels are a picture, others go one by one."""
    if image.shape[2] in (3, 4):
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS)
        return np.asarray(resized)
    planes = [
        np.asarray(Image.fromarray(plane).resize((width, height), Image.Resampling.LANCZOS))
        for plane in np.moveaxis(image, 2, 0)
    ]
    return np.stack(planes, axis=2)


def lanczos(samples: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Resize pictures in 8 bits with Pillow's Lanczos filter.

    Args:
        samples: B, C, H, W with values 0 to 1; others are clipped.
        width: Pixels.
        height: Pixels.

    Returns:
        B, C, height, width, on the device and in the dtype of `samples`, in steps of 1/255.
    """
    scaled = samples.movedim(1, -1).float().cpu().numpy() * np.float32(255)
    pictures = np.clip(scaled, 0, 255).astype(np.uint8)
    resized = np.stack([_lanczos_bytes(picture, width, height) for picture in pictures])
    result = torch.from_numpy(resized.astype(np.float32) / np.float32(255)).movedim(-1, 1)
    return result.to(samples.device, samples.dtype)


def _crop_to_aspect(samples: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Cut equal margins so that the rest has the proportions of width : height."""
    old_height, old_width = samples.shape[-2:]
    margin_x = max(0, round((old_width - old_height * width / height) / 2))
    margin_y = max(0, round((old_height - old_width * height / width) / 2))
    return samples[..., margin_y : old_height - margin_y, margin_x : old_width - margin_x]


def common_upscale(
    samples: torch.Tensor, width: int, height: int, upscale_method: str, crop: str
) -> torch.Tensor:
    """Resize a batch to width x height, up or down.

    Args:
        samples: B, C, H, W or B, C, T, H, W.
        width: Pixels.
        height: Pixels.
        upscale_method: "bislerp", "lanczos", or a mode of ``torch.nn.functional.interpolate``.
        crop: "center" first crops to the new aspect ratio; anything else does not crop.

    Returns:
        The same axes as `samples`, the last two being height, width.
    """
    shape = samples.shape
    if samples.ndim > 4:
        samples = samples.flatten(2, -3).movedim(2, 1).flatten(0, 1)
    if crop == "center":
        samples = _crop_to_aspect(samples, width, height)
    if upscale_method == "bislerp":
        samples = bislerp(samples, width, height)
    elif upscale_method == "lanczos":
        samples = lanczos(samples, width, height)
    else:
        samples = torch.nn.functional.interpolate(
            samples, size=(height, width), mode=upscale_method
        )
    if len(shape) > 4:
        samples = samples.unflatten(0, (shape[0], -1)).movedim(1, 2)
        samples = samples.reshape(*shape[:-2], height, width)
    return samples


def repeat_to_batch_size(tensor: torch.Tensor, batch_size: int, dim: int = 0) -> torch.Tensor:
    """Cut an axis to `batch_size`, or fill it by starting over from its beginning."""
    length = tensor.shape[dim]
    if length >= batch_size:
        return tensor if length == batch_size else tensor.narrow(dim, 0, batch_size)
    repeats = [1] * tensor.ndim
    repeats[dim] = math.ceil(batch_size / length)
    return tensor.repeat(repeats).narrow(dim, 0, batch_size)


def _nearest_indices(length: int, wanted: int) -> list[int]:
    """Which of `length` items stand at `wanted` places: ends kept when fewer, centres when more."""
    if wanted <= 1:
        return list(range(wanted))
    if wanted < length:
        return [min(round(i * (length - 1) / (wanted - 1)), length - 1) for i in range(wanted)]
    return [min(math.floor((i + 0.5) * length / wanted), length - 1) for i in range(wanted)]


def resize_to_batch_size(tensor: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Resample the batch axis to `batch_size` items by nearest neighbour."""
    if tensor.shape[0] == batch_size:
        return tensor
    indices = torch.tensor(_nearest_indices(tensor.shape[0], batch_size), dtype=torch.long)
    return tensor.index_select(0, indices.to(tensor.device))


def resize_list_to_batch_size(items: list[Any], batch_size: int) -> list[Any]:
    """As `resize_to_batch_size`, for a list."""
    if len(items) == batch_size:
        return items
    return [items[index] for index in _nearest_indices(len(items), batch_size)]


def reshape_mask(input_mask: torch.Tensor, output_shape: Sequence[int]) -> torch.Tensor:
    """Resize masks to the sizes, channels and batch of `output_shape`.

    Args:
        input_mask: For three axes or four in `output_shape` anything whose last one or two axes
            are spatial; for five, also T, H, W.
        output_shape: B, C and one to three sizes.

    Returns:
        Floats; what was given in booleans or whole numbers becomes float32.
    """
    sizes = tuple(output_shape[2:])
    mask = input_mask if input_mask.is_floating_point() else input_mask.float()
    if len(sizes) == 2:
        mask = mask.reshape(-1, 1, *mask.shape[-2:])
    elif len(sizes) == 3 and mask.ndim < 5:
        mask = mask.reshape(1, 1, -1, *mask.shape[-2:])
    mask = torch.nn.functional.interpolate(mask, size=sizes, mode=_MASK_MODES[len(sizes)])
    if mask.shape[1] < output_shape[1]:
        mask = repeat_to_batch_size(mask, output_shape[1], dim=1)
    return repeat_to_batch_size(mask, output_shape[0])


def upscale_dit_mask(
    mask: torch.Tensor, img_size_in: Sequence[int], img_size_out: Sequence[int]
) -> torch.Tensor:
    """Resize an attention mask over text and image tokens to another image size.

    Args:
        mask: Queries x keys, or with a batch axis before; text tokens first, then the image's
            rows of tokens.
        img_size_in: Rows and columns of image tokens that `mask` is for.
        img_size_out: Rows and columns wanted.

    Returns:
        The resized mask with a batch axis; `mask` itself if the sizes are equal.

    Raises:
        ValueError: If `mask` has neither two nor three axes.
    """
    if tuple(img_size_in) == tuple(img_size_out):
        return mask
    if mask.ndim == 2:
        mask = mask.unsqueeze(0)
    if mask.ndim != 3:
        raise ValueError(f"A mask is [b, q, k] or [q, k], this one is {list(mask.shape)}.")
    text = mask.shape[-1] - math.prod(img_size_in)

    def resize_keys(rows: torch.Tensor) -> torch.Tensor:
        image = rows[..., text:].unflatten(-1, tuple(img_size_in))
        image = torch.nn.functional.interpolate(image, size=tuple(img_size_out), mode="bilinear")
        return torch.cat([rows[..., :text], image.flatten(-2)], dim=-1)

    return resize_keys(resize_keys(mask).transpose(1, 2)).transpose(1, 2)


def pack_latents(latents: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Size]]:
    """Lay latents of different shapes, but one batch size, side by side.

    Returns:
        B, 1, N with all their elements, and the shapes that `unpack_latents` needs.
    """
    flat = [latent.reshape(latent.shape[0], 1, -1) for latent in latents]
    return torch.cat(flat, dim=-1), [latent.shape for latent in latents]


def unpack_latents(
    combined_latent: torch.Tensor, latent_shapes: Sequence[Sequence[int]]
) -> list[torch.Tensor]:
    """Undo `pack_latents`; the batch size is that of `combined_latent`, not of the shapes."""
    batch = combined_latent.shape[0]
    lengths = [math.prod(shape[1:]) for shape in latent_shapes]
    parts = combined_latent.reshape(batch, -1).split(lengths, dim=-1)
    return [
        part.reshape(batch, *shape[1:]) for part, shape in zip(parts, latent_shapes, strict=True)
    ]

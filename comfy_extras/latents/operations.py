"""Arithmetic, cutting and joining of latents, [B, C, H, W] or [B, C, T, H, W]."""

from __future__ import annotations

from collections.abc import Sequence

import torch

import comfy.utils
from comfy_extras.pictures.filters import sharpened

AXES = {"x": -1, "y": -2, "t": -3}
"""Names of axes; only videos have "t"."""

_NO_LENGTH = 1e-10
_DEVIATIONS_TO_TOP = 5.0


def reshape_latent_to(
    target_shape: Sequence[int], latent: torch.Tensor, repeat_batch: bool = True
) -> torch.Tensor:
    """Give a latent the sizes of another.

    Args:
        target_shape: Of the other; the sizes and, if wanted, the batch are taken from it.
        latent: Scaled by "bilinear" and cut at the sides to the aspect.
        repeat_batch: Also repeat or cut the batch.
    """
    if tuple(latent.shape[1:]) != tuple(target_shape[1:]):
        sides = (target_shape[-1], target_shape[-2])
        latent = comfy.utils.common_upscale(latent, *sides, "bilinear", "center")
    if repeat_batch:
        return comfy.utils.repeat_to_batch_size(latent, target_shape[0])
    return latent


def _direction(samples: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit vectors along the channels, 0 where there is no length, and the lengths."""
    length = torch.linalg.vector_norm(samples, dim=1, keepdim=True)
    return torch.nan_to_num(samples / length), length


def interpolated(first: torch.Tensor, second: torch.Tensor, ratio: float) -> torch.Tensor:
    """Mix directions and lengths of the channel vectors by themselves; ratio 1 is `first`.

    A plain mean of two noises is shorter than either; here lengths are as long as their mean.
    """
    towards_first, first_length = _direction(first)
    towards_second, second_length = _direction(second)
    towards, _ = _direction(torch.lerp(towards_second, towards_first, ratio))
    return towards * torch.lerp(second_length, first_length, ratio)


def axis_of(samples: torch.Tensor, name: str) -> int:
    """The axis that a name of `AXES` means in a latent.

    Raises:
        ValueError: It has no such axis.
    """
    axis = samples.ndim + AXES[name]
    if axis < 2:
        raise ValueError(
            f"A latent of the shape {tuple(samples.shape)} has no axis {name!r}: only latents of "
            "videos have frames. Choose x or y."
        )
    return axis


def joined(first: torch.Tensor, second: torch.Tensor, where: str) -> torch.Tensor:
    """Put two latents beside each other.

    Args:
        where: A name of `AXES`; after "-", `second` comes first.
    """
    axis = axis_of(first, where.removeprefix("-"))
    second = comfy.utils.repeat_to_batch_size(second.to(first), first.shape[0])
    pair = (second, first) if where.startswith("-") else (first, second)
    return torch.cat(pair, dim=axis)


def cut(samples: torch.Tensor, name: str, index: int, amount: int) -> torch.Tensor:
    """Elements of an axis, at least one; a negative `index` counts from the end."""
    axis = axis_of(samples, name)
    size = samples.shape[axis]
    first = min(index, size - 1) if index >= 0 else max(0, size + index)
    return samples.narrow(axis, first, min(amount, size - first))


def cut_to_batch(samples: torch.Tensor, name: str, length: int) -> torch.Tensor:
    """Cut an axis into slices, which become a batch; what is left over at the end is dropped."""
    axis = axis_of(samples, name)
    length = min(length, samples.shape[axis])
    count = samples.shape[axis] // length
    slices = samples.narrow(axis, 0, count * length).unflatten(axis, (count, length))
    return slices.movedim(axis, 1).flatten(0, 1)


def with_frames(destination: torch.Tensor, source: torch.Tensor, index: int) -> torch.Tensor:
    """Frames of a video replaced from `index` on; a negative one counts from the end.

    Raises:
        ValueError: A latent is none of a video, or the frames do not fit.
    """
    axis_of(destination, "t")
    axis_of(source, "t")
    frames, count = destination.shape[2], source.shape[2]
    first = index if index >= 0 else frames + index
    if first < 0 or first + count > frames:
        raise ValueError(
            f"{count} frames from frame {index} on do not fit into a video of {frames} frames. "
            "Choose an index further from its end, or cut the source."
        )
    result = destination.clone()
    result[:, :, first : first + count] = source.to(result)
    return result


def tone_mapped(latent: torch.Tensor, multiplier: float) -> torch.Tensor:
    """Compress long channel vectors, so that none exceeds a top.

    Lengths become ``top * r / (1 + r)`` with ``r = length / top``; the top is the picture's mean
    length and five standard deviations, times `multiplier`.

    Source: Reinhard et al., Photographic tone reproduction for digital images (2002), equation 3.
    """
    towards, length = _direction(latent)
    axes = tuple(range(1, latent.ndim))
    spread = _DEVIATIONS_TO_TOP * length.std(dim=axes, keepdim=True)
    top = (length.mean(dim=axes, keepdim=True) + spread) * multiplier + _NO_LENGTH
    return towards * (top * length / (top + length))


def sharpened_directions(
    latent: torch.Tensor, radius: int, sigma: float, alpha: float
) -> torch.Tensor:
    """Sharpen where the channel vectors point to, and keep their lengths.

    See `comfy_extras.pictures.filters.sharpened` for the arguments.
    """
    towards, length = _direction(latent)
    return length * sharpened(towards, radius, sigma, alpha)

"""Neighbourhood filters: blurred, sharpened, morphology. Planes are [B, C, H, W]."""

from __future__ import annotations

from collections.abc import Callable

import torch

from comfy_extras.pictures.windows import highest

_SHARPENING = 10.0


def gaussian(radius: int, sigma: float) -> torch.Tensor:
    """Weights of the offsets -radius to radius, sum 1, float32.

    Args:
        radius: Pixels.
        sigma: Standard deviation, in radii: the window scales the curve.
    """
    offsets = torch.linspace(-1.0, 1.0, 2 * radius + 1) if radius else torch.zeros(1)
    weights = torch.exp(-offsets.square() / (2.0 * sigma * sigma))
    return weights / weights.sum()


def mirrored_at_ends(length: int, reach: int) -> torch.Tensor:
    """Positions -reach to length + reach - 1, those outside mirrored at the end elements."""
    if length == 1:
        return torch.zeros(1 + 2 * reach, dtype=torch.long)
    period = 2 * (length - 1)
    phase = torch.arange(-reach, length + reach) % period
    return torch.minimum(phase, period - phase)


def separable(planes: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    """Correlate columns and rows with weights of odd counts, mirrored at the edges."""
    single = planes.reshape(-1, 1, *planes.shape[-2:])
    for axis, kernel in ((-2, down[None, None, :, None]), (-1, across[None, None, None, :])):
        index = mirrored_at_ends(single.shape[axis], kernel.numel() // 2).to(planes.device)
        single = torch.nn.functional.conv2d(single.index_select(axis, index), kernel)
    return single.reshape(planes.shape)


def blurred(planes: torch.Tensor, radius: int, sigma: float) -> torch.Tensor:
    """Mean with Gaussian weights, columns and rows one after the other, mirrored at the edges."""
    weights = gaussian(radius, sigma).to(planes)
    return separable(planes, weights, weights)


def sharpened(planes: torch.Tensor, radius: int, sigma: float, amount: float) -> torch.Tensor:
    """Add ten times `amount` of what blurring takes away (unsharp masking)."""
    return planes + _SHARPENING * amount * (planes - blurred(planes, radius, sigma))


def _highest(planes: torch.Tensor, before: int, after: int) -> torch.Tensor:
    """The largest value in a square window around each pixel."""
    return highest(highest(planes, -1, before, after), -2, before, after)


def dilated(planes: torch.Tensor, size: int) -> torch.Tensor:
    """The largest value in a square of `size` pixels; an even one reaches further down and right."""
    return _highest(planes, (size - 1) // 2, size // 2)


def eroded(planes: torch.Tensor, size: int) -> torch.Tensor:
    """The smallest value in the square turned round, so that opening moves nothing."""
    return -_highest(-planes, size // 2, (size - 1) // 2)


def opened(planes: torch.Tensor, size: int) -> torch.Tensor:
    """Eroded, then dilated: without bright spots smaller than the square."""
    return dilated(eroded(planes, size), size)


def closed(planes: torch.Tensor, size: int) -> torch.Tensor:
    """Dilated, then eroded: without dark spots smaller than the square."""
    return eroded(dilated(planes, size), size)


MORPHOLOGY: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "erode": eroded,
    "dilate": dilated,
    "open": opened,
    "close": closed,
    "gradient": lambda planes, size: dilated(planes, size) - eroded(planes, size),
    "bottom_hat": lambda planes, size: closed(planes, size) - planes,
    "top_hat": lambda planes, size: planes - opened(planes, size),
}
"""Grey morphology with a flat square (Serra 1982)."""

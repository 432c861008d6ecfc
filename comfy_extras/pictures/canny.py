"""Edges by Canny's method: smoothed, gradient, thinned, two thresholds, followed.

Source: Canny, A computational approach to edge detection (1986).
"""

from __future__ import annotations

import math

import torch

from comfy_extras.pictures.filters import blurred, separable

_LUMA = (0.299, 0.587, 0.114)
_SMOOTH = (1.0, 2.0, 1.0)
_SLOPE = (-1.0, 0.0, 1.0)
_RADIUS = 2
# One pixel; the window's radius is the unit of `blurred`.
_SIGMA = 1.0 / _RADIUS
_STEPS = ((0, 1), (1, 1), (1, 0), (1, -1))


def canny(image: torch.Tensor, low: float, high: float) -> torch.Tensor:
    """White lines where brightness changes.

    Args:
        image: (batch, height, width, 3 or more), 0 to 1.
        low: Slope from which a pixel belongs to an edge if a chain of such joins it to one.
        high: Slope from which a pixel begins an edge. Sobel's weights are not normalised: a step from
            black to white has a slope of about 2.6.

    Returns:
        (batch, height, width), 0 or 1.
    """
    luma = torch.tensor(_LUMA, dtype=torch.float32)
    grey = (image[..., :3].float() @ luma.to(image.device))[:, None]
    slope, ridge = _slope(blurred(grey, _RADIUS, _SIGMA))
    return _followed(ridge & (slope > low), ridge & (slope > high))[:, 0].float()


def _slope(planes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Length of Sobel's gradient, and where it is a ridge: no lower than before and behind it."""
    smooth, difference = torch.tensor(_SMOOTH).to(planes), torch.tensor(_SLOPE).to(planes)
    across = separable(planes, smooth, difference)
    down = separable(planes, difference, smooth)
    slope = torch.hypot(across, down)
    eighth = torch.round(torch.atan2(down, across) / (math.pi / 4)).long() % 4
    ridge = torch.zeros_like(slope, dtype=torch.bool)
    for number, step in enumerate(_STEPS):
        before, behind = _shifted(slope, -step[0], -step[1]), _shifted(slope, *step)
        # Of two equal neighbours one is an edge.
        ridge |= (eighth == number) & (slope > before) & (slope >= behind)
    return slope, ridge


def _shifted(planes: torch.Tensor, down: int, across: int) -> torch.Tensor:
    """What stands some rows below and columns right of each pixel; 0 outside."""
    framed = torch.nn.functional.pad(planes, (1, 1, 1, 1))
    rows, columns = planes.shape[-2:]
    return framed[..., 1 + down : 1 + down + rows, 1 + across : 1 + across + columns]


def _followed(weak: torch.Tensor, strong: torch.Tensor) -> torch.Tensor:
    """The strong pixels, and the weak ones that a chain of weak ones joins to them."""
    found = strong
    while True:
        grown = (_near(found) & weak) | strong
        if torch.equal(grown, found):
            return found
        found = grown


def _near(found: torch.Tensor) -> torch.Tensor:
    """Where one of the pixels around, or the pixel itself, is True."""
    framed = torch.nn.functional.pad(found, (1, 1, 1, 1), value=False)
    across = framed[..., :-2] | framed[..., 1:-1] | framed[..., 2:]
    return across[..., :-2, :] | across[..., 1:-1, :] | across[..., 2:, :]

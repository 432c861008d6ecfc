"""Brightness and colour differences of analogue television.

Source: ITU-R BT.470 (system M and B): Y = 0.299 R + 0.587 G + 0.114 B, U and V are B - Y and R - Y
scaled to at most 0.436 and 0.615.
"""

from __future__ import annotations

import torch

_RED, _GREEN, _BLUE = 0.299, 0.587, 0.114
_U_OF_BLUE = 0.436 / (1.0 - _BLUE)
_V_OF_RED = 0.615 / (1.0 - _RED)


def from_rgb(image: torch.Tensor) -> torch.Tensor:
    """(..., 3 or more), 0 to 1, as (..., 3): Y from 0 to 1, U and V around 0."""
    red, green, blue = image[..., :3].unbind(-1)
    y = _RED * red + _GREEN * green + _BLUE * blue
    return torch.stack((y, _U_OF_BLUE * (blue - y), _V_OF_RED * (red - y)), dim=-1)


def to_rgb(parts: torch.Tensor) -> torch.Tensor:
    """The way back; what is no colour lies outside of 0 to 1."""
    y, u, v = parts.unbind(-1)
    red, blue = y + v / _V_OF_RED, y + u / _U_OF_BLUE
    green = (y - _RED * red - _BLUE * blue) / _GREEN
    return torch.stack((red, green, blue), dim=-1)

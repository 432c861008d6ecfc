"""Blend modes of two pictures, 0 to 1; formulas as in W3C's "Compositing and Blending Level 1"."""

from __future__ import annotations

from collections.abc import Callable

import torch

Blend = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _normal(under: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
    return over


def screen(under: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
    """Multiply of the negatives, as a positive."""
    return under + over - under * over


def hard_light(under: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
    """Multiply where `over` is dark, screen where it is bright."""
    return torch.where(over <= 0.5, under * 2.0 * over, screen(under, 2.0 * over - 1.0))


def overlay(under: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
    """Hard light with the layers exchanged."""
    return hard_light(over, under)


def soft_light(under: torch.Tensor, over: torch.Tensor) -> torch.Tensor:
    """Darkens or lightens `under`, less harshly than `hard_light`."""
    curve = ((16.0 * under - 12.0) * under + 4.0) * under
    bright = torch.where(under <= 0.25, curve, under.sqrt())
    amount = 2.0 * over - 1.0
    return under + amount * torch.where(over <= 0.5, under * (1.0 - under), bright - under)


MODES: dict[str, Blend] = {
    "normal": _normal,
    "multiply": torch.mul,
    "screen": screen,
    "overlay": overlay,
    "soft_light": soft_light,
    # With its sign: where the second picture is brighter, the result is black.
    "difference": torch.sub,
}


def blended(under: torch.Tensor, over: torch.Tensor, mode: str, factor: float) -> torch.Tensor:
    """Mix `under` with its blend with `over`; 0 to 1.

    Args:
        mode: One of `MODES`.
        factor: Part of the blend, 0 to 1.
    """
    return torch.lerp(under, MODES[mode](under, over), factor).clamp(0.0, 1.0)

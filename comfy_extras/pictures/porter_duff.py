"""Pictures with opacities laid over each other.

Source: Porter and Duff, Compositing digital images (1984); the separable blend modes as in W3C's
"Compositing and Blending Level 1", sections 9 and 10.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

Layer = tuple[torch.Tensor, torch.Tensor]
"""Colours times opacity, [B, C, H, W], and opacity, [B, 1, H, W]."""

_INVISIBLE = 1e-5

_Factor = Callable[[torch.Tensor], torch.Tensor]


def _none(alpha: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(alpha)


def _all(alpha: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(alpha)


def _inside(alpha: torch.Tensor) -> torch.Tensor:
    return alpha


def _outside(alpha: torch.Tensor) -> torch.Tensor:
    return 1.0 - alpha


OPERATORS: dict[str, tuple[_Factor, _Factor]] = {
    "ADD": (_all, _all),
    "CLEAR": (_none, _none),
    "DST": (_none, _all),
    "DST_ATOP": (_outside, _inside),
    "DST_IN": (_none, _inside),
    "DST_OUT": (_none, _outside),
    "DST_OVER": (_outside, _all),
    "SRC": (_all, _none),
    "SRC_ATOP": (_inside, _outside),
    "SRC_IN": (_inside, _none),
    "SRC_OUT": (_outside, _none),
    "SRC_OVER": (_all, _outside),
    "XOR": (_outside, _outside),
}
"""How much stays of the source, by the opacity below it, and of the destination, by that above."""


def _overlay(over: Layer, under: Layer) -> torch.Tensor:
    (colour, alpha), (ground, ground_alpha) = over, under
    dark = 2.0 * colour * ground
    bright = alpha * ground_alpha - 2.0 * (ground_alpha - ground) * (alpha - colour)
    return torch.where(2.0 * ground < ground_alpha, dark, bright)


BLENDS: dict[str, Callable[[Layer, Layer], torch.Tensor]] = {
    "DARKEN": lambda over, under: torch.minimum(over[0] * under[1], under[0] * over[1]),
    "LIGHTEN": lambda over, under: torch.maximum(over[0] * under[1], under[0] * over[1]),
    "OVERLAY": _overlay,
    "SCREEN": lambda over, under: over[0] * under[1] + under[0] * over[1] - over[0] * under[0],
}
"""Colour, times both opacities, where both layers are; each alone is seen where the other is not."""

MODES = tuple(sorted((*OPERATORS, *BLENDS, "MULTIPLY")))


def compose(over: Layer, under: Layer, mode: str) -> Layer:
    """Lay `over` on `under`.

    Args:
        mode: One of `MODES`. "MULTIPLY" is seen only where both layers are.

    Returns:
        A layer, 0 to 1.
    """
    (colour, alpha), (ground, ground_alpha) = over, under
    if mode == "MULTIPLY":
        return colour * ground, alpha * ground_alpha
    if mode in OPERATORS:
        of_over, of_under = OPERATORS[mode]
        kept, ground_kept = of_over(ground_alpha), of_under(alpha)
        mixed = colour * kept + ground * ground_kept
        covered = alpha * kept + ground_alpha * ground_kept
        return mixed.clamp(0.0, 1.0), covered.clamp(0.0, 1.0)
    alone = colour * (1.0 - ground_alpha) + ground * (1.0 - alpha)
    return alone + BLENDS[mode](over, under), alpha + ground_alpha - alpha * ground_alpha


def layer(colours: torch.Tensor, alpha: torch.Tensor) -> Layer:
    """Colours [B, C, H, W] and opacity [B, 1, H, W], 0 to 1, as a layer."""
    return colours * alpha, alpha


def colours_of(one: Layer) -> torch.Tensor:
    """The colours without the opacity; black where nothing is seen."""
    colour, alpha = one
    seen = alpha > _INVISIBLE
    return torch.where(seen, colour / alpha.clamp(min=_INVISIBLE), 0.0).clamp(0.0, 1.0)

"""Two batches of pictures joined edge to edge."""

from __future__ import annotations

import torch

from comfy_extras.pictures.geometry import scaled

COLOURS = {
    "white": (1.0, 1.0, 1.0),
    "black": (0.0, 0.0, 0.0),
    "red": (1.0, 0.0, 0.0),
    "green": (0.0, 1.0, 0.0),
    "blue": (0.0, 0.0, 1.0),
}
"""Names of colours to red, green and blue."""

DIRECTIONS = ("right", "down", "left", "up")

_LUMA = (0.2126, 0.7152, 0.0722)
_ROWS, _COLUMNS = 1, 2


def stitch(
    first: torch.Tensor,
    second: torch.Tensor,
    direction: str,
    match_size: bool,
    spacing: int,
    colour: str,
) -> torch.Tensor:
    """Put `second` beside `first`.

    Args:
        first: (batch, height, width, channels), 0 to 1.
        second: Likewise. The shorter batch goes on with its last picture; what has no alpha is
            opaque beside what has.
        direction: Where `second` stands, one of `DIRECTIONS`.
        match_size: Scale `second`, at its aspect, to the edge they share. Otherwise the smaller one
            is centred on that edge and filled up with `colour`.
        spacing: Pixels between them; an odd number becomes the next even one.
        colour: Of the space, one of `COLOURS`.
    """
    axis = _COLUMNS if direction in ("left", "right") else _ROWS
    count = max(first.shape[0], second.shape[0])
    channels = max(first.shape[-1], second.shape[-1])
    if match_size:
        second = _to_edge(second, first.shape[3 - axis], axis)
    pair = [_opaque(_prolonged(one.to(first), count), channels) for one in (first, second)]
    ink = _ink(colour, channels).to(first)
    edge = max(one.shape[3 - axis] for one in pair)
    pair = [_centred(one, edge, 3 - axis, ink) for one in pair]
    if direction in ("left", "up"):
        pair.reverse()
    gap = spacing + spacing % 2
    if gap:
        pair.insert(1, _filled(pair[0], gap, axis, ink))
    return torch.cat(pair, dim=axis)


def _to_edge(image: torch.Tensor, edge: int, axis: int) -> torch.Tensor:
    """Scale so that the side across the joining axis has `edge` pixels."""
    length = max(1, image.shape[axis] * edge // image.shape[3 - axis])
    rows, columns = (edge, length) if axis == _COLUMNS else (length, edge)
    if image.shape[1:3] == (rows, columns):
        return image
    return scaled(image, columns, rows, "lanczos")


def _prolonged(image: torch.Tensor, count: int) -> torch.Tensor:
    last = image[-1:].expand(count - image.shape[0], *image.shape[1:])
    return torch.cat((image, last)) if last.shape[0] else image


def _opaque(image: torch.Tensor, channels: int) -> torch.Tensor:
    return torch.nn.functional.pad(image, (0, channels - image.shape[-1]), value=1.0)


def _ink(colour: str, channels: int) -> torch.Tensor:
    """A colour for that many channels: grey (and alpha), or colours (and alpha)."""
    rgb = torch.tensor(COLOURS[colour])
    if channels < 3:
        rgb = (rgb * torch.tensor(_LUMA)).sum().reshape(1)
    return torch.nn.functional.pad(rgb, (0, channels - rgb.shape[0]), value=1.0)


def _filled(like: torch.Tensor, length: int, axis: int, ink: torch.Tensor) -> torch.Tensor:
    shape = list(like.shape)
    shape[axis] = length
    return ink.expand(shape)


def _centred(image: torch.Tensor, length: int, axis: int, ink: torch.Tensor) -> torch.Tensor:
    missing = length - image.shape[axis]
    if missing == 0:
        return image
    before = missing // 2
    ends = [_filled(image, size, axis, ink) for size in (before, missing - before)]
    return torch.cat((ends[0], image, ends[1]), dim=axis)

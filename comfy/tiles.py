"""Running a function tile by tile: overlapping windows, added up with linear feathers."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

Amount = float | Callable[[float], float]
"""How a size along one axis grows: a factor, or a function of the size."""


def get_tiled_scale_steps(width: int, height: int, tile_x: int, tile_y: int, overlap: int) -> int:
    """Count the tiles that `tiled_scale` runs for one image of this size."""
    return _count(height, tile_y, overlap) * _count(width, tile_x, overlap)


def _count(size: int, tile: int, overlap: int) -> int:
    if size <= tile:
        return 1
    if tile <= overlap:
        raise ValueError(f"Tiles of {tile} cannot overlap by {overlap}.")
    return math.ceil((size - overlap) / (tile - overlap))


def _starts(size: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin; the last one may be cut short by the border."""
    return [index * (tile - overlap) for index in range(_count(size, tile, overlap))]


def _per_axis(value: Any, axes: int) -> list[Any]:
    return list(value) if isinstance(value, (tuple, list)) else [value] * axes


def _scale(amount: Amount, size: float, downscale: bool) -> int:
    if callable(amount):
        return round(amount(size))
    return round(size / amount if downscale else size * amount)


def _feathered(shape: Sequence[int], feathers: Sequence[int], device: Any) -> torch.Tensor:
    """Weights 1/f, 2/f ... 1 from each border inwards, multiplied over the axes; fp32."""
    weights = torch.ones((1, 1, *shape), device=device)
    for axis, (size, feather) in enumerate(zip(shape, feathers, strict=True)):
        if not 0 < feather < size:
            continue
        rising = (torch.arange(1, size + 1, device=device) / feather).clamp(max=1)
        along = [1] * weights.ndim
        along[axis + 2] = size
        weights = weights * (rising * rising.flip(0)).reshape(along)
    return weights


def _inside(window: tuple[slice, ...]) -> tuple[slice, ...]:
    """Make an index of `window` that takes all of the batch and channel axes."""
    return (slice(None), slice(None), *window)


def _blend(
    sample: torch.Tensor,
    function: Callable[[torch.Tensor], torch.Tensor],
    windows: Sequence[tuple[slice, ...]],
    place: Callable[[tuple[slice, ...], Sequence[int]], tuple[slice, ...]],
    feathers: Sequence[int],
    result: torch.Tensor,
) -> None:
    """Run `function` on each window and leave the weighted mean of what it returns in `result`."""
    weight = torch.zeros((1, 1, *result.shape[2:]), device=result.device)
    masks: dict[torch.Size, torch.Tensor] = {}
    result.zero_()
    for window in windows:
        part = function(sample[_inside(window)]).to(result.device)
        sizes = part.shape[2:]
        if sizes not in masks:
            masks[sizes] = _feathered(sizes, feathers, result.device)
        where = _inside(place(window, sizes))
        result[where] += part * masks[sizes]
        weight[where] += masks[sizes]
    result.div_(weight)


@torch.no_grad()
def tiled_scale_multidim(
    samples: torch.Tensor,
    function: Callable[[torch.Tensor], torch.Tensor],
    tile: Sequence[int] = (64, 64),
    overlap: int | Sequence[int] = 8,
    upscale_amount: Amount | Sequence[Amount] = 4,
    out_channels: int = 3,
    output_device: torch.device | str = "cpu",
    downscale: bool = False,
    index_formulas: Amount | Sequence[Amount] | None = None,
    pbar: Any = None,
) -> torch.Tensor:
    """Apply `function` to overlapping tiles and blend the results.

    Args:
        samples: B, C and one size per entry of `tile`.
        function: Takes one tile of one sample, returns 1, out_channels and the scaled sizes.
        tile: Largest sizes that `function` is given; what fits whole is one direct call.
        overlap: Elements that neighbours share, for all axes or for each.
        upscale_amount: Scale of sizes, for all axes or for each.
        out_channels: Channels of the result.
        output_device: Where the result is added up.
        downscale: Divide by the amounts instead of multiplying (callables are taken as they are).
        index_formulas: Scale of positions, where it differs from that of sizes.
        pbar: ``update(1)`` is called after each tile.

    Returns:
        B, out_channels and the scaled sizes, fp32, on `output_device`.
    """
    sizes = samples.shape[2:]
    overlaps = _per_axis(overlap, len(sizes))
    amounts = _per_axis(upscale_amount, len(sizes))
    formulas = amounts if index_formulas is None else _per_axis(index_formulas, len(sizes))

    def scale(by: Sequence[Amount], values: Sequence[int]) -> list[int]:
        return [_scale(amount, value, downscale) for amount, value in zip(by, values, strict=True)]

    def place(window: tuple[slice, ...], lengths: Sequence[int]) -> tuple[slice, ...]:
        firsts = scale(formulas, [along.start for along in window])
        return tuple(slice(at, at + n) for at, n in zip(firsts, lengths, strict=True))

    def run(part: torch.Tensor) -> torch.Tensor:
        result = function(part)
        if pbar is not None:
            pbar.update(1)
        return result

    axes = [
        [slice(at, at + limit) for at in _starts(size, limit, shared)]
        for size, limit, shared in zip(sizes, tile, overlaps, strict=True)
    ]
    windows = list(itertools.product(*axes))
    feathers = scale(amounts, overlaps)
    shape = (samples.shape[0], out_channels, *scale(amounts, sizes))
    output = torch.empty(shape, device=output_device)
    for index in range(samples.shape[0]):
        sample, result = samples.narrow(0, index, 1), output.narrow(0, index, 1)
        if len(windows) == 1:
            result.copy_(run(sample))
        else:
            _blend(sample, run, windows, place, feathers, result)
    return output


def tiled_scale(
    samples: torch.Tensor,
    function: Callable[[torch.Tensor], torch.Tensor],
    tile_x: int = 64,
    tile_y: int = 64,
    overlap: int = 8,
    upscale_amount: float = 4,
    out_channels: int = 3,
    output_device: torch.device | str = "cpu",
    pbar: Any = None,
) -> torch.Tensor:
    """Apply `function` to overlapping tiles of images; see `tiled_scale_multidim`."""
    return tiled_scale_multidim(
        samples,
        function,
        (tile_y, tile_x),
        overlap=overlap,
        upscale_amount=upscale_amount,
        out_channels=out_channels,
        output_device=output_device,
        pbar=pbar,
    )

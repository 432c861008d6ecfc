"""Areas and masks of prompts, and the weight with which each result counts.

An area is a tuple of lengths followed by offsets, one each per axis of the latent from the third
on: for pictures (height, width, y, x), in latent pixels. A condition is a dict, as
`sampler_helpers.convert_cond` makes it; no function here changes one.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

import comfy.utils
from comfy.conds import CONDRegular

logger = logging.getLogger(__name__)

Cond = dict[str, Any]

SMALLEST_MASK_AREA = 8
"""Latent pixels per side: below it a network has nothing to look at."""
FEATHER = 8
"""Latent pixels over which an area fades out towards the rest of the picture."""


class CondPart(NamedTuple):
    """What one condition asks of the network at one step.

    Attributes:
        input_x: [B, C, ...], the latent or the area of it.
        mult: The weight of the result, of a shape that broadcasts to `input_x`.
        conditioning: By the name of the network's argument.
        area: None for the whole latent.
        control: A ControlNet, or None.
        patches: Transformer patches for this condition alone, or None.
        uuid: Of the condition.
        hooks: A group of hooks, or None.
    """

    input_x: torch.Tensor
    mult: torch.Tensor
    conditioning: dict[str, CONDRegular]
    area: tuple[int, ...] | None
    control: Any
    patches: dict[str, list[Any]] | None
    uuid: Any
    hooks: Any


def fit_area_dims(area: Sequence[Any], num_dims: int) -> tuple[Any, ...]:
    """Give an area so many axes: all of the axes before its own; a film's for pictures no frames."""
    have = len(area) // 2
    lengths, offsets = tuple(area[:have]), tuple(area[have:])
    missing = num_dims - have
    if missing < 0:
        return (*lengths[-num_dims:], *offsets[-num_dims:])
    return (*(math.inf,) * missing, *lengths, *(0,) * missing, *offsets)


def clamp_area(area: Sequence[Any], dims: Sequence[int]) -> tuple[int, ...]:
    """Cut an area to the latent; an area that lies outside gets length 0."""
    area = fit_area_dims(area, len(dims))
    offsets = [
        min(max(int(offset), 0), size) for offset, size in zip(area[len(dims) :], dims, strict=True)
    ]
    lengths = [
        max(int(min(length, size - offset)), 0)
        for length, size, offset in zip(area[: len(dims)], dims, offsets, strict=True)
    ]
    return (*lengths, *offsets)


def narrow_to_area(tensor: torch.Tensor, area: Sequence[int] | None, first_dim: int = 2) -> Any:
    """The part of a tensor inside an area; a view."""
    if area is None:
        return tensor
    count = len(area) // 2
    for axis in range(count):
        tensor = tensor.narrow(first_dim + axis, area[count + axis], area[axis])
    return tensor


def _area_from_fractions(fractions: Sequence[float], dims: Sequence[int]) -> tuple[int, ...]:
    count = min(len(fractions) // 2, len(dims))
    fractions = fit_area_dims(fractions, count)
    shown = dims[-count:]
    lengths = [
        max(1, round(part * size)) for part, size in zip(fractions[:count], shown, strict=True)
    ]
    offsets = [round(part * size) for part, size in zip(fractions[count:], shown, strict=True)]
    return (*lengths, *offsets)


def _mask_of_size(mask: torch.Tensor, dims: Sequence[int], device: Any) -> torch.Tensor:
    """A mask as [batch, *dims], floats."""
    mask = mask.to(device)
    if not mask.is_floating_point():
        mask = mask.float()
    if mask.ndim == len(dims):
        mask = mask.unsqueeze(0)
    if tuple(mask.shape[1:]) == tuple(dims):
        return mask
    if mask.ndim == len(dims) + 2 and mask.shape[1] == 1:
        mask = mask.squeeze(1)
    planes = mask.unsqueeze(1) if mask.ndim < 4 else mask
    if len(dims) > 1:
        planes = comfy.utils.common_upscale(planes, dims[-1], dims[-2], "bilinear", "disabled")
    else:
        planes = torch.nn.functional.interpolate(planes, size=dims[-1], mode="linear")
    if len(dims) > 2:
        return comfy.utils.repeat_to_batch_size(planes, dims[0], dim=1)
    return planes.squeeze(1)


def _mask_bounds(mask: torch.Tensor) -> tuple[int, ...]:
    """The smallest area around what a mask [batch, *dims] leaves, not below the smallest size."""
    seen = mask.abs().amax(dim=0) > 0
    lengths, offsets = [], []
    for axis, size in enumerate(seen.shape):
        others = [other for other in range(seen.ndim) if other != axis]
        there = (seen.any(dim=others) if others else seen).nonzero()
        first, last = (int(there[0]), int(there[-1])) if len(there) else (0, 0)
        length = min(max(last - first + 1, SMALLEST_MASK_AREA), size)
        lengths.append(length)
        offsets.append(min(first, size - length))
    return (*lengths, *offsets)


def _resolved(cond: Cond, dims: Sequence[int], device: Any) -> Cond | None:
    """A condition with its area in latent pixels and its mask in the latent's size."""
    if "area" not in cond and "mask" not in cond:
        return cond
    cond = dict(cond)
    if cond.get("mask") is not None:
        cond["mask"] = _mask_of_size(cond["mask"], dims, device)
        if cond.get("set_area_to_bounds", False):
            cond["area"] = _mask_bounds(cond["mask"])
    area = cond.get("area")
    if area is not None:
        if area[0] == "percentage":
            area = _area_from_fractions(area[1:], dims)
        cond["area"] = clamp_area(area, dims)
        if 0 in cond["area"][: len(dims)]:
            logger.warning(
                "A prompt's area %s lies outside of the latent of size %s and has no effect. "
                "Move it inside or make the picture larger.",
                area,
                tuple(dims),
            )
            return None
    return cond


def resolve_areas_and_cond_masks_multidim(
    conditions: list[Cond], dims: Sequence[int], device: Any
) -> None:
    """Express areas in latent pixels and masks in the latent's size, in place of the list's dicts.

    Args:
        conditions: Changed in place. One whose area lies outside of the latent is taken out.
        dims: Sizes of the latent from the third axis on.
        device: Where masks go.
    """
    resolved = [_resolved(cond, dims, device) for cond in conditions]
    conditions[:] = [cond for cond in resolved if cond is not None]


def resolve_areas_and_cond_masks(conditions: list[Cond], h: int, w: int, device: Any) -> None:
    """As `resolve_areas_and_cond_masks_multidim`, for a latent of h x w."""
    resolve_areas_and_cond_masks_multidim(conditions, [h, w], device)


def _is_inside(area: Sequence[int], around: Sequence[int]) -> bool:
    count = len(area) // 2
    return len(area) == len(around) and all(
        around[count + axis] <= area[count + axis]
        and area[count + axis] + area[axis] <= around[count + axis] + around[axis]
        for axis in range(count)
    )


def create_cond_with_same_area_if_none(conds: list[Cond], c: Cond) -> None:
    """Give a list a condition for the area of one in the other list.

    Guidance compares what two prompts make of the same crop, so an area that only one list knows
    gets a copy of the other list's nearest condition: the one of the smallest area around it, or
    one for the whole latent.

    Args:
        conds: The other list, in which the copy is put.
        c: The condition; without an area nothing happens.
    """
    area = c.get("area")
    if area is None:
        return
    count = len(area) // 2
    around = [x for x in conds if x.get("area") is None or _is_inside(area, x["area"])]
    if not around:
        return

    def extent(cond: Cond) -> float:
        its = cond.get("area")
        return math.inf if its is None else math.prod(its[:count])

    nearest = min(around, key=extent)
    if nearest.get("area") != area:
        conds.append({**c, "model_conds": dict(nearest["model_conds"])})


def _weight(conds: Cond, x: torch.Tensor, area: tuple[int, ...] | None) -> torch.Tensor:
    """The weight of a condition's result, broadcastable to its input `x`."""
    strength = conds.get("strength", 1.0)
    mask = conds.get("mask")
    if mask is not None:
        mask = narrow_to_area(mask.to(device=x.device, dtype=x.dtype), area, first_dim=1)
        mask = comfy.utils.repeat_to_batch_size(mask, x.shape[0])
        return mask.unsqueeze(1) * (conds.get("mask_strength", 1.0) * strength)
    return x.new_full((1,) * x.ndim, strength)


def _feathered(weight: torch.Tensor, area: tuple[int, ...], dims: Sequence[int]) -> torch.Tensor:
    """A weight that rises linearly from each edge that is not the picture's own."""
    count = len(dims)
    for axis in range(count):
        length, offset = area[axis], area[count + axis]
        width = min(FEATHER, length // 4)
        if width == 0:
            continue
        ramp = weight.new_ones(length)
        rise = torch.arange(1, width + 1, dtype=ramp.dtype, device=ramp.device) / width
        if offset > 0:
            ramp[:width] *= rise
        if offset + length < dims[axis]:
            ramp[length - width :] *= rise.flip(0)
        weight = weight * ramp.reshape(-1, *(1,) * (count - 1 - axis))
    return weight


def _is_asleep(conds: Cond, timestep_in: torch.Tensor) -> bool:
    start, end = conds.get("timestep_start"), conds.get("timestep_end")
    if start is None and end is None:
        return False
    sigma = float(timestep_in[0])
    return (start is not None and sigma > start) or (end is not None and sigma < end)


def get_area_and_mult(
    conds: Cond, x_in: torch.Tensor, timestep_in: torch.Tensor
) -> CondPart | None:
    """What a condition asks of the network now.

    Args:
        conds: One condition, after `process_conds`.
        x_in: [B, C, ...], the noisy latent.
        timestep_in: [B], sigmas.

    Returns:
        None outside of its part of the schedule.
    """
    if _is_asleep(conds, timestep_in):
        return None
    dims = tuple(x_in.shape[2:])
    area = conds.get("area")
    if area is not None:
        area = clamp_area(area, dims)
    input_x = narrow_to_area(x_in, area)
    mult = _weight(conds, input_x, area)
    if area is not None and conds.get("mask") is None:
        mult = _feathered(mult, area, dims)
    conditioning = {
        name: cond.process_cond(batch_size=x_in.shape[0], area=area)
        for name, cond in conds["model_conds"].items()
    }
    patches = None
    if conds.get("gligen") is not None:
        _, gligen_model, boxes = conds["gligen"]
        position = gligen_model.model.set_position(input_x.shape, boxes, input_x.device)
        patches = {"middle_patch": [position]}
    return CondPart(
        input_x=input_x,
        mult=mult,
        conditioning=conditioning,
        area=area,
        control=conds.get("control"),
        patches=patches,
        uuid=conds["uuid"],
        hooks=conds.get("hooks"),
    )

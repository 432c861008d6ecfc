"""Hooks, masks and times put on conditionings; a conditioning is a list of [tensor, dict]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

Conditioning = list[list[Any]]
_Cache = dict[int, tuple[Any, Any]]


def _with_values(conditioning: Conditioning, values: Mapping[str, Any]) -> Conditioning:
    return [[tensor, {**options, **values}] for tensor, options in conditioning]


def set_hooks_for_conditioning(
    cond: Conditioning, hooks: Any, append_hooks: bool = True, cache: _Cache | None = None
) -> Conditioning:
    """Put hooks on all parts.

    Args:
        cond: Left as it is.
        hooks: A `HookGroup`; None changes nothing.
        append_hooks: Keep the hooks that are there, too.
        cache: Shared by calls whose parts shall share groups: parts with one and the same group
            can be sampled in one batch.

    Returns:
        A new conditioning.
    """
    if hooks is None:
        return cond
    cache = {} if cache is None else cache
    result = []
    for tensor, options in cond:
        present = options.get("hooks") if append_hooks else None
        result.append([tensor, {**options, "hooks": _combined(present, hooks, cache)}])
    return result


def _combined(present: Any, hooks: Any, cache: _Cache) -> Any:
    """Both groups as one; for the same `present` the same result."""
    if present is None:
        return hooks
    if id(present) not in cache:
        # The group is kept beside the result: its id stays its own as long as the cache lives.
        cache[id(present)] = (present, present.clone_and_combine(hooks))
    return cache[id(present)][1]


def set_timesteps_for_conditioning(
    cond: Conditioning, timestep_range: tuple[float, float] | None
) -> Conditioning:
    """Limit all parts to times from start to end, 0 to 1; None changes nothing."""
    if timestep_range is None:
        return cond
    start, end = timestep_range
    return _with_values(cond, {"start_percent": start, "end_percent": end})


def set_mask_for_conditioning(
    cond: Conditioning, mask: torch.Tensor | None, set_cond_area: str, strength: float
) -> Conditioning:
    """Limit all parts to a mask, (height, width) or (batch, height, width); None changes nothing.

    Args:
        cond: Left as it is.
        mask: 0 to 1.
        set_cond_area: "default", or "mask bounds" to sample the mask's bounding box alone.
        strength: Of the mask.
    """
    if mask is None:
        return cond
    values = {
        "mask": mask if mask.dim() > 2 else mask.unsqueeze(0),
        "set_area_to_bounds": set_cond_area != "default",
        "mask_strength": strength,
    }
    return _with_values(cond, values)


def combine_conditioning(conds: Sequence[Conditioning]) -> Conditioning:
    """All parts of all conditionings."""
    return [part for cond in conds for part in cond]


def set_conds_props(
    conds: Sequence[Conditioning],
    strength: float,
    set_cond_area: str,
    mask: torch.Tensor | None = None,
    hooks: Any = None,
    timesteps_range: tuple[float, float] | None = None,
    append_hooks: bool = True,
) -> list[Conditioning]:
    """Put mask, hooks and times on each of several conditionings, positive and negative say.

    Returns:
        New conditionings, in this order.
    """
    cache: _Cache = {}
    result = []
    for cond in conds:
        masked = set_mask_for_conditioning(cond, mask, set_cond_area, strength)
        hooked = set_hooks_for_conditioning(masked, hooks, append_hooks, cache)
        result.append(set_timesteps_for_conditioning(hooked, timesteps_range))
    return result


def set_conds_props_and_combine(
    conds: Sequence[Conditioning],
    new_conds: Sequence[Conditioning],
    strength: float = 1.0,
    set_cond_area: str = "default",
    mask: torch.Tensor | None = None,
    hooks: Any = None,
    timesteps_range: tuple[float, float] | None = None,
    append_hooks: bool = True,
) -> list[Conditioning]:
    """As `set_conds_props` for `new_conds`, each then added to the one of `conds` beside it."""
    given = set_conds_props(
        new_conds, strength, set_cond_area, mask, hooks, timesteps_range, append_hooks
    )
    return [combine_conditioning(pair) for pair in zip(conds, given, strict=True)]


def set_default_conds_and_combine(
    conds: Sequence[Conditioning],
    new_conds: Sequence[Conditioning],
    hooks: Any = None,
    append_hooks: bool = True,
) -> list[Conditioning]:
    """Add conditionings that hold where no other does."""
    cache: _Cache = {}
    result = []
    for cond, new in zip(conds, new_conds, strict=True):
        hooked = set_hooks_for_conditioning(new, hooks, append_hooks, cache)
        result.append(combine_conditioning([cond, _with_values(hooked, {"default": True})]))
    return result

"""Conditions through the network: what fits in one forward pass goes through together.

Each condition's result covers its area with its weight; where several of one list overlap, the
result is their weighted mean.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

import comfy.model_management
from comfy.cond_areas import Cond, CondPart, get_area_and_mult, narrow_to_area
from comfy.patcher_extension import merge_nested_dicts

MEMORY_HEADROOM = 1.5
"""A batch is made only if its estimate, times this, is free: estimates are rough."""
FRESH_S = 1.0
"""How long what was free counts as free."""
TINY = 1e-37
"""Keeps 0 / 0 out of the mean where no condition has a weight; a dtype's own if that is larger."""


@dataclass(frozen=True)
class _Job:
    """One part, and the list of conditions that it belongs to.

    `is_all` says that no weight is needed if it stays the only one of its list: it covers the
    whole latent evenly.
    """

    part: CondPart
    index: int
    is_all: bool


def can_concat_cond(c1: CondPart, c2: CondPart) -> bool:
    """Whether two parts may share a forward pass."""
    if c1.input_x.shape != c2.input_x.shape or c1.conditioning.keys() != c2.conditioning.keys():
        return False
    if c1.control is not c2.control or c1.patches is not c2.patches:
        return False
    return all(cond.can_concat(c2.conditioning[name]) for name, cond in c1.conditioning.items())


def cond_cat(parts: Sequence[CondPart]) -> dict[str, Any]:
    """The network's keyword arguments for a batch of parts."""
    first, *others = parts
    return {
        name: cond.concat([other.conditioning[name] for other in others])
        for name, cond in first.conditioning.items()
    }


class _WeightedMean:
    """Adds up the results of one list of conditions."""

    def __init__(self, x_in: torch.Tensor) -> None:
        self._x_in = x_in
        self._only: torch.Tensor | None = None
        self._sum = self._weights = x_in.new_empty(0)

    def take(self, output: torch.Tensor) -> None:
        """The one result, which covers everything."""
        self._only = output

    def add(self, part: CondPart, output: torch.Tensor) -> None:
        if self._sum.numel() == 0:
            self._sum = torch.zeros_like(self._x_in)
            tiny = max(TINY, torch.finfo(self._x_in.dtype).tiny)
            self._weights = torch.full_like(self._x_in, tiny)
        narrow_to_area(self._sum, part.area).add_(output * part.mult)
        narrow_to_area(self._weights, part.area).add_(part.mult)

    def mean(self) -> torch.Tensor:
        if self._only is not None:
            return self._only
        return self._sum / self._weights if self._sum.numel() else torch.zeros_like(self._x_in)


def _default_jobs(
    defaults: Sequence[Cond],
    index: int,
    others: Sequence[_Job],
    x_in: torch.Tensor,
    timestep: torch.Tensor,
) -> list[_Job]:
    """Jobs of the conditions that fill what the others of their list leave."""
    left = torch.ones_like(x_in)
    for job in others:
        narrow_to_area(left, job.part.area).sub_(job.part.mult)
    left.clamp_(min=0.0)
    if not bool(left.any()):
        return []
    parts = [get_area_and_mult(cond, x_in, timestep) for cond in defaults]
    return [
        _Job(part._replace(mult=narrow_to_area(left, part.area)), index, is_all=False)
        for part in parts
        if part is not None
    ]


def _jobs(
    conds: Sequence[Sequence[Cond] | None], x_in: torch.Tensor, timestep: torch.Tensor
) -> list[_Job]:
    found: list[_Job] = []
    for index, cond_list in enumerate(conds):
        mine, defaults = [], []
        for cond in cond_list or ():
            if cond.get("default", False):
                defaults.append(cond)
                continue
            part = get_area_and_mult(cond, x_in, timestep)
            if part is not None:
                is_even = cond.get("mask") is None and part.area is None
                mine.append(_Job(part, index, is_even and cond.get("strength", 1.0) > 0))
        if defaults:
            mine += _default_jobs(defaults, index, mine, x_in, timestep)
        if len(mine) > 1:
            mine = [_Job(job.part, job.index, is_all=False) for job in mine]
        found += mine
    return found


_asked: dict[torch.device, tuple[float, float]] = {}


def forget_free_memory() -> None:
    """Ask anew at the next step: a run begins, and models may have been loaded before it."""
    _asked.clear()


def _free_bytes(device: torch.device) -> float:
    """What was free on a device a moment ago: asking takes milliseconds, which steps may be."""
    now = time.monotonic()
    asked_at, free_bytes = _asked.get(device, (-math.inf, 0.0))
    if now - asked_at > FRESH_S:
        free_bytes = comfy.model_management.get_free_memory(device)
        _asked[device] = (now, free_bytes)
    return free_bytes


def _batch_fits(model: Any, batch: Sequence[_Job], free_bytes: float) -> bool:
    shape = list(batch[0].part.input_x.shape)
    shape[0] *= len(batch)
    cond_shapes: dict[str, list[list[int]]] = {}
    for job in batch:
        for name, cond in job.part.conditioning.items():
            cond_shapes.setdefault(name, []).append(cond.size())
    return model.memory_required(shape, cond_shapes=cond_shapes) * MEMORY_HEADROOM < free_bytes


def _next_batch(model: Any, waiting: Sequence[_Job]) -> list[_Job]:
    """The first job and as many that fit to it as memory allows, in even portions."""
    first = waiting[0].part
    joinable = [job for job in waiting if job is waiting[0] or can_concat_cond(job.part, first)]
    if len(joinable) == 1:
        return joinable
    free_bytes = _free_bytes(first.input_x.device)
    for portions in range(1, len(joinable)):
        batch = joinable[: math.ceil(len(joinable) / portions)]
        if _batch_fits(model, batch, free_bytes):
            return batch
    return joinable[:1]


def _transformer_options(
    model: Any, batch: Sequence[_Job], timestep: torch.Tensor, model_options: dict[str, Any]
) -> dict[str, Any]:
    hooks, patches = batch[0].part.hooks, batch[0].part.patches
    patcher = model.current_patcher
    options = dict(model_options.get("transformer_options", {}))
    if hooks is not None or patcher.current_hooks is not None:
        if hooks is not None:
            patcher.prepare_hook_patches_current_keyframe(timestep, hooks, model_options)
        options = merge_nested_dicts(patcher.apply_hooks(hooks=hooks), options)
    if patches is not None:
        options["patches"] = merge_nested_dicts(options.get("patches", {}), patches)
    options["cond_or_uncond"] = [job.index for job in batch]
    options["uuids"] = [job.part.uuid for job in batch]
    options["sigmas"] = timestep
    return options


def _forward(
    model: Any, batch: Sequence[_Job], timestep: torch.Tensor, model_options: dict[str, Any]
) -> Sequence[torch.Tensor]:
    """What the model makes of each job of a batch."""
    parts = [job.part for job in batch]
    count = len(parts)
    input_x, timestep_ = parts[0].input_x, timestep
    if count > 1:
        input_x = torch.cat([part.input_x for part in parts])
        timestep_ = timestep.repeat(count)
    options = _transformer_options(model, batch, timestep, model_options)
    c = cond_cat(parts)
    c["transformer_options"] = options
    control = parts[0].control
    if control is not None:
        c["control"] = control.get_control(input_x, timestep_, c, count, options)
    wrapper = model_options.get("model_function_wrapper")
    if wrapper is None:
        output = model.apply_model(input_x, timestep_, **c)
    else:
        arguments = {
            "input": input_x,
            "timestep": timestep_,
            "c": c,
            "cond_or_uncond": options["cond_or_uncond"],
        }
        output = wrapper(model.apply_model, arguments)
    return output.chunk(count) if count > 1 else (output,)


def denoise_conds(
    model: Any,
    conds: Sequence[Sequence[Cond] | None],
    x_in: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any],
) -> list[torch.Tensor]:
    """Denoise a latent under each list of conditions.

    Args:
        model: A `BaseModel`.
        conds: Lists of conditions after `conditioning.process_conds`; None asks for nothing.
        x_in: [B, C, ...], the noisy latent.
        timestep: [B], sigmas.
        model_options: Of the patcher.

    Returns:
        One denoised latent for each list, zeros where no condition is awake.
    """
    waiting = _jobs(conds, x_in, timestep)
    model.current_patcher.prepare_state(timestep)
    means = [_WeightedMean(x_in) for _ in conds]
    while waiting:
        hooks = waiting[0].part.hooks
        batch = _next_batch(model, [job for job in waiting if job.part.hooks is hooks])
        for job, output in zip(batch, _forward(model, batch, timestep, model_options), strict=True):
            if job.is_all:
                means[job.index].take(output)
            else:
                means[job.index].add(job.part, output)
        done = {id(job) for job in batch}
        waiting = [job for job in waiting if id(job) not in done]
    return [mean.mean() for mean in means]

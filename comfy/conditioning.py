"""Prompts before the first step: their part of the schedule, their encoding, their ControlNets.

A condition is a dict (`sampler_helpers.convert_cond` makes it from a CONDITIONING entry). All
functions here replace dicts in the lists that they are given and change none of the dicts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from comfy.cond_areas import (
    Cond,
    create_cond_with_same_area_if_none,
    resolve_areas_and_cond_masks_multidim,
)
from comfy.conds import CONDRegular


def calculate_start_end_timesteps(model: Any, conds: list[Cond]) -> None:
    """Turn percentages of the schedule into `timestep_start` and `timestep_end`, sigmas.

    A condition that was encoded for a part of the schedule (`clip_start_percent`,
    `clip_end_percent`) counts where both ranges meet.
    """
    to_sigma = model.model_sampling.percent_to_sigma
    for place, cond in enumerate(conds):
        starts = [cond[key] for key in ("start_percent", "clip_start_percent") if key in cond]
        ends = [cond[key] for key in ("end_percent", "clip_end_percent") if key in cond]
        window = {}
        if starts:
            window["timestep_start"] = to_sigma(max(starts))
        if ends:
            window["timestep_end"] = to_sigma(min(ends))
        if window:
            conds[place] = {**cond, **window}


def pre_run_control(model: Any, conds: list[Cond]) -> None:
    """Tell each ControlNet which sigmas its percentages are."""
    for cond in conds:
        if cond.get("control") is not None:
            cond["control"].pre_run(model, model.model_sampling.percent_to_sigma)


def encode_model_conds(
    model_function: Callable[..., dict[str, CONDRegular]],
    conds: list[Cond],
    noise: torch.Tensor,
    device: Any,
    prompt_type: str,
    **kwargs: Any,
) -> list[Cond]:
    """Ask the model what its network needs for each condition.

    Args:
        model_function: `BaseModel.extra_conds`; called with all keys of the condition, and with
            device, noise, width and height in pixels, prompt_type and `kwargs`, where the
            condition does not say otherwise.
        conds: Changed in place: `model_conds` of each gets what the model returned, moved to
            `device` once instead of at every step.
        noise: [B, C, ...].
        device: Where the conditions are needed.
        prompt_type: The name of the list, such as "positive".
        kwargs: Further arguments of the model's function.
    """
    height, width = noise.shape[-2] if noise.ndim >= 4 else noise.shape[2], None
    if noise.ndim >= 4:
        width = noise.shape[-1] * 8
    asked = {"width": width, "height": height * 8, "prompt_type": prompt_type, **kwargs}
    for place, cond in enumerate(conds):
        made = model_function(**{**asked, **cond, "device": device, "noise": noise})
        made = {name: value.to(device) for name, value in made.items()}
        conds[place] = {**cond, "model_conds": {**cond.get("model_conds", {}), **made}}
    return conds


def apply_empty_x_to_equal_area(
    conds: Sequence[Cond],
    uncond: list[Cond],
    name: str,
    uncond_fill_func: Callable[[list[Any], int], Any],
) -> None:
    """Hand what the prompts of one list carry to those of another, where none of these has it.

    Only conditions for the whole latent give and take.

    Args:
        conds: Who gives.
        uncond: Who takes; its dicts are replaced.
        name: The key, "control" or "gligen".
        uncond_fill_func: From all that is given and a running number: what the next one gets.
    """
    given = [c[name] for c in conds if c.get("area") is None and c.get(name) is not None]
    places = [place for place, u in enumerate(uncond) if u.get("area") is None]
    if not given or any(uncond[place].get(name) is not None for place in places):
        return
    for number in range(min(len(given), len(places)) if places else 0):
        place = places[number]
        uncond[place] = {**uncond[place], name: uncond_fill_func(given, number)}
    for number in range(len(places), len(given) if places else 0):
        uncond.append({**uncond[places[0]], name: uncond_fill_func(given, number)})


def process_conds(
    model: Any,
    noise: torch.Tensor,
    conds: dict[str, list[Cond]],
    device: Any,
    latent_image: torch.Tensor | None = None,
    denoise_mask: torch.Tensor | None = None,
    seed: int | None = None,
    latent_shapes: Any = None,
) -> dict[str, list[Cond]]:
    """Prepare the conditions of all lists for sampling.

    Args:
        model: A `BaseModel`.
        noise: [B, C, ...], the shape of what is sampled.
        conds: By name, "positive" and "negative" as a rule. New lists are put in place of its own.
        device: Where the network runs.
        latent_image: As the network sees it.
        denoise_mask: Of `noise`'s shape.
        seed: Of the noise.
        latent_shapes: Shapes of the latents that are packed in `noise`.

    Returns: `conds`.
    """
    for name in conds:
        conds[name] = list(conds[name])
        resolve_areas_and_cond_masks_multidim(conds[name], noise.shape[2:], device)
        calculate_start_end_timesteps(model, conds[name])
        if hasattr(model, "extra_conds"):
            encode_model_conds(
                model.extra_conds,
                conds[name],
                noise,
                device,
                name,
                latent_image=latent_image,
                denoise_mask=denoise_mask,
                seed=seed,
                latent_shapes=latent_shapes,
            )
    for name in conds:
        for cond in list(conds[name]):
            for other in conds:
                if other != name:
                    create_cond_with_same_area_if_none(conds[other], cond)
    for name in conds:
        _start_hooks(model, conds[name])
        pre_run_control(model, conds[name])
    _share_with_negative(conds)
    return conds


def _start_hooks(model: Any, conds: list[Cond]) -> None:
    for cond in conds:
        if cond.get("hooks") is not None:
            for hook in cond["hooks"].hooks:
                hook.initialize_timesteps(model)


def _share_with_negative(conds: dict[str, list[Cond]]) -> None:
    positive = conds.get("positive", [])
    for_all = [cond for cond in positive if cond.get("control_apply_to_uncond", False)]
    for name in conds:
        if name == "positive":
            continue
        apply_empty_x_to_equal_area(for_all, conds[name], "control", lambda nets, i: nets[i])
        apply_empty_x_to_equal_area(positive, conds[name], "gligen", lambda boxes, i: boxes[i])

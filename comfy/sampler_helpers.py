"""Around a sampling run: prompts as dicts, models loaded before it, models let go after it."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

Conds = dict[str, list[dict[str, Any]]]


def prepare_mask(noise_mask: torch.Tensor, shape: Sequence[int], device: Any) -> torch.Tensor:
    """Resize a mask to a latent.

    Args:
        noise_mask: [B, H, W], [B, 1, H, W] or [H, W], any size; 1 is what is to be changed.
        shape: Of the latent, [B, C, h, w].
        device: Where it goes.

    Returns:
        A tensor of `shape`.
    """
    return comfy.utils.reshape_mask(noise_mask, shape).to(device)


def convert_cond(cond: Iterable[Sequence[Any]]) -> list[dict[str, Any]]:
    """Turn CONDITIONING entries ``[tokens, dict]`` into one dict each.

    The tokens [B, T, D] become `cross_attn`; each dict gets a `uuid` and its own `model_conds`.
    """
    converted = []
    for tokens, extra in cond:
        made = {**extra, "model_conds": dict(extra.get("model_conds", {})), "uuid": uuid.uuid4()}
        if tokens is not None:
            made["cross_attn"] = tokens
        converted.append(made)
    return converted


def get_models_from_cond(cond: Iterable[dict[str, Any]], model_type: str) -> list[Any]:
    """The values of one key of all conditions; lists are joined."""
    found: list[Any] = []
    for c in cond:
        value = c.get(model_type)
        if value is not None:
            found.extend(value if isinstance(value, list) else [value])
    return found


def _unique(objects: Iterable[Any]) -> list[Any]:
    return list({id(each): each for each in objects}.values())


def _controls(conds: Conds) -> list[Any]:
    return _unique(net for cond in conds.values() for net in get_models_from_cond(cond, "control"))


def get_additional_models(conds: Conds, dtype: torch.dtype) -> tuple[list[Any], int]:
    """What the prompts need besides the diffusion model.

    Args:
        conds: By name, converted.
        dtype: Of the diffusion model.

    Returns:
        Patchers, each once, and the bytes of activations that ControlNets add.
    """
    models: list[Any] = []
    activation_bytes = 0
    for net in _controls(conds):
        models += net.get_models()
        activation_bytes += net.inference_memory_requirements(dtype)
    for cond in conds.values():
        models += [gligen[1] for gligen in get_models_from_cond(cond, "gligen")]
        models += get_models_from_cond(cond, "additional_models")
    return _unique(models), activation_bytes


def estimate_memory(model: Any, noise_shape: Sequence[int], conds: Conds) -> tuple[float, float]:
    """Bytes of activations.

    Args:
        model: A patcher.
        noise_shape: [B, C, ...].
        conds: By name, converted.

    Returns:
        For both prompts in one batch, and for one at a time.
    """
    every: dict[str, list[Any]] = {}
    largest: dict[str, list[Any]] = {}
    for cond in conds.values():
        for c in cond:
            for name, shape in model.model.extra_conds_shapes(**c).items():
                every.setdefault(name, []).append(shape)
    for name, shapes in every.items():
        largest[name] = [max(shapes, key=lambda shape: torch.Size(shape).numel())]
    rest = list(noise_shape[1:])
    return (
        model.model.memory_required([noise_shape[0] * 2, *rest], cond_shapes=every),
        model.model.memory_required([noise_shape[0], *rest], cond_shapes=largest),
    )


def prepare_sampling(
    model: Any,
    noise_shape: Sequence[int],
    conds: Conds,
    model_options: dict[str, Any] | None = None,
    force_full_load: bool = False,
) -> tuple[Any, Conds, list[Any]]:
    """Load what a run needs.

    Args:
        model: A patcher.
        noise_shape: [B, C, ...].
        conds: By name, converted.
        model_options: Whose wrappers may take part; the patcher's own by default.
        force_full_load: Leave no weight in its file.

    Returns:
        The network's model, the conditions, and the other models that were loaded, for
        `cleanup_models`.
    """
    options = model.model_options if model_options is None else model_options
    executor = WrapperExecutor.new_executor(
        _prepare_sampling,
        get_all_wrappers(WrappersMP.PREPARE_SAMPLING, options, is_model_options=True),
    )
    return executor.execute(
        model, noise_shape, conds, model_options=model_options, force_full_load=force_full_load
    )


def _prepare_sampling(
    model: Any,
    noise_shape: Sequence[int],
    conds: Conds,
    model_options: dict[str, Any] | None = None,
    force_full_load: bool = False,
) -> tuple[Any, Conds, list[Any]]:
    models, activation_bytes = get_additional_models(conds, model.model_dtype())
    models += model.get_nested_additional_models()
    wanted, least = estimate_memory(model, noise_shape, conds)
    comfy.model_management.load_models_gpu(
        [model, *models],
        memory_required=wanted + activation_bytes,
        minimum_memory_required=least + activation_bytes,
        force_full_load=force_full_load,
    )
    return model.model, conds, models


def cleanup_additional_models(models: Iterable[Any]) -> None:
    """Tell the other models that the run is over."""
    for model in models:
        if hasattr(model, "cleanup"):
            model.cleanup()


def cleanup_models(conds: Conds, models: Iterable[Any]) -> None:
    """Tell the other models and the ControlNets that the run is over."""
    cleanup_additional_models(models)
    for net in _controls(conds):
        net.cleanup()


def cast_options(value: Any, *targets: Any) -> Any:
    """Call ``to`` of every object at any depth of dicts and lists, which keep their identity.

    Args:
        value: What packs put in the model options.
        targets: A device, a dtype, or both.

    Returns:
        `value`, or what its ``to`` returned.
    """
    if isinstance(value, dict):
        for name in value:
            value[name] = cast_options(value[name], *targets)
    elif isinstance(value, list):
        value[:] = [cast_options(each, *targets) for each in value]
    elif hasattr(value, "to"):
        for target in targets:
            value = value.to(target)
    return value

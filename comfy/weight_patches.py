"""What a patch of a weight is, whether it fits, and how it is applied.

A value is an adapter; ("diff", (tensor[, {"pad_weight": bool}])); (tensor,), the same; ("set",
(tensor,)); or ("model_as_lora", (tensor,)), the weight of another model. A difference that is None
changes nothing: the weight is only scaled. All work in place where the weight's shape stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from comfy.loading import source_of
from comfy.weight_adapter import WeightAdapterBase
from comfy.weight_adapter.parts import can_grow, identity, pad_to, placed

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Terms:
    """How a value is applied to a weight.

    Attributes:
        key: The weight's name.
        strength: Factor of the change.
        strength_model: What the weight was multiplied by.
        offset: (axis, start, length) of the slice that the weight is, or None.
        function: Applied to the change before it is added.
        dtype: In which the change is computed.
        original_weights: Key patches of the unpatched model, or None.
    """

    key: str
    strength: float
    strength_model: float
    offset: tuple[int, int, int] | None
    function: Callable[[torch.Tensor], torch.Tensor]
    dtype: torch.dtype
    original_weights: Mapping[str, Any] | None


def file_of(tensors: Iterable[Any]) -> str:
    """The path of the first tensor that lies in a file, with a space before it, or nothing."""
    for tensor in tensors:
        source = source_of(tensor) if isinstance(tensor, torch.Tensor) else None
        if source is not None:
            return f" {source.file.path}"
    return ""


def slice_of(weight: torch.Tensor, offset: Any, key: str) -> torch.Tensor | None:
    """The part of the weight that a patch is for; None, with a warning, if it has no such part."""
    if offset is None:
        return weight
    axis, start, length = offset
    if axis < weight.dim() and start + length <= weight.shape[axis]:
        return weight.narrow(axis, start, length)
    _log.warning(
        "%s: a patch is for %d values from %d on along axis %d, but the weight has shape %s; this"
        " patch is left out",
        key,
        length,
        start,
        axis,
        tuple(weight.shape),
    )
    return None


def fits(value: Any, weight: torch.Tensor, key: str) -> bool:
    """Whether a patch can be applied, judged without reading it; warns if not."""
    problem = _misfit(value, weight)
    if problem is None:
        return True
    parts = value.weights if isinstance(value, WeightAdapterBase) else unpacked(value)[1]
    _log.warning(
        "%s: a patch%s does not fit: it has %s, the weight has shape %s; this patch is left out",
        key,
        file_of(parts),
        problem,
        tuple(weight.shape),
    )
    return False


def unpacked(value: Any) -> tuple[str, Sequence[Any]]:
    """Kind and contents of a patch that is a tuple."""
    return ("diff", value) if len(value) == 1 else (value[0], value[1])


def _misfit(value: Any, weight: torch.Tensor) -> str | None:
    if isinstance(value, WeightAdapterBase):
        return value.misfit(weight)
    kind, contents = unpacked(value)
    if kind not in _KINDS:
        return f"the unknown kind {kind!r}"
    if kind == "diff" and contents[0] is None:
        return None
    shape = tuple(contents[0].shape)
    if kind == "diff" and len(contents) > 1 and contents[1].get("pad_weight"):
        return None if can_grow(weight, shape) else f"shape {shape}"
    return None if shape == tuple(weight.shape) else f"shape {shape}"


def apply(value: Any, weight: torch.Tensor, terms: Terms) -> torch.Tensor:
    """Apply one patch that fits.

    Returns:
        `weight`, or a larger one.

    Raises:
        ValueError: If the original weights are needed and were not given.
    """
    if isinstance(value, WeightAdapterBase):
        return value.calculate_weight(
            weight,
            terms.key,
            terms.strength,
            terms.strength_model,
            terms.offset,
            terms.function,
            terms.dtype,
            terms.original_weights,
        )
    kind, contents = unpacked(value)
    return _KINDS[kind](weight, contents[0], terms)


def _add_difference(
    weight: torch.Tensor, difference: torch.Tensor | None, terms: Terms
) -> torch.Tensor:
    if difference is None:
        return weight
    if difference.shape != weight.shape:
        weight = pad_to(weight, difference.shape)
    if terms.strength == 0.0:
        return weight
    change = placed(difference, weight.device, terms.dtype)
    if terms.function is identity:
        return weight.add_(change, alpha=terms.strength)
    return weight.add_(terms.function(change * terms.strength))


def _replace(weight: torch.Tensor, values: torch.Tensor, terms: Terms) -> torch.Tensor:
    return weight.copy_(values)


def _add_model(weight: torch.Tensor, other: torch.Tensor, terms: Terms) -> torch.Tensor:
    if terms.original_weights is None:
        raise ValueError(
            f"{terms.key}: a patch is the weight of another model, and the weights that it is"
            " compared with were not given. Hand over original_weights, as get_key_patches returns"
            " them."
        )
    original = terms.original_weights[terms.key][0][0]
    change = placed(other, weight.device, terms.dtype) - placed(
        original, weight.device, terms.dtype
    )
    return weight.add_(terms.function(change.mul_(terms.strength)))


# Kind of a patch that is a tuple -> how it is applied.
_KINDS: dict[str, Callable[[torch.Tensor, Any, Terms], torch.Tensor]] = {
    "diff": _add_difference,
    "set": _replace,
    "model_as_lora": _add_model,
}

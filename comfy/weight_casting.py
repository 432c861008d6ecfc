"""Bringing one layer's weights for one call: who says that it must be done, and how it is done."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

WeightFunction = Callable[[torch.Tensor], torch.Tensor]


class Borrowed(Protocol):
    """Weights of one layer, brought to the device for one call."""

    def get(self, name: str) -> torch.Tensor | None:
        """The layer's parameter of this name on the device, or None if it is at home."""

    def release(self) -> None:
        """Say that the call has used them."""


class WeightStream(Protocol):
    """Brings the weights of layers that do not fit on the device; given by `comfy.residency`."""

    def borrow(self, layer: torch.nn.Module) -> Borrowed:
        """Bring a layer's weights; blocks until they are on the device."""


class CastWeightBiasOp:
    """What a layer carries so that its weights may live elsewhere.

    Attributes:
        comfy_cast_weights: Bring device and dtype to the input's on every call.
        weight_function: Applied in order to the weight of each call, which it must not write to.
            One with a true attribute ``in_storage_dtype`` sees the weight before it is cast.
        bias_function: The same for the bias.
        weight_stream: Brings weights that stay in their file; None if all are at home.
    """

    comfy_cast_weights = False
    weight_function: Sequence[WeightFunction] = ()
    bias_function: Sequence[WeightFunction] = ()
    weight_stream: WeightStream | None = None


def bring(
    layer: Any,
    name: str,
    handle: Borrowed | None,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> torch.Tensor | None:
    """Get one weight of a layer as it is to be used: on the device, patched, cast.

    Args:
        layer: Perhaps with functions for the weight, and a ``widen`` that dequantises it.
        name: "weight" or "bias".
        handle: What was borrowed for the layer, if anything was.
        dtype: None keeps it.
        device: None keeps it.

    Returns:
        The weight's own tensor if there is nothing to do; None if the layer has no such weight.
    """
    tensor: torch.Tensor | None = None if handle is None else handle.get(name)
    if tensor is None:
        tensor = getattr(layer, name, None)
    if tensor is None:
        return None
    functions = getattr(layer, name + "_function", ())
    widen = getattr(layer, "widen", None) if name == "weight" else None
    if not functions and widen is None:
        return tensor.to(device=device, dtype=dtype)
    tensor = tensor.to(device=device)
    early = [one for one in functions if getattr(one, "in_storage_dtype", False)]
    for function in early:
        tensor = function(tensor)
    tensor = tensor.to(dtype=dtype) if widen is None else widen(tensor, dtype)
    for function in functions:
        if function not in early:
            tensor = function(tensor)
    return tensor

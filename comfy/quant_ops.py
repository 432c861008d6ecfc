"""Weights stored in eight bits with a scale: ``weight = stored * scale``."""

from __future__ import annotations

import json
from collections.abc import MutableMapping
from typing import Any

import torch

import comfy.float
from comfy.float import FLOAT8_TYPES as FLOAT8_TYPES

_FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}


class UnsupportedQuantization(ValueError):
    """A layer is stored in a format that these layers cannot read."""


def read_marker(marker: torch.Tensor) -> dict[str, Any]:
    """Read a ``comfy_quant`` tensor: the bytes of a JSON object.

    Args:
        marker: uint8, shape (nbytes,).

    Returns:
        The layer's settings; ``format`` names how it is stored.

    Raises:
        UnsupportedQuantization: If it is no JSON object.
    """
    try:
        settings = json.loads(bytes(marker.tolist()))
    except (ValueError, TypeError) as err:
        raise UnsupportedQuantization(f"a comfy_quant marker is no JSON: {err}") from err
    if not isinstance(settings, dict):
        raise UnsupportedQuantization("a comfy_quant marker is no JSON object")
    return settings


def dequantize(
    stored: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype
) -> torch.Tensor:
    """Widen a stored weight.

    Args:
        stored: Eight-bit floats, any shape.
        scale: One number, or one per row; None means 1.
        dtype: Of the result; the product is rounded once.
    """
    if scale is None:
        return stored.to(dtype)
    scale = scale.to(device=stored.device, dtype=torch.float32)
    if scale.numel() > 1:
        scale = scale.reshape(scale.shape[0], *(1,) * (stored.dim() - 1))
    return (stored.to(torch.float32) * scale).to(dtype)


def quantize(
    weight: torch.Tensor, scale: torch.Tensor | None, dtype: torch.dtype, seed: int | None = None
) -> torch.Tensor:
    """Store a wide weight with a given scale, the inverse of `dequantize`.

    Args:
        weight: Floating, any shape.
        scale: As for `dequantize`.
        dtype: Eight-bit.
        seed: Round by chance with it; None rounds to nearest, with saturation.
    """
    wide = weight.to(torch.float32)
    if scale is not None:
        scale = scale.to(device=weight.device, dtype=torch.float32)
        if scale.numel() > 1:
            scale = scale.reshape(scale.shape[0], *(1,) * (weight.dim() - 1))
        wide = wide / scale
    if seed is not None:
        return comfy.float.stochastic_rounding(wide, dtype, seed)
    limit = torch.finfo(dtype).max
    return wide.clamp(-limit, limit).to(dtype)


class QuantizedLinear:
    """Mixed into a Linear: reads a layer's marker and scale, widens its weight for each call.

    Attributes:
        weight_scale: One float32 number or one per row; None for a plain layer.
        input_scale: Kept for saving; products are computed in the input's dtype.
        quant_settings: Of the marker; None for a plain layer.
    """

    default_compute_dtype = torch.bfloat16
    disabled_formats: frozenset[str] = frozenset()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        layer: Any = self
        layer.register_parameter("weight_scale", None)
        layer.register_parameter("input_scale", None)
        self.quant_settings: dict[str, Any] | None = None

    def _load_from_state_dict(
        self, state_dict: MutableMapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        layer: Any = self
        marker = state_dict.pop(prefix + "comfy_quant", None)
        if marker is not None:
            self.quant_settings = read_marker(marker)
            name = self.quant_settings.get("format")
            if name not in _FORMATS or name in self.disabled_formats:
                raise UnsupportedQuantization(
                    f"{prefix}weight is stored as {name!r}; known here: "
                    f"{sorted(set(_FORMATS) - self.disabled_formats)}. Use a checkpoint in one."
                )
        for name in ("weight_scale", "input_scale"):
            scale = state_dict.get(prefix + name)
            if scale is not None:
                empty = torch.empty_like(scale, device="meta")
                setattr(layer, name, torch.nn.Parameter(empty, requires_grad=False))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)  # type: ignore[misc]

    def _save_to_state_dict(
        self, destination: MutableMapping[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)  # type: ignore[misc]
        if self.quant_settings is not None:
            text = json.dumps(self.quant_settings).encode()
            destination[prefix + "comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)

    def widen(self, weight: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
        """Give the weight as it is used; a plain one is only cast."""
        layer: Any = self
        if layer.weight_scale is None:
            return weight.to(dtype=dtype)
        return dequantize(weight, layer.weight_scale, dtype or self.default_compute_dtype)

    def convert_weight(self, weight: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        """Give the weight in a dtype that patches can be added to."""
        layer: Any = self
        if layer.weight_scale is None:
            return weight
        return dequantize(weight, layer.weight_scale, torch.float32)

    def set_weight(
        self,
        weight: torch.Tensor,
        inplace_update: bool = False,
        seed: int | None = None,
        return_weight: bool = False,
    ) -> torch.Tensor | None:
        """Store a wide weight in the layer's format.

        Args:
            weight: As `convert_weight` gave it, changed.
            inplace_update: Write into the parameter's memory.
            seed: Round by chance with it.
            return_weight: Only compute, and give what would be stored.
        """
        layer: Any = self
        stored = layer.weight.dtype
        if layer.weight_scale is None:
            result = comfy.float.stochastic_rounding(weight, stored, seed or 0)
        else:
            result = quantize(weight, layer.weight_scale, stored, seed)
        if return_weight:
            return result
        if inplace_update:
            layer.weight.data.copy_(result)
        else:
            layer.weight = torch.nn.Parameter(result, requires_grad=False)
        return None

"""Weights stored in eight bits with a scale: ``weight = stored * scale``."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch

import comfy.float
from comfy.float import FLOAT8_TYPES as FLOAT8_TYPES

_FORMATS = {"float8_e4m3fn": torch.float8_e4m3fn, "float8_e5m2": torch.float8_e5m2}


_LAYOUTS = {
    torch.float8_e4m3fn: "TensorCoreFP8E4M3Layout",
    torch.float8_e5m2: "TensorCoreFP8E5M2Layout",
}
"""What packs call the formats."""


class UnsupportedQuantization(ValueError, KeyError):
    """A layer is stored in a format that these layers cannot read; a KeyError, as packs expect."""

    # KeyError's own would put the text in quotation marks.
    __str__ = Exception.__str__


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


@dataclass(frozen=True)
class QuantParams:
    """What a stored weight needs to be widened.

    Attributes:
        scale: See `dequantize`.
        orig_dtype: Of the widened weight.
        orig_shape: Of the widened weight.
    """

    scale: torch.Tensor | None
    orig_dtype: torch.dtype
    orig_shape: tuple[int, ...]


class QuantizedTensor(torch.Tensor):
    """A stored weight that knows its scale.

    In operations it is the eight-bit tensor that it was made of, and shares its memory; results,
    moved and cast ones too, are plain tensors. It may be a module's parameter.

    Attributes:
        params: What `dequantize` needs.
        layout_cls: Name of its format.
    """

    params: QuantParams
    layout_cls: str

    # Both are how torch itself makes parameters of tensors of other classes.
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]
    _is_param = True

    @staticmethod
    def __new__(
        cls: type[QuantizedTensor], qdata: torch.Tensor, layout_cls: str, params: QuantParams
    ) -> QuantizedTensor:
        """Take a stored tensor for what it is.

        Args:
            qdata: Eight-bit floats, any shape.
            layout_cls: Name of the format.
            params: How it is widened.
        """
        self: QuantizedTensor = torch.Tensor._make_subclass(cls, qdata, False)
        self.params, self.layout_cls = params, layout_cls
        return self

    @property
    def _qdata(self) -> torch.Tensor:
        """The plain tensor; packs read it and the next two under these names."""
        return self.detach()

    @property
    def _params(self) -> QuantParams:
        return self.params

    @property
    def _layout_cls(self) -> str:
        return self.layout_cls

    def dequantize(self) -> torch.Tensor:
        """Widen it; see the function of this name."""
        return dequantize(self.detach(), self.params.scale, self.params.orig_dtype)

    def __deepcopy__(self, memo: dict[int, Any]) -> QuantizedTensor:
        params = copy.deepcopy(self.params, memo)
        made = type(self)(self.detach().clone(), self.layout_cls, params)
        memo[id(self)] = made
        return made


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
        self,
        state_dict: MutableMapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        *args: Any,
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
                # A copy would widen the weight without its scale.
                local_metadata = {**local_metadata, "assign_to_params_buffers": True}
        super()._load_from_state_dict(  # type: ignore[misc]
            state_dict, prefix, local_metadata, *args
        )
        self._know_scale()

    def _know_scale(self) -> None:
        """Make the weight a `QuantizedTensor`; one that is in its file stays there as it is."""
        layer: Any = self
        layout = _LAYOUTS.get(layer.weight.dtype)
        if layer.weight_scale is None or layout is None:
            return
        if type(layer.weight) is not torch.nn.Parameter or layer.weight.is_meta:
            return
        scale = layer.weight_scale.detach()
        shape = tuple(layer.weight.shape)
        params = QuantParams(scale, self.default_compute_dtype, shape)
        layer.weight = QuantizedTensor(layer.weight.detach(), layout, params)

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

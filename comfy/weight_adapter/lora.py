"""LoRA and LoCon: a change of low rank."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from comfy.weight_adapter.base import DenseAdapter, Function
from comfy.weight_adapter.parts import (
    Matrix,
    Place,
    can_grow,
    flat,
    identity,
    pad_to,
    product_shape,
)

# Up, down and middle as the trainers write them behind a module's name.
_FORMS: tuple[tuple[str, str, str | None], ...] = (
    (".lora_up.weight", ".lora_down.weight", ".lora_mid.weight"),
    ("_lora.up.weight", "_lora.down.weight", None),
    (".lora_B.weight", ".lora_A.weight", None),
    (".lora_B.default.weight", ".lora_A.default.weight", None),
    (".lora.up.weight", ".lora.down.weight", None),
    (".lora_linear_layer.up.weight", ".lora_linear_layer.down.weight", None),
    (".lora_B", ".lora_A", None),
)


class LoRAAdapter(DenseAdapter):
    """``alpha / rank * up @ down`` (arXiv 2106.09685), for convolutions on flattened kernels.

    `weights` are (up, down, alpha, mid, dora_scale, reshape): up (out, rank, 1...), down (rank, in,
    *kernel); with a middle (rank, rank, *kernel), down is pointwise; reshape is the shape to which
    the weight grows first, or None.
    """

    name = "lora"

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, torch.Tensor],
        alpha: float | None,
        dora_scale: torch.Tensor | None,
        loaded_keys: set[str] | None = None,
    ) -> LoRAAdapter | None:
        """Look for each way of naming; see the base class."""
        loaded_keys = set() if loaded_keys is None else loaded_keys
        for up, down, mid in _FORMS:
            if x + up not in lora or x + down not in lora:
                continue
            loaded_keys.update((x + up, x + down))
            middle = None if mid is None else lora.get(x + mid)
            if middle is not None:
                loaded_keys.add(f"{x}{mid}")
            grown = lora.get(f"{x}.reshape_weight")
            if grown is not None:
                loaded_keys.add(f"{x}.reshape_weight")
            shape = None if grown is None else [int(size) for size in grown.flatten().tolist()]
            parts = (lora[x + up], lora[x + down], alpha, middle, dora_scale, shape)
            return cls(loaded_keys, parts)
        return None

    @property
    def dora_scale(self) -> torch.Tensor | None:
        """Magnitudes, or None."""
        scale: torch.Tensor | None = self.weights[4]
        return scale

    @property
    def factor(self) -> float:
        """Alpha / rank; 1 without an alpha."""
        alpha = self.weights[2]
        return 1.0 if alpha is None else alpha / self.weights[1].shape[0]

    def _factors(self, place: Place) -> tuple[torch.Tensor, torch.Tensor]:
        """Two matrices (out, rank) and (rank, in * kernel)."""
        up, down, _, middle, _, _ = self.weights
        low = place(down).flatten(1)
        if middle is not None:
            low = torch.einsum("ab...,bi->ai...", place(middle), low).flatten(1)
        return place(up).flatten(1), low

    def shape(self, weight: torch.Tensor) -> Matrix | None:
        """Of up times down, or times middle and down."""
        up, down, _, middle, _, _ = self.weights
        low: Matrix | None = flat(down)
        if middle is not None:
            joins = middle.dim() > 1 and middle.shape[1] == flat(down)[0]
            columns = flat(down)[1] * math.prod(middle.shape[2:])
            low = (middle.shape[0], columns) if joins else None
        return product_shape(flat(up), low)

    def change(self, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """(out, in * kernel)."""
        up, low = self._factors(place)
        return up @ low

    def misfit(self, weight: torch.Tensor) -> str | None:
        """Compare with the weight as it is after growing."""
        shape = self.weights[5]
        if shape is None:
            return super().misfit(weight)
        if not can_grow(weight, shape):
            return f"a weight of shape {tuple(shape)}"
        return super().misfit(weight.new_empty(shape, device="meta"))

    def calculate_weight(self, weight: torch.Tensor, *args, **kwargs) -> torch.Tensor:
        """Grow the weight first, if the file says so."""
        shape = self.weights[5]
        if shape is not None and tuple(shape) != tuple(weight.shape):
            weight = pad_to(weight, shape)
        return super().calculate_weight(weight, *args, **kwargs)

    def _add(
        self, weight: torch.Tensor, scale: float, function: Function, place: Place
    ) -> torch.Tensor:
        """Multiply straight into the weight where nothing stands between: no temporary of its size."""
        if function is not identity or not weight.is_contiguous():
            return super()._add(weight, scale, function, place)
        up, low = self._factors(place)
        if up.dtype != weight.dtype:
            return weight.add_((up @ low).reshape(weight.shape), alpha=scale)
        weight.view(weight.shape[0], -1).addmm_(up, low, alpha=scale)
        return weight

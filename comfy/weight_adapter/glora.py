"""GLoRA: a change of low rank, and one that the weight itself passes through."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from comfy.weight_adapter.base import DenseAdapter
from comfy.weight_adapter.parts import Matrix, Place, flat


class GLoRAAdapter(DenseAdapter):
    """``alpha / rank * (W @ A + B)`` (arXiv 2306.07967), A (in, in) and B (out, in) of low rank.

    `weights` are (a1, a2, b1, b2, alpha, dora_scale). Some trainers write A = a1 @ a2, others A =
    a2 @ a1, and B likewise: the shapes tell, and where both would do, the first is meant. For
    convolutions A mixes input channels, or all inputs of the flattened kernel.
    """

    name = "glora"

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, torch.Tensor],
        alpha: float | None,
        dora_scale: torch.Tensor | None,
        loaded_keys: set[str] | None = None,
    ) -> GLoRAAdapter | None:
        """See the base class."""
        loaded_keys = set() if loaded_keys is None else loaded_keys
        names = [f"{x}.{part}.weight" for part in ("a1", "a2", "b1", "b2")]
        if any(name not in lora for name in names):
            return None
        loaded_keys.update(names)
        return cls(loaded_keys, (*(lora[name] for name in names), alpha, dora_scale))

    @property
    def factor(self) -> float:
        """Alpha / rank, the rank being the smallest side of the parts; 1 without an alpha."""
        *parts, alpha, _ = self.weights
        rank = min(min(part.flatten(1).shape) for part in parts)
        return 1.0 if alpha is None else alpha / rank

    def shape(self, weight: torch.Tensor) -> Matrix | None:
        """The weight's own, if both pairs have an order of multiplication that goes with it."""
        if weight.dim() < 2 or any(part.dim() < 2 for part in self.weights[:4]):
            return None
        a1, a2, b1, b2 = (part.flatten(1) for part in self.weights[:4])
        has_b = _ordered(b1, b2, *flat(weight)) is not None
        inner = (weight.shape[1], flat(weight)[1])
        has_a = any(_ordered(a1, a2, inputs, inputs) is not None for inputs in inner)
        return flat(weight) if has_a and has_b else None

    def change(self, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """(out, in * kernel); the parts must fit."""
        a1, a2, b1, b2 = (place(part).flatten(1) for part in self.weights[:4])
        inputs = weight
        through = _ordered(a1, a2, weight.shape[1], weight.shape[1])
        if through is None:
            inputs = weight.flatten(1)
            through = _ordered(a1, a2, inputs.shape[1], inputs.shape[1])
        beside = _ordered(b1, b2, *flat(weight))
        if through is None or beside is None:
            raise ValueError(f"the parts do not fit a weight of shape {tuple(weight.shape)}")
        change = beside[0] @ beside[1]
        mixed = torch.einsum("oi...,ir,rj->oj...", inputs.to(change.dtype), *through)
        return change.add_(mixed.flatten(1))


def _ordered(
    first: torch.Tensor, second: torch.Tensor, outputs: int, inputs: int
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The two in the order of multiplication that gives (outputs, inputs), if one does."""
    for left, right in ((first, second), (second, first)):
        if (left.shape[0], right.shape[1]) == (outputs, inputs) and left.shape[1] == right.shape[0]:
            return left, right
    return None

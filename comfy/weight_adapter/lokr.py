"""LoKr: a Kronecker product of two small matrices, each of which may be factored."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from comfy.weight_adapter.base import DenseAdapter
from comfy.weight_adapter.parts import Matrix, Place, flat, product_shape, tucker, tucker_shape

_PARTS = ("lokr_w1", "lokr_w2", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b", "lokr_t2")


class LoKrAdapter(DenseAdapter):
    """``alpha / rank * kron(w1, w2)`` (arXiv 2309.14859), w2 with the kernel of a convolution.

    `weights` are (w1, w2, alpha, w1_a, w1_b, w2_a, w2_b, t2, dora_scale); where w1 or w2 is None it
    is the product of its factors, w2 the Tucker decomposition if there is a core t2.
    """

    name = "lokr"

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, torch.Tensor],
        alpha: float | None,
        dora_scale: torch.Tensor | None,
        loaded_keys: set[str] | None = None,
    ) -> LoKrAdapter | None:
        """See the base class."""
        loaded_keys = set() if loaded_keys is None else loaded_keys
        found = {part: lora[f"{x}.{part}"] for part in _PARTS if f"{x}.{part}" in lora}
        for side in ("lokr_w1", "lokr_w2"):
            if side not in found and not {f"{side}_a", f"{side}_b"} <= found.keys():
                return None
        loaded_keys.update(f"{x}.{part}" for part in found)
        w1, w2, *factors = (found.get(part) for part in _PARTS)
        return cls(loaded_keys, (w1, w2, alpha, *factors, dora_scale))

    @property
    def factor(self) -> float:
        """Alpha / inner rank of a factored side, w2's before w1's; 1 if neither is factored."""
        w1, w2, alpha, _, w1_b, _, w2_b, _, _ = self.weights
        if alpha is None or (w1 is not None and w2 is not None):
            return 1.0
        return alpha / (w2_b if w2 is None else w1_b).shape[0]

    def shape(self, weight: torch.Tensor) -> Matrix | None:
        """Rows and columns of both sides, multiplied."""
        w1, w2, _, w1_a, w1_b, w2_a, w2_b, t2, _ = self.weights
        left = flat(w1) if w1 is not None else product_shape(flat(w1_a), flat(w1_b))
        if w2 is not None:
            right: Matrix | None = flat(w2)
        elif t2 is not None:
            right = tucker_shape(t2, w2_a, w2_b)
        else:
            right = product_shape(flat(w2_a), flat(w2_b))
        if left is None or right is None:
            return None
        return left[0] * right[0], left[1] * right[1]

    def change(self, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """(out, in * kernel): the kernel counts fastest in w2, so flattening it changes nothing."""
        w1, w2, _, w1_a, w1_b, w2_a, w2_b, t2, _ = self.weights
        left = place(w1).flatten(1) if w1 is not None else place(w1_a) @ place(w1_b).flatten(1)
        if w2 is not None:
            right = place(w2)
        elif t2 is not None:
            right = tucker(place(t2), place(w2_a), place(w2_b))
        else:
            right = place(w2_a) @ place(w2_b).flatten(1)
        return torch.kron(left, right.flatten(1))

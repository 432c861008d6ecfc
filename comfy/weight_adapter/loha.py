"""LoHa: the elementwise product of two changes of low rank."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from comfy.weight_adapter.base import DenseAdapter
from comfy.weight_adapter.parts import Matrix, Place, flat, product_shape, tucker, tucker_shape


class LoHaAdapter(DenseAdapter):
    """``alpha / rank * (w1_a @ w1_b) * (w2_a @ w2_b)`` (arXiv 2108.06098).

    `weights` are (w1_a, w1_b, alpha, w2_a, w2_b, t1, t2, dora_scale). With the cores t1 and t2, of
    shape (rank, rank, *kernel), each factor is a Tucker decomposition: a (rank, out), b (rank, in).
    """

    name = "loha"

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, torch.Tensor],
        alpha: float | None,
        dora_scale: torch.Tensor | None,
        loaded_keys: set[str] | None = None,
    ) -> LoHaAdapter | None:
        """See the base class."""
        loaded_keys = set() if loaded_keys is None else loaded_keys
        names = [f"{x}.hada_w{n}_{side}" for n in (1, 2) for side in "ab"]
        if any(name not in lora for name in names):
            return None
        w1_a, w1_b, w2_a, w2_b = (lora[name] for name in names)
        cores = [f"{x}.hada_t{n}" for n in (1, 2)]
        t1, t2 = (lora.get(name) for name in cores)
        loaded_keys.update(names, (name for name in cores if name in lora))
        return cls(loaded_keys, (w1_a, w1_b, alpha, w2_a, w2_b, t1, t2, dora_scale))

    @property
    def factor(self) -> float:
        """Alpha / rank; 1 without an alpha."""
        alpha = self.weights[2]
        return 1.0 if alpha is None else alpha / self.weights[1].shape[0]

    def shape(self, weight: torch.Tensor) -> Matrix | None:
        """Of both factors, which must be the same."""
        w1_a, w1_b, _, w2_a, w2_b, t1, t2, _ = self.weights
        first, second = _shape(w1_a, w1_b, t1), _shape(w2_a, w2_b, t2)
        return first if first == second else None

    def change(self, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """(out, in * kernel), or (out, in, *kernel) with cores."""
        w1_a, w1_b, _, w2_a, w2_b, t1, t2, _ = self.weights
        first = _product(w1_a, w1_b, t1, place)
        return first.mul_(_product(w2_a, w2_b, t2, place))


def _shape(left: torch.Tensor, right: torch.Tensor, core: torch.Tensor | None) -> Matrix | None:
    if core is None:
        return product_shape(flat(left), flat(right))
    return tucker_shape(core, left, right)


def _product(
    left: torch.Tensor, right: torch.Tensor, core: torch.Tensor | None, place: Place
) -> torch.Tensor:
    if core is None:
        return place(left) @ place(right).flatten(1)
    return tucker(place(core), place(left), place(right))

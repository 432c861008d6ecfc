"""OFT: the outputs of a weight turned by orthogonal blocks."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from comfy.weight_adapter.base import DenseAdapter
from comfy.weight_adapter.parts import Matrix, Place, flat


class OFTAdapter(DenseAdapter):
    """``rescale * R^T W - W`` (arXiv 2306.07280), R one block on the diagonal beside the other.

    `weights` are (blocks, rescale, alpha, dora_scale): blocks (number, size, size), rescale one
    factor for each output or None. Here alpha is no scale: the trainers' limit for the norm of the
    generators is alpha times the number of outputs.
    """

    name = "oft"
    block_axes = 3

    @classmethod
    def load(
        cls,
        x: str,
        lora: Mapping[str, torch.Tensor],
        alpha: float | None,
        dora_scale: torch.Tensor | None,
        loaded_keys: set[str] | None = None,
    ) -> OFTAdapter | None:
        """See the base class; the number of axes tells OFT from BOFT."""
        loaded_keys = set() if loaded_keys is None else loaded_keys
        blocks = lora.get(f"{x}.oft_blocks")
        if blocks is None or blocks.dim() != cls.block_axes or not blocks.numel():
            return None
        rescale = lora.get(f"{x}.rescale")
        loaded_keys.add(f"{x}.oft_blocks")
        if rescale is not None:
            loaded_keys.add(f"{x}.rescale")
        return cls(loaded_keys, (blocks, rescale, alpha, dora_scale))

    @property
    def factor(self) -> float:
        """A rotation has no scale."""
        return 1.0

    def shape(self, weight: torch.Tensor) -> Matrix | None:
        """The weight's own, if the blocks divide its outputs."""
        blocks, rescale, _, _ = self.weights
        number, size, width = blocks.shape[-3:]
        outputs = flat(weight)[0]
        if size != width or number * size != outputs:
            return None
        return flat(weight) if rescale is None or rescale.numel() == outputs else None

    def generators(self, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """The skew-symmetric matrices Q, their joint norm limited."""
        blocks, _, alpha, _ = self.weights
        raw = place(blocks).float()
        skew = raw - raw.transpose(-1, -2)
        if alpha:
            limit = alpha * weight.shape[0]
            skew = skew * (limit / (torch.linalg.vector_norm(skew) + 1e-8)).clamp(max=1.0)
        return skew

    def rotate(self, rows: torch.Tensor, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """Turn `rows`, (out, in * kernel)."""
        skew = self.generators(weight, place)
        # (I + Q)^-1 (I - Q) is the transpose of the Cayley transform (I + Q) (I - Q)^-1.
        blocks = rows.reshape(skew.shape[0], skew.shape[1], -1)
        return (cayley(-skew) @ blocks).reshape(rows.shape)

    def change(self, weight: torch.Tensor, place: Place) -> torch.Tensor:
        """(out, in * kernel)."""
        rows = weight.flatten(1).float()
        turned = self.rotate(rows, weight, place)
        if self.weights[1] is not None:
            turned.mul_(place(self.weights[1]).reshape(-1, 1))
        return turned.sub_(rows)


def cayley(skew: torch.Tensor) -> torch.Tensor:
    """Orthogonal matrices ``(I + Q) (I - Q)^-1`` from skew-symmetric ones, (..., size, size)."""
    unit = torch.eye(skew.shape[-1], device=skew.device, dtype=skew.dtype)
    # The two factors commute, so that one solution of a linear system is the product.
    return torch.linalg.solve(unit - skew, unit + skew)

"""Values that a network is conditioned on, and how they join in one batch.

`BaseModel.extra_conds` names them; the sampling loop asks which of them fit into one forward pass.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import torch

import comfy.utils

MAX_TOKEN_REPEATS = 4
"""More repeats than this cost more attention than a forward pass of their own."""

C = TypeVar("C", bound="CONDRegular")


def _moved(value: Any, device: Any) -> Any:
    if isinstance(value, list):
        return [_moved(each, device) for each in value]
    return value.to(device) if isinstance(value, torch.Tensor) else value


class CONDRegular:
    """A tensor, one row per picture; joins others of its shape.

    Attributes:
        cond: [rows, ...]; rows are repeated or cut to the batch when used.
    """

    def __init__(self, cond: Any) -> None:
        self.cond = cond

    def _copy_with(self: C, cond: Any) -> C:
        return self.__class__(cond)

    def to(self: C, device: Any) -> C:
        """This value on a device."""
        return self._copy_with(_moved(self.cond, device))

    def process_cond(self: C, batch_size: int, **kwargs: Any) -> C:
        """This value for a batch of `batch_size` pictures.

        Args:
            batch_size: Rows wanted.
            kwargs: `area`, what of the latent is computed: lengths, then offsets, one each per
                axis from the third on; None is all of it.
        """
        return self._copy_with(comfy.utils.repeat_to_batch_size(self.cond, batch_size))

    def can_concat(self, other: CONDRegular) -> bool:
        """Whether both may go through the network in one batch."""
        return self.cond.shape == other.cond.shape and self.cond.device == other.cond.device

    def concat(self, others: list[Any]) -> Any:
        """The value of this and `others` for one batch, in this order."""
        return torch.cat([self.cond, *(other.cond for other in others)])

    def size(self) -> list[int]:
        """The shape that counts for the memory estimate."""
        return list(self.cond.shape)


class CONDNoiseShape(CONDRegular):
    """A tensor laid out as the latent is: where only an area is computed, so is it."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> CONDNoiseShape:
        """As in `CONDRegular`, cut to `area`."""
        cond, area = self.cond, kwargs.get("area")
        if area is not None:
            dims = len(area) // 2
            for axis in range(dims):
                cond = cond.narrow(axis + 2, area[dims + axis], area[axis])
        return self._copy_with(comfy.utils.repeat_to_batch_size(cond, batch_size))


class CONDCrossAttn(CONDRegular):
    """Tokens [rows, tokens, width] for cross attention.

    Attention over keys repeated a whole number of times is the same attention, so prompts of
    different lengths join at the least common multiple of their lengths, if it is near.
    """

    def can_concat(self, other: CONDRegular) -> bool:
        """Whether both have the same rows and width and a near common length."""
        mine, its = self.cond.shape, other.cond.shape
        if self.cond.device != other.cond.device:
            return False
        if mine == its:
            return True
        if mine[0] != its[0] or mine[2:] != its[2:]:
            return False
        return math.lcm(mine[1], its[1]) <= MAX_TOKEN_REPEATS * min(mine[1], its[1])

    def concat(self, others: list[Any]) -> torch.Tensor:
        """All rows, each repeated along its tokens to the common length."""
        conds = [self.cond, *(other.cond for other in others)]
        length = math.lcm(*(cond.shape[1] for cond in conds))
        return torch.cat([cond.repeat(1, length // cond.shape[1], 1) for cond in conds])


class CONDConstant(CONDRegular):
    """A value that is the same for the whole batch, of any type."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> CONDConstant:
        """Itself: it has no rows."""
        return self._copy_with(self.cond)

    def can_concat(self, other: CONDRegular) -> bool:
        """Whether the values are equal."""
        if isinstance(self.cond, torch.Tensor) and isinstance(other.cond, torch.Tensor):
            return self.cond.shape == other.cond.shape and torch.equal(self.cond, other.cond)
        return bool(self.cond == other.cond)

    def concat(self, others: list[Any]) -> Any:
        """The one value."""
        return self.cond

    def size(self) -> list[int]:
        """One element: it adds nothing to the estimate."""
        return [1]


class CONDList(CONDRegular):
    """Several tensors, such as reference pictures, each with rows as in `CONDRegular`."""

    def process_cond(self, batch_size: int, **kwargs: Any) -> CONDList:
        """Each tensor for the batch."""
        return self._copy_with(
            [comfy.utils.repeat_to_batch_size(cond, batch_size) for cond in self.cond]
        )

    def can_concat(self, other: CONDRegular) -> bool:
        """Whether there are as many, of the same shapes, in the same order."""
        return len(self.cond) == len(other.cond) and all(
            mine.shape == its.shape and mine.device == its.device
            for mine, its in zip(self.cond, other.cond, strict=True)
        )

    def concat(self, others: list[Any]) -> list[torch.Tensor]:
        """One tensor for each place in the lists."""
        lists = [self.cond, *(other.cond for other in others)]
        return [torch.cat(tensors) for tensors in zip(*lists, strict=True)]

    def size(self) -> list[int]:
        """All elements as one shape."""
        return [1, 1, sum(cond.numel() for cond in self.cond)]

"""The weights of a model with its patches applied, each computed when it is written and dropped.

Nothing is loaded for this: an unpatched weight goes from its file to the new one, a patched one is
read, computed and written part by part. A patch that changes each element by itself, which is what
merging is, needs only some rows of a weight at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from comfy.dtypes import FLOAT8_TYPES
from comfy.loading import DeferredTensor, FileTensor, default_loader, source_of
from comfy.loading.sources import is_mapped
from comfy.patcher_weights import as_it_is, get_key_weight, narrow, wide_copy
from comfy.weight_adapter import LoRAAdapter, WeightAdapterBase
from comfy.weight_patches import unpacked

PART_BYTES = 16 * 1024 * 1024
_WIDE_BYTES = 4  # patches are added up in float32

Patch = tuple[Any, ...]


def merged_weights(patcher: Any, prefix: str = "") -> dict[str, torch.Tensor]:
    """Promise a model's weights as a patcher wants them; reads nothing, loads nothing.

    Args:
        patcher: Loaded or not; hooks in force do not count.
        prefix: Only names that begin so; it is removed.

    Returns:
        Name to `DeferredTensor`, in the dtype of the weight's file, or in the eight bits in which
        the user wanted the model to be held.
    """
    found: dict[str, torch.Tensor] = {}
    for key, ((weight, widen), *patches) in patcher.get_key_patches(prefix or None).items():
        found[key.removeprefix(prefix)] = _Merge.of(patcher, key, weight, widen, patches).promise()
    return found


def merged_weight(patcher: Any, key: str, group: Sequence[Any]) -> torch.Tensor:
    """Compute one patched weight without rounding it.

    Args:
        patcher: Of the model.
        key: The weight's name.
        group: As `ModelPatcher.get_key_patches` gives it.

    Returns:
        float32, on the patcher's load device; nobody else's.
    """
    (weight, widen), *patches = group
    return _Merge.of(patcher, key, weight, widen, patches).wide()


def unmapped(tensor: torch.Tensor) -> torch.Tensor:
    """The same tensor, read instead of mapped: pages once touched stay in a process's memory."""
    source = source_of(tensor) if is_mapped(tensor) else None
    return tensor if source is None else FileTensor.of(source, default_loader().mover)


@dataclass(frozen=True)
class _Merge:
    """One weight on its way into a file.

    Attributes:
        patcher: Whose.
        key: Its name.
        stored: As it is in its file, or at home.
        dtype: In which it is saved.
        widen: Of its layer; see `comfy.patcher_weights.get_key_weight`.
        patches: In order.
    """

    patcher: Any
    key: str
    stored: torch.Tensor
    dtype: torch.dtype
    widen: Any
    patches: Sequence[Patch]

    @classmethod
    def of(
        cls, patcher: Any, key: str, weight: torch.Tensor, widen: Any, patches: Sequence[Patch]
    ) -> _Merge:
        dtype = weight.dtype
        wanted = patcher.residency.weight_dtype
        # Only a user chooses eight bits; what the program chooses is for running, not for keeping.
        if wanted in FLOAT8_TYPES and dtype.is_floating_point:
            held, _, _ = get_key_weight(patcher.model, key)
            dtype = wanted if isinstance(held, torch.nn.Parameter) else dtype
        read = [_unmapped_patch(one) for one in patches]
        return cls(patcher, key, unmapped(weight.detach()), dtype, widen, read)

    def promise(self) -> torch.Tensor:
        """The weight as it will be, or as it is if a patch gives it another shape."""
        if any(_may_grow(one[1]) for one in self.patches):
            return self._whole()
        like = torch.empty(self.stored.shape, dtype=self.dtype, device="meta")
        return DeferredTensor(like, self._parts)

    def wide(self) -> torch.Tensor:
        """Patched, not rounded."""
        stored = self.stored
        if stored.dtype != self.dtype:
            stored = stored.to(self.dtype)
        with torch.no_grad():
            wide = wide_copy(stored, self.widen, self.patcher.load_device)
            patched: torch.Tensor = self.patcher.calculate_weight(self.patches, wide, self.key)
        return patched

    def _parts(self) -> Iterator[torch.Tensor]:
        if not self.patches:
            yield self.stored if self.stored.dtype == self.dtype else self.stored.to(self.dtype)
        elif not self._is_by_element():
            yield self._whole()
        else:
            height = self.stored.shape[0]
            row_bytes = _WIDE_BYTES * (self.stored.numel() // max(height, 1))
            step = max(1, PART_BYTES // max(row_bytes, 1))
            for begin in range(0, max(height, 1), step):
                yield self._rows(slice(begin, begin + step))

    def _whole(self) -> torch.Tensor:
        _, setter, _ = get_key_weight(self.patcher.model, self.key)
        return narrow(self.wide(), self.key, self.dtype, setter)

    def _is_by_element(self) -> bool:
        """Whether rows can be computed one after the other, and rounded so.

        Eight bits are rounded by a chance that depends on an element's place in the whole weight.
        """
        plain = self.widen is as_it_is and self.dtype not in FLOAT8_TYPES
        shape = self.stored.shape
        return plain and len(shape) > 0 and all(_is_by_element(one, shape) for one in self.patches)

    def _rows(self, rows: slice) -> torch.Tensor:
        with torch.no_grad():
            wide = wide_copy(self.stored[rows], None, self.patcher.load_device)
            patches = [_rows_of(one, rows) for one in self.patches]
            wide = self.patcher.calculate_weight(patches, wide, self.key)
            return narrow(wide, self.key, self.dtype, None)


def _is_by_element(patch: Patch, shape: torch.Size) -> bool:
    _, value, _, offset, function = patch
    if offset is not None or function is not None:
        return False
    if isinstance(value, list):
        (weight, widen), *inner = value
        is_like = widen is as_it_is and weight.shape == shape
        return is_like and all(_is_by_element(one, shape) for one in inner)
    if isinstance(value, WeightAdapterBase):
        return False
    kind, contents = unpacked(value)
    if kind not in ("diff", "set") or len(contents) != 1:
        return False
    return contents[0] is None or contents[0].shape == shape


def _rows_of(patch: Patch, rows: slice) -> Patch:
    """A patch `_is_by_element`, for some rows."""
    strength, value, *more = patch
    if isinstance(value, list):
        (weight, widen), *inner = value
        value = [(weight[rows], widen), *(_rows_of(one, rows) for one in inner)]
    else:
        kind, (tensor,) = unpacked(value)
        value = (kind, (None if tensor is None else tensor[rows],))
    return (strength, value, *more)


def _unmapped_patch(patch: Patch) -> Patch:
    """The same patch; another model's weights in it are read instead of mapped."""
    strength, value, *more = patch
    if isinstance(value, list):
        (weight, widen), *inner = value
        value = [(unmapped(weight.detach()), widen), *(_unmapped_patch(one) for one in inner)]
    return (strength, value, *more)


def _may_grow(value: Any) -> bool:
    """Whether a patch may give a weight another shape."""
    if isinstance(value, WeightAdapterBase):
        return isinstance(value, LoRAAdapter) and value.weights[5] is not None
    return isinstance(value, tuple) and len(unpacked(value)[1]) > 1

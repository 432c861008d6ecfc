"""Ranges of weight files that are tensors: what is described, before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch

from comfy.loading.errors import NotASlice
from comfy.loading.weight_file import WeightFile


@dataclass(frozen=True, slots=True)
class WeightSlice:
    """A range of a weight file that is one tensor.

    Attributes:
        file: Where the bytes are.
        offset: Absolute position of the first byte.
        nbytes: Length in bytes; equals the size of a contiguous tensor of `dtype` and `shape`.
        dtype: What torch calls the elements; ``uint8`` for encodings that torch lacks.
        shape: Of the torch tensor (a packed sub-byte dtype halves the last dimension).
        encoding: The name of the dtype in the file's header, for example "BF16".
        name: Key of the tensor in its file, for messages.
    """

    file: WeightFile
    offset: int
    nbytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    encoding: str
    name: str = ""

    @property
    def end(self) -> int:
        """Absolute position just behind the last byte."""
        return self.offset + self.nbytes

    def narrow(self, start: int, length: int) -> WeightSlice:
        """Rows `start` to `start + length` of the first axis, as a slice.

        Raises:
            NotASlice: If the tensor has no axis, or the rows are not inside it.
        """
        if not self.shape or start < 0 or length < 0 or start + length > self.shape[0]:
            raise NotASlice(
                f"rows {start} to {start + length} are not inside shape {self.shape}.",
                path=self.file.path,
                tensor=self.name,
            )
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        return replace(
            self,
            offset=self.offset + start * row,
            nbytes=length * row,
            shape=(length, *self.shape[1:]),
        )

    def view(self, shape: tuple[int, ...]) -> WeightSlice:
        """The same bytes under another shape.

        Raises:
            NotASlice: If the number of elements differs.
        """
        if math.prod(shape) != math.prod(self.shape):
            raise NotASlice(
                f"shape {self.shape} cannot be viewed as {shape}.",
                path=self.file.path,
                tensor=self.name,
            )
        return replace(self, shape=tuple(shape))

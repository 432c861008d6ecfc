"""Which bytes are read together: windows of a file, in file order, neighbours merged.

A tensor larger than a window is cut at element boundaries; many small ones share one window.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from comfy.loading.page_cache import DIRECT_BLOCK_BYTES
from comfy.loading.pages import round_down
from comfy.loading.weight_file import WeightFile
from comfy.loading.weight_slice import WeightSlice

# Reading this much for nothing costs less than one more request.
MAX_GAP_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of one tensor inside a window.

    Attributes:
        index: Which of the wanted slices.
        start: First byte inside the tensor.
        position: First byte inside the window.
        nbytes: Length.
    """

    index: int
    start: int
    position: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Window:
    """A range of a file that is read with one request.

    Attributes:
        file: Which.
        offset: Absolute start, in bytes.
        nbytes: Length.
        pieces: What of it goes where; disjoint unless two tensors share bytes.
    """

    file: WeightFile
    offset: int
    nbytes: int
    pieces: tuple[Piece, ...]


def plan_windows(slices: Sequence[WeightSlice], limit: int) -> Iterator[Window]:
    """Cut wanted slices into windows.

    Args:
        slices: All of one file, in ascending order of offset; empty ones are left out.
        limit: Most bytes of a window, counted from the block boundary below its start.

    Yields:
        Windows in file order; every byte of every slice is in exactly one piece.
    """
    window = _Builder(limit)
    for index, wanted in enumerate(slices):
        start = 0
        while start < wanted.nbytes:
            room = window.room(wanted, start)
            if room == 0:
                yield window.build(wanted.file)
                continue
            window.add(index, wanted, start, room)
            start += room
    if window.pieces:
        yield window.build(slices[0].file)


class _Builder:
    """Collects the pieces of one window."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._base = 0
        self._end = 0
        self.pieces: list[tuple[int, int, int, int]] = []

    def room(self, wanted: WeightSlice, start: int) -> int:
        """How many bytes of `wanted` from `start` this window takes; 0 if it must end first."""
        offset = wanted.offset + start
        left = wanted.nbytes - start
        if not self.pieces:
            ceiling = round_down(offset, DIRECT_BLOCK_BYTES) + self._limit
            return min(left, _whole_items(wanted, start, ceiling - offset))
        if offset < self._base or offset - self._end > MAX_GAP_BYTES:
            return 0
        ceiling = round_down(self._base, DIRECT_BLOCK_BYTES) + self._limit
        if offset + left <= ceiling:
            return left
        # A large tensor starts a window of its own: fewer pieces, and whole blocks.
        return 0

    def add(self, index: int, wanted: WeightSlice, start: int, nbytes: int) -> None:
        offset = wanted.offset + start
        if not self.pieces:
            self._base = self._end = offset
        self.pieces.append((index, start, offset, nbytes))
        self._end = max(self._end, offset + nbytes)

    def build(self, file: WeightFile) -> Window:
        base = self._base
        pieces = tuple(
            Piece(index, start, offset - base, nbytes)
            for index, start, offset, nbytes in self.pieces
        )
        window = Window(file, base, self._end - base, pieces)
        self.pieces = []
        return window


def _whole_items(wanted: WeightSlice, start: int, room: int) -> int:
    size = wanted.dtype.itemsize
    return room if start + room >= wanted.nbytes else room // size * size

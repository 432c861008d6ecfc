"""What is wanted of a transfer, how it reads, and the memory that each wanted weight goes to."""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch

from comfy.loading.page_cache import CacheEffect
from comfy.loading.pages import SMALL_BYTES, anonymous, typed
from comfy.loading.weight_slice import WeightSlice
from comfy.loading.windows import Piece


@dataclass(frozen=True, slots=True)
class ReadPolicy:
    """How files are read.

    Attributes:
        threads: Reader threads.
        piece_bytes: Most bytes of one request into host memory.
        direct: Go around the page cache where possible.
        cache: What becomes of the page cache.
    """

    threads: int = 1
    piece_bytes: int = 8 * 1024 * 1024
    direct: bool = False
    cache: CacheEffect = "keep"


# Torch has no copy kernel for packed 4-bit floats, and an exponent alone is a scale, not a weight.
_NEVER_CAST = frozenset(
    dtype
    for dtype in (
        getattr(torch, "float4_e2m1fn_x2", None),
        getattr(torch, "float8_e8m0fnu", None),
    )
    if dtype is not None
)


def is_castable(dtype: torch.dtype) -> bool:
    """Whether a weight of this dtype takes part in casts."""
    return dtype.is_floating_point and dtype not in _NEVER_CAST


def cast_dtype(stored: torch.dtype, wanted: torch.dtype | None) -> torch.dtype:
    """The dtype that a weight gets: casts apply to floating weights only."""
    return stored if wanted is None or not is_castable(stored) else wanted


def cast_bytes(source: WeightSlice, wanted: torch.dtype | None) -> int:
    """Size of a weight at its destination, in bytes."""
    return source.nbytes // source.dtype.itemsize * cast_dtype(source.dtype, wanted).itemsize


@dataclass(frozen=True, slots=True)
class Want:
    """One weight to move.

    Attributes:
        key: The caller's name for it.
        source: Where it is.
        dtype: Of the destination.
        out: A contiguous tensor to fill; made if None.
    """

    key: str
    source: WeightSlice
    dtype: torch.dtype
    out: torch.Tensor | None = None


class Destination:
    """The memory that one wanted weight goes to, and how much of it is still missing."""

    __slots__ = ("flat", "left", "region", "want")

    def __init__(self, want: Want) -> None:
        self.want = want
        self.left = want.source.nbytes
        self.flat: torch.Tensor | None = None
        self.region: memoryview | None = None

    @property
    def casts(self) -> bool:
        """Whether the dtype changes on the way."""
        return self.want.dtype != self.want.source.dtype

    @property
    def nbytes(self) -> int:
        """Of the destination, in bytes."""
        return self.want.source.nbytes // self.want.source.dtype.itemsize * self.want.dtype.itemsize

    @property
    def is_small(self) -> bool:
        """Whether it is a copy of few bytes, in memory of its own."""
        return self.nbytes < SMALL_BYTES and not self.casts and self.want.out is None

    def use_out(self) -> bool:
        """Take the caller's memory if there is some."""
        out = self.want.out
        if out is None:
            return False
        with self.mode():
            flat = out.detach().view(-1)
            self.flat = flat if self.casts else flat.view(torch.uint8)
        return True

    def part(self, piece: Piece) -> torch.Tensor:
        """The destination of one piece: bytes, or elements of the target dtype if it casts."""
        assert self.flat is not None
        if not self.casts:
            return self.flat[piece.start : piece.start + piece.nbytes]
        size = self.want.source.dtype.itemsize
        return self.flat[piece.start // size : (piece.start + piece.nbytes) // size]

    def drop(self) -> None:
        """Let go of the memory; a result that was handed out keeps its own claim."""
        self.flat = self.region = None

    def result(self) -> torch.Tensor:
        """The finished tensor."""
        if self.want.out is not None:
            return self.want.out
        assert self.flat is not None
        with self.mode():
            if self.casts:
                return self.flat.view(self.want.source.shape)
            return typed(self.flat, self.want.dtype, self.want.source.shape)

    def mode(self) -> AbstractContextManager[object]:
        """Make normal tensors, also for a caller who is in inference mode.

        An inference tensor given as `out` may only be written to in inference mode.
        """
        out = self.want.out
        wanted = out is not None and out.is_inference()
        # Entering costs more than copying a small weight does; mostly there is nothing to change.
        if torch.is_inference_mode_enabled() == wanted:
            return contextlib.nullcontext()
        return torch.inference_mode(wanted)


def host_memory(destination: Destination) -> torch.Tensor:
    """Flat memory of a destination's own: bytes, or elements of the target dtype if it casts."""
    nbytes = destination.nbytes
    with destination.mode():
        raw = torch.empty(nbytes, dtype=torch.uint8) if nbytes < SMALL_BYTES else anonymous(nbytes)
        return raw.view(destination.want.dtype) if destination.casts else raw

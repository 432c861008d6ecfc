"""Memory by the page: private anonymous blocks and private file mappings, seen as tensors.

Weights do not come from the heap: a freed heap block of a few MiB often stays in the process
(glibc raises its mapping threshold to 32 MiB after the first large free), and then a load that
hands weights on one by one peaks at twice their size. A block of pages goes back at once.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import sys
from collections.abc import Callable

import torch

PAGE_BYTES = mmap.PAGESIZE
# Below this a weight shares heap pages with others: whole pages would waste more than they return.
SMALL_BYTES = 64 * 1024
_HUGE_PAGE_BYTES = 2 * 1024 * 1024
_MAP_NORESERVE = 0x4000


def round_up(value: int, unit: int) -> int:
    """The smallest multiple of `unit` that is not below `value`."""
    return -(-value // unit) * unit


def round_down(value: int, unit: int) -> int:
    """The largest multiple of `unit` that is not above `value`."""
    return value // unit * unit


def anonymous(nbytes: int, *, huge: bool = False) -> torch.Tensor:
    """Allocate whole pages of private anonymous memory, untouched.

    Args:
        nbytes: Size in bytes; above 0.
        huge: Ask for huge pages: for memory that is used again and again, where direct reads
            are up to twice as fast. Filling fresh ones is not (docs/experiments.md).

    Returns:
        A uint8 tensor of shape (nbytes,), page-aligned; its pages go back to the system when
        the last tensor that views them goes.

    Raises:
        MemoryError: If the system has no more.
    """
    return _as_tensor(_anonymous_map(nbytes, huge), 0, nbytes)


def anonymous_at(lead: int, nbytes: int) -> tuple[torch.Tensor, memoryview]:
    """Allocate memory for bytes that lie `lead` bytes behind a page boundary, as in their file.

    Direct reads of whole blocks can then end in the tensor's own memory.

    Args:
        lead: Distance from the page boundary, in bytes.
        nbytes: Size of the tensor in bytes; above 0.

    Returns:
        A uint8 tensor of shape (nbytes,) whose storage begins with it, and the whole pages
        around it.

    Raises:
        MemoryError: If the system has no more.
    """
    block = _anonymous_map(round_up(lead + nbytes, PAGE_BYTES))
    return _as_tensor(block, lead, nbytes), memoryview(block)


def _as_tensor(block: mmap.mmap, lead: int, nbytes: int) -> torch.Tensor:
    with torch.inference_mode(False):
        return torch.frombuffer(block, dtype=torch.uint8, count=nbytes, offset=lead)


def _anonymous_map(nbytes: int, huge: bool = False) -> mmap.mmap:
    try:
        if sys.platform == "win32":  # pragma: no cover - the page file backs it there
            return mmap.mmap(-1, nbytes)
        # Python's default is a shared mapping: it counts as shmem and faults at half the speed.
        block = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError) as err:
        raise MemoryError(f"the system gave no {nbytes:,} bytes of memory: {err}") from err
    if huge and nbytes >= 2 * _HUGE_PAGE_BYTES and hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):
            block.madvise(mmap.MADV_HUGEPAGE)
    return block


def writable_bytes(tensor: torch.Tensor) -> memoryview:
    """The memory of a contiguous uint8 CPU tensor, for positional reads into it."""
    if not tensor.numel():
        return memoryview(bytearray())
    return memoryview(tensor.numpy())  # type: ignore[arg-type]  # an ndarray is a buffer


def typed(raw: torch.Tensor, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """See contiguous bytes as a tensor of `dtype` and `shape`.

    Args:
        raw: uint8, shape (nbytes,), on any device.
        dtype: Its item size must divide the number of bytes and the position in the storage.
        shape: Product times item size equals the number of bytes.
    """
    return raw.view(dtype).view(shape)


def empty_of(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str
) -> torch.Tensor:
    """Like ``torch.empty``, also for shapes without elements whose strides torch cannot compute."""
    if 0 in shape:
        return torch.empty(0, dtype=dtype, device=device).reshape(shape)
    return torch.empty(shape, dtype=dtype, device=device)


class _Mapping:
    """A private mapping of part of a file, unmapped when collected."""

    def __init__(self, address: int, nbytes: int, unmap: Callable[[int, int], int]) -> None:
        self.address = address
        self.nbytes = nbytes
        self._unmap = unmap

    def __del__(self) -> None:
        self._unmap(self.address, self.nbytes)


class FileMapper:
    """Maps ranges of files privately, each range with a life of its own.

    Python's ``mmap`` keeps a descriptor open for each mapping; a checkpoint of two thousand
    tensors would hold two thousand. The C library's call does not.
    """

    def __init__(self) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._map = libc.mmap
        self._map.restype = ctypes.c_void_p
        self._map.argtypes = [
            ctypes.c_void_p,
            ctypes.c_size_t,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int,
            ctypes.c_int64,
        ]
        self._unmap = libc.munmap
        self._unmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        # Without the flag a writable private mapping is charged against the commit limit.
        self._flags = mmap.MAP_PRIVATE | (_MAP_NORESERVE if sys.platform == "linux" else 0)

    def map(self, fd: int, offset: int, nbytes: int) -> torch.Tensor:
        """Map a range; a write into the tensor makes private pages and never reaches the file.

        Args:
            fd: Descriptor of a file that has at least ``offset + nbytes`` bytes.
            offset: Absolute position in the file, in bytes; need not be aligned.
            nbytes: Length in bytes; above 0.

        Returns:
            A uint8 tensor of shape (nbytes,). The range is unmapped when its last view goes.

        Raises:
            OSError: If the system refuses (too many mappings, a file that cannot be mapped).
        """
        lead = offset % mmap.ALLOCATIONGRANULARITY
        length = lead + nbytes
        address = self._map(
            None, length, mmap.PROT_READ | mmap.PROT_WRITE, self._flags, fd, offset - lead
        )
        if address is None or address == ctypes.c_void_p(-1).value:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        mapping = _Mapping(address, length, self._unmap)
        window = (ctypes.c_ubyte * nbytes).from_address(address + lead)
        window._owner = mapping  # type: ignore[attr-defined]  # ctypes objects take attributes
        with torch.inference_mode(False):
            return torch.frombuffer(window, dtype=torch.uint8)

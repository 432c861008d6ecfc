"""Memory of the simulated device: this process's RAM, which torch sees as device storage.

A block is a host buffer handed to torch through DLPack under the device type of extensions, so
the device tensors are ordinary `torch.Tensor`s: they have a ``data_ptr()``, share storage with
their views, and give their memory back the moment the last of them goes. Blocks of 64 KiB and
more are private anonymous mappings of their own, untouched until written, so that a second copy
of a weight shows in the process's memory exactly as on a machine with unified memory.
"""

from __future__ import annotations

import collections
import ctypes
import threading
import weakref
from collections.abc import Callable

import torch

from comfy.loading.pages import SMALL_BYTES, anonymous

DEVICE_TYPE = "simgpu"
DEVICE_COUNT = 2

_CAPSULE_NAME = b"dltensor"
_DL_EXTENSION_DEVICE = 12
_DL_UINT = 1


class _DLDevice(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _DLDataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _DLDevice),
        ("ndim", ctypes.c_int32),
        ("dtype", _DLDataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensor(ctypes.Structure):
    _fields_ = (
        ("tensor", _DLTensor),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


_new_capsule = ctypes.pythonapi.PyCapsule_New
_new_capsule.restype = ctypes.py_object
_new_capsule.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class Arena:
    """Counts and limits the memory of one device index.

    Attributes:
        capacity_bytes: The most that may be allocated, or None for no limit.
        allocations: How many allocations there were.
        refusals: How many there were that found no room.
        peak_bytes: The most that was allocated at once since `reset`.
    """

    def __init__(self, index: int) -> None:
        self.index = index
        self.capacity_bytes: int | None = None
        self.allocations = 0
        self.refusals = 0
        self.peak_bytes = 0
        self.before_allocation: Callable[[int], None] | None = None
        # Blocks die in callbacks that may interrupt any line, so the callbacks only append here.
        self.freed: collections.deque[int] = collections.deque()
        self._allocated = 0
        self._lock = threading.RLock()

    @property
    def allocated_bytes(self) -> int:
        """Bytes allocated now."""
        with self._lock:
            while self.freed:
                self._allocated -= self.freed.popleft()
            return self._allocated

    def reset_peak(self) -> None:
        """Forget the peak: it is what is allocated now."""
        self.peak_bytes = self.allocated_bytes

    def claim(self, nbytes: int) -> None:
        """Count an allocation.

        Raises:
            torch.OutOfMemoryError: If the capacity does not allow it, or a test wants it so.
        """
        with self._lock:
            if self.before_allocation is not None:
                self.before_allocation(nbytes)
            allocated = self.allocated_bytes + nbytes
            if self.capacity_bytes is not None and allocated > self.capacity_bytes:
                self.refusals += 1
                raise self.out_of_memory(nbytes)
            self._allocated = allocated
            self.allocations += 1
            self.peak_bytes = max(self.peak_bytes, allocated)

    def out_of_memory(self, nbytes: int) -> torch.OutOfMemoryError:
        """Make the error of a failed allocation, worded as CUDA's."""
        mib = 1024 * 1024
        allocated = self.allocated_bytes
        total = (
            "unlimited" if self.capacity_bytes is None else f"{self.capacity_bytes / mib:.2f} MiB"
        )
        free = (
            ""
            if self.capacity_bytes is None
            else (f" of which {max(0, self.capacity_bytes - allocated) / mib:.2f} MiB is free")
        )
        return torch.OutOfMemoryError(
            f"{DEVICE_TYPE} out of memory. Tried to allocate {nbytes / mib:.2f} MiB. "
            f"Device {self.index} has a total capacity of {total}{free}. "
            f"{allocated / mib:.2f} MiB is allocated."
        )


arenas = tuple(Arena(index) for index in range(DEVICE_COUNT))

# What each live device storage is made of, by the address of its first byte.
_owners: dict[int, torch.Tensor] = {}


def allocate(nbytes: int, index: int) -> torch.Tensor:
    """Allocate device memory, untouched.

    Returns:
        A uint8 device tensor of shape (nbytes,).

    Raises:
        torch.OutOfMemoryError: If the device is full.
    """
    arenas[index].claim(nbytes)
    if nbytes >= SMALL_BYTES:
        owner = anonymous(nbytes)
    else:
        owner = torch.empty(nbytes, dtype=torch.uint8, device="cpu")
    return _exporter.export(owner, index)


def adopt(host: torch.Tensor, index: int) -> torch.Tensor:
    """Turn the whole storage of a host tensor into device memory, without a copy.

    Returns:
        A uint8 device tensor over the storage's bytes.
    """
    storage = host.untyped_storage()
    nbytes = storage.nbytes()
    arenas[index].claim(nbytes)
    owner = torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage, 0, (nbytes,), (1,))
    return _exporter.export(owner, index)


class _Exporter:
    """Makes device tensors over host memory, one at a time, out of one DLPack record.

    Torch reads the record while it imports, and afterwards only its missing deleter. A deleter
    in Python would not do: it would run in the middle of torch's own errors and destroy them.
    The storage's Python object lives as long as the storage, so its finalizer does the work.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shape = (ctypes.c_int64 * 1)(0)
        self._record = _DLManagedTensor()
        self._record.tensor.ndim = 1
        self._record.tensor.dtype = _DLDataType(_DL_UINT, 8, 1)
        self._record.tensor.shape = self._shape

    def export(self, owner: torch.Tensor, index: int) -> torch.Tensor:
        """See a flat uint8 host tensor as device memory; the device memory keeps it alive."""
        pointer = owner.data_ptr()
        with self._lock:
            self._record.tensor.data = pointer
            self._record.tensor.device = _DLDevice(_DL_EXTENSION_DEVICE, index)
            self._shape[0] = owner.numel()
            capsule = _new_capsule(ctypes.addressof(self._record), _CAPSULE_NAME, None)
            device_tensor: torch.Tensor = torch._C._from_dlpack(capsule)
        if owner.numel():
            _owners[pointer] = owner
        finalizer = weakref.finalize(
            device_tensor.untyped_storage(), _free, pointer, owner.numel(), arenas[index].freed
        )
        finalizer.atexit = False
        return device_tensor


def _free(pointer: int, nbytes: int, freed: collections.deque[int]) -> None:
    _owners.pop(pointer, None)
    freed.append(nbytes)


_exporter = _Exporter()


def is_device_memory(pointer: int) -> bool:
    """Whether a storage that starts at `pointer` belongs to the simulated device."""
    return pointer in _owners


def host_alias(tensor: torch.Tensor) -> torch.Tensor:
    """The same bytes, sizes and strides as a host tensor that shares the memory."""
    if not tensor.numel():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype, device="cpu")
    owner = _owners[tensor.untyped_storage().data_ptr()]
    return torch.empty(0, dtype=tensor.dtype, device="cpu").set_(
        owner.untyped_storage(), tensor.storage_offset(), tensor.size(), tensor.stride()
    )

"""How the simulated device enters torch: its module ``torch.simgpu`` and its operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch.utils import backend_registration

from support.simulated_memory import DEVICE_TYPE, allocate
from support.simulated_ops import KERNELS, run

Which = torch.device | int | str | None

# A registration ends when its object goes.
_libraries: list[torch.library.Library] = []


class Copies(Protocol):
    """The stream of a device, as far as torch needs it."""

    def synchronize(self) -> None:
        """Wait until all copies are done."""


class Controls(Protocol):
    """What ``torch.simgpu`` asks of a device."""

    @property
    def copies(self) -> Copies:
        """The stream."""

    @property
    def allocated_bytes(self) -> int:
        """Bytes allocated now."""

    @property
    def peak_bytes(self) -> int:
        """The most at once."""

    def reset_peak(self) -> None:
        """Forget the peak."""

    def free_bytes(self) -> tuple[int, int]:
        """Free and total memory."""


class _Selected:
    """Context that would select a device; here every call names its own."""

    def __init__(self, device: Which) -> None:
        self.selected = device

    def __enter__(self) -> None: ...

    def __exit__(self, *exception: object) -> None: ...


class Module:
    """``torch.simgpu``: the functions that torch and programs ask of a kind of device.

    Attributes:
        controls: One for each index; can be made only when torch knows the kind.
    """

    device = _Selected

    def __init__(self) -> None:
        self.controls: Sequence[Controls] = ()

    def _of(self, device: Which) -> Controls:
        if device is None:
            return self.controls[0]
        index = device if isinstance(device, int) else torch.device(device).index
        return self.controls[index or 0]

    def _is_in_bad_fork(self) -> bool:
        return False

    def is_available(self) -> bool:
        return True

    def is_initialized(self) -> bool:
        return True

    def device_count(self) -> int:
        return len(self.controls)

    def current_device(self) -> int:
        return 0

    def get_device_name(self, device: Which = None) -> str:
        return "simulated device"

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.float16, torch.bfloat16]

    def manual_seed_all(self, seed: int) -> None:
        """Nothing to seed: random numbers come from the host's generator."""

    def synchronize(self, device: Which = None) -> None:
        self._of(device).copies.synchronize()

    def mem_get_info(self, device: Which = None) -> tuple[int, int]:
        return self._of(device).free_bytes()

    def memory_allocated(self, device: Which = None) -> int:
        return self._of(device).allocated_bytes

    def max_memory_allocated(self, device: Which = None) -> int:
        return self._of(device).peak_bytes

    def reset_peak_memory_stats(self, device: Which = None) -> None:
        self._of(device).reset_peak()

    def empty_cache(self) -> None:
        """Nothing is cached."""


def register() -> Module:
    """Make torch know the device; once per process."""
    module = Module()
    backend_registration._setup_privateuseone_for_python_backend(DEVICE_TYPE, module)
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(run, "PrivateUse1")
    kernels = torch.library.Library("aten", "IMPL")
    for name, kernel in KERNELS.items():
        kernels.impl(name, kernel, "PrivateUse1")
    _libraries.extend((fallback, kernels))
    _allow_device_storages()
    return module


def _allow_device_storages() -> None:
    """Let ``UntypedStorage(n, device="simgpu")`` work, which deepcopy and torch.load call.

    Torch asks a C++ allocator there, and dereferences a null pointer where a backend written in
    Python has none. There is no hook for it, hence the one replaced method.
    """
    original = torch.UntypedStorage.__new__

    def make(cls: type, *args: Any, **kwargs: Any) -> Any:
        device = kwargs.get("device")
        if device is None or torch.device(device).type != DEVICE_TYPE:
            return original(cls, *args, **kwargs)
        (nbytes,) = args
        return allocate(nbytes, torch.device(device).index or 0).untyped_storage()

    torch.UntypedStorage.__new__ = make  # type: ignore[method-assign]  # see the docstring

"""What loading asks of a device: five verbs, and one port per kind of device.

`GenericPort` works with every torch device and waits for each copy. `StreamPort` serves devices
that have streams and events (CUDA, HIP, XPU): copies run on a stream of their own, and a slot is
free when its event has passed. Other kinds register theirs with `register_port`.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import torch

from comfy.loading.errors import DeviceCopyFailed, LoadError, NotEnoughMemory
from comfy.loading.memory import host_pool

logger = logging.getLogger(__name__)

Copy = tuple[torch.Tensor, torch.Tensor]
"""A host tensor and the device tensor it goes to: same length, flat; dtypes may differ."""

Event = Any
"""What `upload` returns and `wait` takes; None where the copy was already done."""


class DeviceFull(NotEnoughMemory, torch.OutOfMemoryError):
    """A device has no room for a weight; callers that catch torch's own error see it, too."""

    # MemoryError's refuses classes that have other built-in bases.
    __new__ = torch.OutOfMemoryError.__new__  # type: ignore[assignment]  # object's stub is narrower


class DevicePort(Protocol):
    """The five verbs. One port serves one device with an index."""

    device: torch.device

    def empty(self, nbytes: int) -> torch.Tensor:
        """Allocate uninitialised bytes: uint8, shape (nbytes,). Raises OutOfMemoryError."""

    def upload(self, copies: Sequence[Copy]) -> Event:
        """Start copies, casting on the device where dtypes differ.

        Returns:
            An event; until it has passed the host tensors must neither change nor go.
        """

    def register(self, buffer: torch.Tensor) -> bool:
        """Page-lock host memory for fast copies; False where the device will not."""

    def unregister(self, buffer: torch.Tensor) -> None:
        """Undo `register`."""

    def wait(self, event: Event) -> None:
        """Block, without the GIL, until an event has passed; None waits for all copies."""

    def free_bytes(self) -> tuple[int, int]:
        """Free and total memory, in bytes, as the driver tells."""


@contextlib.contextmanager
def device_errors(
    port: DevicePort, nbytes: int, *, path: str | None, tensor: str | None
) -> Iterator[None]:
    """Turn what a device raises into errors that name the weight.

    Args:
        port: The device's.
        nbytes: What is asked of its memory.
        path: The file concerned.
        tensor: The weight concerned.

    Raises:
        DeviceFull: If it has not that much.
        DeviceCopyFailed: If it fails in another way.
    """
    try:
        yield
    except LoadError:
        raise
    except (torch.OutOfMemoryError, MemoryError) as err:
        free, _ = port.free_bytes()
        pool = f"memory of {port.device}"
        raise DeviceFull(nbytes, free, pool, path=path, tensor=tensor) from err
    except RuntimeError as err:
        raise DeviceCopyFailed(port.device, err, path=path, tensor=tensor) from err


def copy_now(source: torch.Tensor, destination: torch.Tensor, device: torch.device) -> None:
    """Copy one piece, casting on the device so that the host pays no temporary.

    Args:
        source: Host tensor, flat.
        destination: Device tensor, flat, same length.
        device: That of the destination.
    """
    if source.dtype != destination.dtype:
        source = source.to(device, non_blocking=True)
    destination.copy_(source, non_blocking=True)


class GenericPort:
    """Any torch device, one copy at a time."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def empty(self, nbytes: int) -> torch.Tensor:
        """See `DevicePort.empty`."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def upload(self, copies: Sequence[Copy]) -> Event:
        """Copy, and return when it is done."""
        for source, destination in copies:
            if source.dtype != destination.dtype:
                source = source.to(self.device)
            destination.copy_(source)
        return None

    def register(self, buffer: torch.Tensor) -> bool:
        """Nothing to register."""
        return False

    def unregister(self, buffer: torch.Tensor) -> None:
        """Nothing to undo."""

    def wait(self, event: Event) -> None:
        """All copies are done when `upload` returns."""

    def free_bytes(self) -> tuple[int, int]:
        """The host's figures: a device without a driver figure shares its memory."""
        pool = host_pool()
        return pool.free, pool.total


class StreamPort:
    """CUDA, HIP and XPU through torch's device modules, which are alike."""

    def __init__(self, device: torch.device) -> None:
        self._module = torch.get_device_module(device)
        index = device.index if device.index is not None else self._module.current_device()
        self.device = torch.device(device.type, index)
        self._stream = self._module.Stream(device=self.device)

    def empty(self, nbytes: int) -> torch.Tensor:
        """See `DevicePort.empty`; belongs to the current stream, which waits in `wait`."""
        return torch.empty(nbytes, dtype=torch.uint8, device=self.device)

    def upload(self, copies: Sequence[Copy]) -> Event:
        """Queue copies on the copy stream."""
        # The allocator may hand out memory whose last use is still queued on the caller's stream.
        self._stream.wait_stream(self._module.current_stream(self.device))
        with self._module.stream(self._stream):
            for source, destination in copies:
                copy_now(source, destination, self.device)
                destination.record_stream(self._stream)
            event = self._module.Event()
            event.record(self._stream)
        return event

    def register(self, buffer: torch.Tensor) -> bool:
        """Page-lock exactly these pages; torch's own pinned allocator rounds up and keeps them."""
        runtime = self._runtime()
        if runtime is None:
            return False
        code = int(runtime.cudaHostRegister(buffer.data_ptr(), buffer.numel(), 0))
        if code != 0:
            logger.debug("%s: host registration refused with code %d", self.device, code)
            self._forget_last_error()
        return code == 0

    def _forget_last_error(self) -> None:
        """Take the failed call's code out of the runtime: the next kernel would report it as its own."""
        with contextlib.suppress(RuntimeError):
            torch.zeros(1, device=self.device)

    def unregister(self, buffer: torch.Tensor) -> None:
        """See `DevicePort.unregister`."""
        runtime = self._runtime()
        if runtime is not None:
            runtime.cudaHostUnregister(buffer.data_ptr())

    def wait(self, event: Event) -> None:
        """See `DevicePort.wait`."""
        if event is None:
            self._stream.synchronize()
        else:
            event.synchronize()

    def free_bytes(self) -> tuple[int, int]:
        """See `DevicePort.free_bytes`."""
        try:
            free, total = self._module.mem_get_info(self.device)
        except RuntimeError as err:
            # Some integrated GPUs cannot tell, and are part of the host's memory.
            logger.debug("%s: the driver tells no memory: %s", self.device, err)
            pool = host_pool()
            return pool.free, pool.total
        return int(free), int(total)

    def _runtime(self) -> Any:
        return self._module.cudart() if self.device.type == "cuda" else None


PortFactory = Callable[[torch.device], DevicePort]

_factories: dict[str, PortFactory] = {"cuda": StreamPort, "xpu": StreamPort}


def register_port(device_type: str, factory: PortFactory) -> None:
    """Teach loading a kind of device.

    Args:
        device_type: As in ``torch.device.type``.
        factory: Called with a device, once per device and Loader.
    """
    _factories[device_type] = factory


def open_port(device: torch.device) -> DevicePort:
    """Make the port of a device: a registered kind's own, or the generic one."""
    return _factories.get(device.type, GenericPort)(device)

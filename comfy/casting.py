"""Moving single tensors: casts, streams, page-locked memory."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import torch

import comfy.loading
from comfy.loading.rings import with_index

_STREAMED = ("cuda", "xpu")


def cast_to(
    weight: torch.Tensor | None,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    non_blocking: bool = False,
    copy: bool = False,
    stream: Any = None,
) -> torch.Tensor | None:
    """Give a tensor another dtype and device.

    Args:
        weight: Any shape; None gives None.
        dtype: None keeps it.
        device: None keeps it.
        non_blocking: Do not wait for the copy.
        copy: Return new memory even if nothing changes.
        stream: On which the copy runs; the caller waits for it.

    Returns:
        The tensor itself if nothing changes and no copy is asked for. A weight that is still in
        its file is read straight to the device.
    """
    if weight is None:
        return None
    where = weight.device if device is None else torch.device(device)
    what = weight.dtype if dtype is None else dtype
    if stream is None:
        return weight.to(where, what, non_blocking=non_blocking, copy=copy)
    with torch.get_device_module(where).stream(stream):
        return weight.to(where, what, non_blocking=non_blocking, copy=copy)


def supports_non_blocking(device: Any, force: bool = False, denied: bool = False) -> bool:
    """Whether copies to a device may be left running.

    Args:
        device: Which.
        force: ``--force-non-blocking``.
        denied: ``--deterministic``.
    """
    if force:
        return True
    # MPS was seen to read the source of such a copy after it was freed.
    return not denied and device is not None and torch.device(device).type in _STREAMED


class Streams:
    """Streams for copies that overlap computing: a few per device, used in turn."""

    def __init__(self) -> None:
        self._made: dict[torch.device, Any] = {}

    def next(self, device: torch.device, count: int) -> Any:
        """The next stream; None where `count` is 0 or the device has none.

        Args:
            device: Whose.
            count: How many there shall be.
        """
        if count < 1 or device.type not in _STREAMED:
            return None
        if device not in self._made:
            module = torch.get_device_module(device)
            streams = [module.Stream(device=device) for _ in range(count)]
            self._made[device] = itertools.cycle(streams)
        stream = next(self._made[device])
        stream.wait_stream(current_stream(device))
        return stream


STREAMS = Streams()


def current_stream(device: Any) -> Any:
    """The stream on which a device computes; None where there are none."""
    if device is None or torch.device(device).type not in _STREAMED:
        return None
    return torch.get_device_module(device).current_stream(device)


def sync_stream(device: Any, stream: Any) -> None:
    """Let a device's computing wait for a stream; nothing if either is None."""
    now = current_stream(device)
    if now is not None and stream is not None:
        now.wait_stream(stream)


class PinnedMemory:
    """Host tensors that are page-locked for a device; each is released when it goes."""

    def __init__(self) -> None:
        self._releases: dict[int, weakref.finalize[Any, Any]] = {}

    def pin(self, tensor: torch.Tensor, device: torch.device) -> bool:
        """Page-lock a tensor's memory in place.

        Args:
            tensor: Of any shape.
            device: For whose copies.

        Returns:
            Whether it is locked now. Never for the CPU, for what is still in a file, and for
            memory that is not one piece.
        """
        if device.type == "cpu" or tensor.device.type != "cpu" or not tensor.is_contiguous():
            return False
        if isinstance(tensor, comfy.loading.FileTensor) or tensor.nbytes == 0:
            return False
        address = tensor.data_ptr()
        if address in self._releases:
            return False
        port = comfy.loading.default_loader().rings.port(with_index(device))
        memory = _as_bytes(tensor)
        if not port.register(memory):
            return False
        self._releases[address] = weakref.finalize(tensor, self._release, address, port, memory)
        return True

    def _release(self, address: int, port: Any, memory: torch.Tensor) -> None:
        self._releases.pop(address, None)
        port.unregister(memory)

    def unpin(self, tensor: torch.Tensor) -> bool:
        """Undo `pin`; False if it was not pinned here."""
        if tensor.device.type != "cpu" or isinstance(tensor, comfy.loading.FileTensor):
            return False
        release = self._releases.get(tensor.data_ptr())
        if release is None:
            return False
        release()
        return True

    @property
    def nbytes(self) -> int:
        """Bytes that are page-locked now."""
        found = (release.peek() for release in self._releases.values())
        return sum(one[2][2].nbytes for one in found if one is not None)


PINNED = PinnedMemory()


def _as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's memory as uint8, held by its storage and not by the tensor."""
    start = tensor.storage_offset() * tensor.element_size()
    memory = torch.empty(0, dtype=torch.uint8)
    return memory.set_(tensor.untyped_storage(), start, (tensor.nbytes,), (1,))

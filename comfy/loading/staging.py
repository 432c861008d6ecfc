"""The staging ring: the only host memory that a weight passes on its way to a device.

A few slots of exact size, page-aligned, allocated once and touched once. A slot is used again
only when the copy out of it has passed its event, and no two slots share memory.
"""

from __future__ import annotations

import logging
import queue
import threading
import weakref
from collections.abc import Callable, Sequence

import torch

from comfy.loading.devices import Copy, DevicePort, Event
from comfy.loading.pages import anonymous, writable_bytes

logger = logging.getLogger(__name__)

_POLL_S = 0.05


class Slot:
    """One piece of staging memory.

    Attributes:
        bytes: uint8, shape (slot_bytes,), page-aligned.
        region: The same memory, for positional reads.
    """

    __slots__ = ("_copies", "_event", "bytes", "is_registered", "region")

    def __init__(self, nbytes: int) -> None:
        self.bytes = anonymous(nbytes, huge=True)
        # First touch costs more than the read into it; pay once, here.
        self.bytes.zero_()
        self.region = writable_bytes(self.bytes)
        self.is_registered = False
        self._event: Event = None
        self._copies: Sequence[Copy] = ()


class StagingRing:
    """Slots of one device; threads take them, fill them, and the uploader gives them back."""

    def __init__(self, port: DevicePort, slots: int, slot_bytes: int) -> None:
        """Allocate all of it, and page-lock what the device allows.

        Args:
            port: The device's.
            slots: How many; two or more let reading and copying overlap.
            slot_bytes: Size of each; a multiple of the page size.
        """
        self.port = port
        self.slot_bytes = slot_bytes
        self.slots = [Slot(slot_bytes) for _ in range(slots)]
        self._free: queue.Queue[Slot] = queue.Queue()
        self._lock = threading.Lock()
        for slot in self.slots:
            slot.is_registered = port.register(slot.bytes)
            self._free.put(slot)
        # A ring that is dropped without `close` must not leave locked pages behind; at exit the
        # device may be gone before this, and the system unlocks them anyway.
        self._end = weakref.finalize(self, _unregister, port, self.slots)
        self._end.atexit = False

    @property
    def nbytes(self) -> int:
        """Size of all slots, in bytes."""
        return self.slot_bytes * len(self.slots)

    @property
    def is_registered(self) -> bool:
        """Whether every slot is page-locked."""
        return all(slot.is_registered for slot in self.slots)

    def acquire(self, is_stopped: Callable[[], bool]) -> Slot | None:
        """Take the slot that was given back first, after the copy out of it has passed.

        Args:
            is_stopped: Asked while there is no free slot.

        Returns:
            The slot, or None if `is_stopped` said so.
        """
        while not is_stopped():
            try:
                slot = self._free.get(timeout=_POLL_S)
            except queue.Empty:
                continue
            # Whoever started a copy that failed reports it; another load may take the slot.
            self._wait_quietly(slot._event)
            slot._event, slot._copies = None, ()
            return slot
        return None

    def release(self, slot: Slot, event: Event = None, copies: Sequence[Copy] = ()) -> None:
        """Give a slot back.

        Args:
            slot: As taken.
            event: Passes when the copies out of the slot are done.
            copies: Kept alive until then.
        """
        with self._lock:
            slot._event, slot._copies = event, copies
        self._free.put(slot)

    @property
    def is_whole(self) -> bool:
        """Whether every slot has been given back; an interrupt can lose one on its way."""
        return self._free.qsize() == len(self.slots)

    def settle(self) -> None:
        """Wait for the copies out of all slots, and let go of the tensors that they went to."""
        for slot in self.slots:
            # Another load may share the ring, and have given a slot back meanwhile.
            event = slot._event
            self._wait_quietly(event)
            with self._lock:
                if slot._event is event:
                    slot._event, slot._copies = None, ()

    def _wait_quietly(self, event: Event) -> None:
        """Wait in a place where a failed copy has been reported already."""
        if event is None:
            return
        try:
            self.port.wait(event)
        except RuntimeError as err:
            logger.debug("%s: a copy failed: %s", self.port.device, err)

    def close(self) -> None:
        """Wait for the last copies and give the memory back; the ring is of no use afterwards."""
        self.settle()
        self._end()
        self.slots = []
        self._free = queue.Queue()


def _unregister(port: DevicePort, slots: Sequence[Slot]) -> None:
    """Undo the page-locking of slots before their memory goes."""
    for slot in slots:
        if not slot.is_registered:
            continue
        slot.is_registered = False
        try:
            port.unregister(slot.bytes)
        except (RuntimeError, LookupError) as err:
            logger.debug("%s: host memory was unregistered already: %s", port.device, err)


def bytes_as(raw: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """See a part of a slot as elements of `dtype`; copies it first if it lies askew.

    Args:
        raw: uint8, flat, its length a multiple of the item size.
        dtype: Of the elements.
    """
    if dtype == torch.uint8:
        return raw
    if raw.storage_offset() % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype)

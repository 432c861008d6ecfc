"""Ports and staging rings of a Loader: one of each per device, made on first use, freed when idle."""

from __future__ import annotations

import contextlib
import threading
import time
import weakref
from collections.abc import Collection, Iterator

import torch

from comfy.loading.devices import DevicePort, open_port
from comfy.loading.staging import StagingRing

IDLE_S = 30.0
# For what is read between two weights of a stream: patches, as a rule, which are small.
SPARE_SLOTS = 2
SPARE_SLOT_BYTES = 2 * 1024 * 1024


class _Entry:
    """The port of one device, its rings, and which thread, by its ident, holds which of them."""

    def __init__(self, port: DevicePort) -> None:
        self.port = port
        self.ring: StagingRing | None = None
        self.spares: list[StagingRing] = []
        self.holders: list[tuple[int, StagingRing]] = []
        self.idle_since = 0.0
        self.timer: threading.Timer | None = None


class Rings:
    """Lends a device's ring; several loads may share it at once."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        """Prepare; nothing is allocated.

        Args:
            idle_s: Seconds without use after which a ring's memory goes back.
        """
        self._idle_s = idle_s
        self._entries: dict[torch.device, _Entry] = {}
        self._lock = threading.RLock()
        weakref.finalize(self, _cancel_timers, self._entries)

    def port(self, device: torch.device) -> DevicePort:
        """The port of a device; allocates no staging."""
        return self._entry(device).port

    @property
    def nbytes(self) -> int:
        """Staging memory held at this moment, in bytes."""
        with self._lock:
            rings = [ring for one in self._entries.values() for ring in (one.ring, *one.spares)]
            return sum(ring.nbytes for ring in rings if ring)

    @contextlib.contextmanager
    def lend(
        self, device: torch.device, slots: int, slot_bytes: int
    ) -> Iterator[tuple[DevicePort, StagingRing]]:
        """Lend a ring of the asked size; one in use is shared as it is.

        A thread never gets a ring that it holds already, as between two weights of a stream, but
        another, small one: all slots of the first may be filled with what this very thread is to
        take next.

        Args:
            device: With its index.
            slots: How many.
            slot_bytes: Size of each.
        """
        me = threading.get_ident()
        with self._lock:
            entry = self._entry(device)
            mine = [ring for ident, ring in entry.holders if ident == me]
            if entry.ring in mine:
                ring = self._spare(entry, mine)
            else:
                ring = self._first(entry, slots, slot_bytes)
            entry.holders.append((me, ring))
        try:
            yield entry.port, ring
        finally:
            self._give_back(entry, (me, ring))

    def _spare(self, entry: _Entry, mine: Collection[StagingRing]) -> StagingRing:
        found = next((ring for ring in entry.spares if ring not in mine), None)
        if found is None:
            found = StagingRing(entry.port, SPARE_SLOTS, SPARE_SLOT_BYTES)
            entry.spares.append(found)
        return found

    def _first(self, entry: _Entry, slots: int, slot_bytes: int) -> StagingRing:
        ring = entry.ring
        if ring is not None and not entry.holders and not _fits(ring, slots, slot_bytes):
            ring.close()
            ring = None
        if ring is None:
            ring = entry.ring = StagingRing(entry.port, slots, slot_bytes)
        return ring

    def _give_back(self, entry: _Entry, holder: tuple[int, StagingRing]) -> None:
        with self._lock:
            entry.holders.remove(holder)
            if entry.holders:
                return
            while entry.spares:
                entry.spares.pop().close()
            if entry.ring is not None and not entry.ring.is_whole:
                self._free(entry)
            else:
                entry.idle_since = time.monotonic()
                self._start_timer(entry, self._idle_s)

    def close(self) -> None:
        """Free every ring that nobody uses."""
        with self._lock:
            for entry in self._entries.values():
                self._free(entry)

    def _entry(self, device: torch.device) -> _Entry:
        with self._lock:
            if device not in self._entries:
                self._entries[device] = _Entry(open_port(device))
            return self._entries[device]

    def _start_timer(self, entry: _Entry, delay_s: float) -> None:
        """Look again later; one timer serves any number of uses, for it is a thread."""
        if entry.timer is not None:
            return
        # Weakly: a timer must not keep a Loader's staging that nobody can use any more.
        work = weakref.ref(self), entry.port.device
        entry.timer = threading.Timer(delay_s, _free_later, work)
        entry.timer.daemon = True
        entry.timer.start()

    def _free_if_idle(self, entry: _Entry) -> None:
        with self._lock:
            entry.timer = None
            left_s = entry.idle_since + self._idle_s - time.monotonic()
            if entry.holders or entry.ring is None:
                return
            if left_s > 0:
                self._start_timer(entry, left_s)
            else:
                self._free(entry)

    def _cancel_timer(self, entry: _Entry) -> None:
        if entry.timer is not None:
            entry.timer.cancel()
            entry.timer = None

    def _free(self, entry: _Entry) -> None:
        with self._lock:
            self._cancel_timer(entry)
            if entry.ring is not None and not entry.holders:
                entry.ring.close()
                entry.ring = None


def _free_later(rings: weakref.ref[Rings], device: torch.device) -> None:
    alive = rings()
    if alive is not None:
        alive._free_if_idle(alive._entry(device))


def _cancel_timers(entries: dict[torch.device, _Entry]) -> None:
    for entry in entries.values():
        if entry.timer is not None:
            entry.timer.cancel()


def _fits(ring: StagingRing, slots: int, slot_bytes: int) -> bool:
    return len(ring.slots) == slots and ring.slot_bytes == slot_bytes


def with_index(device: torch.device | str) -> torch.device:
    """Name a device fully: an accelerator without index is the current one.

    Args:
        device: As users write it.
    """
    named = torch.device(device)
    # torch's stub says that an index is always there.
    index: int | None = named.index
    if named.type in ("cpu", "meta", "mps") or index is not None:
        return named
    module = getattr(torch, named.type, None)
    current = getattr(module, "current_device", None)
    return torch.device(named.type, current() if current is not None else 0)

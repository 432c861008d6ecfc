"""A device with unified memory, simulated: what proves the promise where there is no GPU.

``torch.device("simgpu:0")`` and ``"simgpu:1"`` are devices that torch treats as real ones, whose
memory is this process's RAM. Each has byte counters, an optional capacity, a copy stream that can
be made slow, and failures on demand::

    device = install()[0]
    device.capacity_bytes = 64 * MIB
    device.copies.delay_s_per_mib = 0.01
    weight = torch.randn(4, 4).to("simgpu")

`install` also gives `comfy.loading` the device's port and its hardware facts.
"""

from __future__ import annotations

import functools
import mmap
import os
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

import psutil
import torch

from comfy.loading import devices, hardware
from comfy.loading.hardware import HardwareProfile, Says, Vote
from support import simulated_backend
from support.simulated_copies import Copy, CopyEvent, CopyStream
from support.simulated_memory import DEVICE_TYPE, Arena, allocate, arenas
from support.simulated_ops import is_simulated, observe_copies


@dataclass(frozen=True, slots=True)
class Counters:
    """What one device did since its last `SimulatedDevice.reset`.

    Attributes:
        uploads: Copies that went through the port's stream.
        uploaded_bytes: Their bytes on the host's side.
        h2d_copies: Copies by torch itself, as in ``.to(device)``.
        h2d_bytes: Their bytes on the host's side.
        d2h_copies: Copies to the host.
        d2h_bytes: Their bytes on the device's side.
    """

    uploads: int = 0
    uploaded_bytes: int = 0
    h2d_copies: int = 0
    h2d_bytes: int = 0
    d2h_copies: int = 0
    d2h_bytes: int = 0


class _Countdown:
    """Says yes once, at the nth question."""

    def __init__(self) -> None:
        self._left = 0

    def arm(self, nth: int) -> None:
        if nth < 1:
            raise ValueError(f"the first is number 1, not {nth}")
        self._left = nth

    def disarm(self) -> None:
        self._left = 0

    def is_due(self) -> bool:
        if not self._left:
            return False
        self._left -= 1
        return self._left == 0


class SimulatedDevice:
    """What a test sees and steers of one device index.

    Attributes:
        device: With its index.
        copies: The stream on which the port's uploads run.
        counters: What happened since `reset`.
        is_unified: What the hardware probe tells.
        can_register: Whether the device page-locks host memory when asked to.
        registered: Size of each host buffer that is registered now, by address.
    """

    def __init__(self, arena: Arena) -> None:
        self.device = torch.device(DEVICE_TYPE, arena.index)
        self.copies = CopyStream()
        self.counters = Counters()
        self.is_unified = True
        self.can_register = True
        self.registered: dict[int, int] = {}
        self._lock = threading.Lock()
        self._arena = arena
        self._allocation_failure = _Countdown()
        self._upload_failure = _Countdown()
        arena.before_allocation = self._before_allocation

    def __repr__(self) -> str:
        return f"SimulatedDevice({self.device}, {self.allocated_bytes:,} bytes allocated)"

    @property
    def allocated_bytes(self) -> int:
        """Bytes allocated now."""
        return self._arena.allocated_bytes

    @property
    def peak_bytes(self) -> int:
        """The most bytes allocated at once since `reset` or `reset_peak`."""
        return self._arena.peak_bytes

    @property
    def allocations(self) -> int:
        """How many allocations there were since `reset`."""
        return self._arena.allocations

    @property
    def refusals(self) -> int:
        """How many allocations found no room since `reset`."""
        return self._arena.refusals

    @property
    def capacity_bytes(self) -> int | None:
        """The most that can be allocated; None for no limit."""
        return self._arena.capacity_bytes

    @capacity_bytes.setter
    def capacity_bytes(self, value: int | None) -> None:
        self._arena.capacity_bytes = value

    def reset_peak(self) -> None:
        """Let the peak be what is allocated now."""
        self._arena.reset_peak()

    def fail_allocation(self, nth: int) -> None:
        """Let the nth allocation from now on find the device full."""
        self._allocation_failure.arm(nth)

    def fail_upload(self, nth: int) -> None:
        """Let the nth upload from now on fail, in its event."""
        self._upload_failure.arm(nth)

    def reset(self) -> None:
        """Finish all copies, forget counters, limits and failures; tensors stay."""
        self.copies.drain()
        self.copies.delay_s_per_mib = 0.0
        self.counters = Counters()
        self.is_unified = True
        self.can_register = True
        self.registered.clear()
        self._allocation_failure.disarm()
        self._upload_failure.disarm()
        self._arena.capacity_bytes = None
        self._arena.allocations = self._arena.refusals = 0
        self._arena.reset_peak()

    def free_bytes(self) -> tuple[int, int]:
        """Free and total memory: the machine's, or what the capacity leaves."""
        memory = psutil.virtual_memory()
        capacity = self._arena.capacity_bytes
        if capacity is None:
            return memory.available, memory.total
        return max(0, min(capacity - self.allocated_bytes, memory.available)), capacity

    def profile(self) -> HardwareProfile:
        """The facts that the hardware probe tells of this device."""
        says: Says = "unified" if self.is_unified else "discrete"
        return HardwareProfile(
            device=self.device,
            backend="other",
            unified=self.is_unified,
            coherent=False,
            votes=(Vote("simulation", says, says, strong=True),),
            total_bytes=self.free_bytes()[1],
            page_bytes=mmap.PAGESIZE,
            platform=sys.platform,
            registers_host_memory=self.can_register,
            cpu_count=os.cpu_count() or 1,
        )

    def upload(self, pairs: Sequence[Copy]) -> CopyEvent:
        """Queue copies on the stream, and count them."""
        failure = None
        for source, _ in pairs:
            self.count(uploads=1, uploaded_bytes=source.nbytes)
            if self._upload_failure.is_due():
                failure = RuntimeError(f"{self.device}: the copy engine failed (injected)")
        return self.copies.submit(pairs, failure)

    def count(self, **more: int) -> None:
        """Add to counters."""
        with self._lock:
            old = self.counters
            new = {name: getattr(old, name) + n for name, n in more.items()}
            self.counters = replace(old, **new)

    def _before_allocation(self, nbytes: int) -> None:
        if self._allocation_failure.is_due():
            raise self._arena.out_of_memory(nbytes)


class SimulatedPort:
    """The `comfy.loading.devices.DevicePort` of a simulated device."""

    def __init__(self, device: torch.device) -> None:
        self._simulated = simulated(device.index or 0)
        self.device = self._simulated.device

    def empty(self, nbytes: int) -> torch.Tensor:
        """Allocate uninitialised bytes."""
        return allocate(nbytes, self._simulated.device.index)

    def upload(self, copies: Sequence[Copy]) -> CopyEvent:
        """Queue copies; the sources are read when their turn comes."""
        return self._simulated.upload(copies)

    def register(self, buffer: torch.Tensor) -> bool:
        """Note the buffer as page-locked, or refuse."""
        if not self._simulated.can_register:
            return False
        address = buffer.data_ptr()
        if address in self._simulated.registered:
            raise RuntimeError(f"the buffer at {address:#x} is registered already")
        self._simulated.registered[address] = buffer.nbytes
        return True

    def unregister(self, buffer: torch.Tensor) -> None:
        """Forget a buffer; raises if it was not registered."""
        del self._simulated.registered[buffer.data_ptr()]

    def wait(self, event: CopyEvent | None) -> None:
        """Block until an event has passed, or all copies if it is None."""
        if event is None:
            self._simulated.copies.synchronize()
        else:
            event.wait()

    def synchronize(self) -> None:
        """Block until all copies are done."""
        self._simulated.copies.synchronize()

    def free_bytes(self) -> tuple[int, int]:
        """Free and total memory, in bytes."""
        return self._simulated.free_bytes()


def simulated(index: int = 0) -> SimulatedDevice:
    """The controls of one simulated device."""
    return install()[index]


def _count_copy(source: torch.Tensor, target: torch.Tensor) -> None:
    if is_simulated(target) and not is_simulated(source):
        simulated(target.device.index).count(h2d_copies=1, h2d_bytes=source.nbytes)
    elif is_simulated(source) and not is_simulated(target):
        simulated(source.device.index).count(d2h_copies=1, d2h_bytes=source.nbytes)


@functools.cache
def install() -> tuple[SimulatedDevice, ...]:
    """Make torch and `comfy.loading` know the device; repeated calls change nothing.

    Returns:
        The controls, by device index.
    """
    module = simulated_backend.register()
    controls = tuple(SimulatedDevice(arena) for arena in arenas)
    module.controls = controls
    observe_copies(_count_copy)
    devices.register_port(DEVICE_TYPE, SimulatedPort)
    hardware.register_hardware_probe(DEVICE_TYPE, lambda d: simulated(d.index or 0).profile())
    return controls

"""Memory: what a plan needs, what pools can give, and what a load really took.

Which figure to believe differs by class of machine. On unified memory the driver's "free" counts
page cache as used, so the system's figure is taken; on a card of its own the system's figure is
meaningless. Containers are seen through their control groups. Absurd values (1e32 bytes free, more
free than there is) are clamped, and told once.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from comfy.loading.cgroups import GroupLimit, memory_limits
from comfy.loading.hardware import HardwareProfile
from comfy.loading.signals import amdgpu_memory
from comfy.loading.usage import MemoryReport, MemorySample, PeakSampler, sample

__all__ = [
    "MemoryNeed",
    "MemoryReport",
    "MemorySample",
    "PeakSampler",
    "Pool",
    "default_reserve",
    "device_pool",
    "host_pool",
    "read_meminfo",
    "reusable_bytes",
    "sample",
]

logger = logging.getLogger(__name__)

MIB = 1 << 20
GIB = 1 << 30
SYSTEM = Path("/")

Query = Callable[[], tuple[int, int]]
"""Free and total memory of a device as its driver tells, in bytes; may raise."""

# Running out on a machine with unified memory can hang it until it is power-cycled.
_UNIFIED_RESERVE_BYTES = 4 * GIB
_UNIFIED_RESERVE_SHARE = 0.05
_SMALL_MACHINE_BYTES = 32 * GIB
_SMALL_MACHINE_SHARE = 0.10
_SMALL_RESERVE_BYTES = 256 * MIB
_SMALL_RESERVE_SHARE = 0.05


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a plan takes at its worst moment, in bytes.

    Attributes:
        file: Read from the file.
        host: Tensors in host memory.
        device: Tensors in device memory.
        staging: The ring between file and device.
        cast: Temporary of the largest cast.
    """

    file: int
    host: int
    device: int
    staging: int
    cast: int

    def unified_total(self) -> int:
        """What it takes where host and device are one memory."""
        return self.host + self.device + self.staging + self.cast


@dataclass(frozen=True, slots=True)
class Pool:
    """One memory, and what it can still give.

    Attributes:
        name: In words, as it stands in messages.
        total: Its size in bytes.
        free: What can be allocated now, in bytes; no reserve is taken off.
        notes: What is odd about these figures.
        beyond: Bytes that the machine could give beyond `free`, where the limit of a container
            is what binds.
    """

    name: str
    total: int
    free: int
    notes: tuple[str, ...] = ()
    beyond: int = 0


@functools.cache
def _warn_once(text: str) -> None:
    logger.warning("%s", text)


def read_meminfo(root: Path = SYSTEM) -> dict[str, int]:
    """Read the kernel's memory counters.

    Args:
        root: Where the system's tree begins.

    Returns:
        Bytes by name; empty on systems that do not tell.
    """
    try:
        lines = (root / "proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    fields = (line.replace(":", " ").split() for line in lines)
    return {field[0]: int(field[1]) * 1024 for field in fields if field[2:] == ["kB"]}


def _machine_memory(root: Path) -> tuple[int, int]:
    """Total and available memory of the machine, in bytes."""
    counters = read_meminfo(root)
    if "MemTotal" not in counters:
        memory = psutil.virtual_memory()
        return int(memory.total), int(memory.available)
    estimate = sum(counters.get(name, 0) for name in ("MemFree", "Buffers", "Cached"))
    estimate -= counters.get("Shmem", 0)
    return counters["MemTotal"], counters.get("MemAvailable", max(0, estimate))


def host_pool(*, root: Path = SYSTEM) -> Pool:
    """Tell what the host can still give to this process without swapping.

    Args:
        root: Where the system's tree begins.

    Returns:
        The smaller of what the machine has available and what the control groups leave.
    """
    total, available = _machine_memory(root)
    limits = memory_limits(root)
    total = min([total, *(limit.limit for limit in limits)])
    tightest = min(limits, key=_headroom, default=None)
    if tightest is None or tightest.headroom >= available:
        return Pool("host memory", total, available)
    note = (
        f"the limit of {tightest.limit / MIB:,.0f} MiB on {tightest.group} "
        f"leaves {tightest.headroom / MIB:,.0f} MiB"
    )
    beyond = available - tightest.headroom
    return Pool("host memory", total, tightest.headroom, (note,), beyond)


def _headroom(limit: GroupLimit) -> int:
    return limit.headroom


def device_pool(
    profile: HardwareProfile,
    host: Pool,
    query: Query | None = None,
    *,
    reusable: Callable[[], int] | None = None,
    root: Path = SYSTEM,
) -> Pool:
    """Tell what a device's memory can still give.

    Args:
        profile: The device.
        host: What `host_pool` told.
        query: The driver's figures; torch's if None.
        reusable: Bytes that torch's allocator holds without using them; torch's figure if None.
        root: Where the system's tree begins.

    Returns:
        On unified memory the host's figure, capped by what the device may use; on a card of its
        own the driver's. A query that raises is replaced, with a note. Never raises.
    """
    if profile.backend == "cpu":
        return host
    query = query or _torch_query(profile)
    if not profile.is_known and not profile.unified:
        note = "the device does not tell its memory; the host's is counted"
        return Pool(f"{profile.device} memory", host.total, host.free, (note,))
    held = reusable() if reusable else reusable_bytes(profile)
    if profile.unified:
        return _unified_pool(profile, host, query, held, root)
    total = profile.total_bytes
    free, notes = _driver_free(profile, query, total)
    if free is None:
        free = total
        notes = (*notes, "all of the card's memory is counted as free")
    free = min(free + held, total)
    if profile.is_disputed and host.free < free:
        free = host.free
        notes = (*notes, "signals about this device disagree; the host's smaller figure is taken")
    return Pool(f"{profile.device} memory", total, free, notes)


def _unified_pool(
    profile: HardwareProfile, host: Pool, query: Query | None, held: int, root: Path
) -> Pool:
    total = min(profile.total_bytes, host.total) if profile.total_bytes else host.total
    free, notes = host.free, host.notes
    if profile.backend == "cuda":
        # cudaMemGetInfo reports MemFree here, from which every cached page is missing.
        notes = (*notes, "the driver's figure counts page cache as used and is not asked")
    else:
        told, more = _driver_free(profile, query, total)
        notes = (*notes, *more)
        if profile.backend == "hip":
            free = _apu_free(host, told, root)
        elif told is not None:
            free = min(free, told)
    free = min(free + held, total)
    return Pool(f"unified memory ({profile.device})", total, free, notes, host.beyond)


def _apu_free(host: Pool, told: int | None, root: Path) -> int:
    """What an APU can still map.

    MemAvailable is too low here: pages that the graphics pool keeps for reuse count as used. The
    figures that replace it do not see what processes hold, so that is taken off as well.
    """
    cards = [card for card in amdgpu_memory(root) if card.gtt_total > 0]
    mappable = [max(0, card.gtt_total - card.gtt_used) for card in cards]
    figures = [*mappable, *([] if told is None else [told])]
    if not figures or host.beyond:
        return min([host.free, *figures])
    counters = read_meminfo(root)
    held = ("AnonPages", "Shmem", "SUnreclaim", "KernelStack", "PageTables")
    unclaimed = counters.get("MemTotal", host.total) - sum(counters.get(name, 0) for name in held)
    return max(0, min([unclaimed, host.total, *figures]))


def _driver_free(
    profile: HardwareProfile, query: Query | None, ceiling: int
) -> tuple[int | None, tuple[str, ...]]:
    """The driver's free bytes, made credible; None and a note where it tells nothing."""
    if query is None:
        return None, (f"torch has no memory figure for {profile.device}",)
    try:
        free, total = (int(value) for value in query())
    except Exception as err:  # noqa: BLE001 - drivers raise anything here; reported in the note
        return None, (f"the driver did not tell its free memory ({type(err).__name__}: {err})",)
    # More than physical is no size; a total of zero is none either.
    credible = min(total, ceiling) if total > 0 else ceiling
    if 0 <= free <= credible:
        return free, ()
    clamped = min(max(free, 0), credible)
    note = (
        f"the driver of {profile.device} reports {free:.3g} bytes free of {total:.3g}; "
        f"counting {clamped / MIB:,.0f} MiB"
    )
    logger.debug("%s", note)
    # Without the numbers: they change from one time to the next.
    _warn_once(
        f"The driver of {profile.device} reports memory that the device cannot have free; what is "
        "possible is counted."
    )
    return clamped, (note,)


def _torch_query(profile: HardwareProfile) -> Query | None:
    device = profile.device
    if device.type == "mps":
        return _mps_query
    try:
        ask: Any = getattr(torch.get_device_module(device), "mem_get_info", None)
    except RuntimeError:
        return None
    return None if ask is None else functools.partial(ask, device)


def _mps_query() -> tuple[int, int]:
    total = int(torch.mps.recommended_max_memory())
    return total - int(torch.mps.driver_allocated_memory()), total


def reusable_bytes(profile: HardwareProfile) -> int:
    """Bytes that torch keeps for reuse: free for us, used in everybody's figures.

    Args:
        profile: The device; 0 where its allocator tells nothing.
    """
    device = profile.device
    try:
        if device.type == "mps":
            kept = torch.mps.driver_allocated_memory() - torch.mps.current_allocated_memory()
            return max(0, int(kept))
        module: Any = torch.get_device_module(device)
        if not module.is_initialized():
            return 0
        return max(0, int(module.memory_reserved(device) - module.memory_allocated(device)))
    except (RuntimeError, AttributeError) as err:
        logger.debug("%s: the allocator's figures were not read: %s", device, err)
        return 0


def default_reserve(profile: HardwareProfile, pool: Pool) -> int:
    """Tell how much of a pool planning leaves free, if the user does not say.

    Args:
        profile: The device whose plan it is.
        pool: The memory from which the plan takes.

    Returns:
        Bytes. On unified memory 4 GiB or 5 %, on machines under 32 GiB 10 %: running out there
        can hang the machine. Where a container's limit binds, and the machine keeps that much
        anyway, 5 % of the limit. Elsewhere 256 MiB, at most 5 %.
    """
    if not profile.unified:
        return min(_SMALL_RESERVE_BYTES, int(pool.total * _SMALL_RESERVE_SHARE))
    machine = max(profile.total_bytes, pool.total)
    if machine < _SMALL_MACHINE_BYTES:
        reserve = int(machine * _SMALL_MACHINE_SHARE)
    else:
        reserve = max(_UNIFIED_RESERVE_BYTES, int(machine * _UNIFIED_RESERVE_SHARE))
    if pool.beyond:
        return max(reserve - pool.beyond, int(pool.total * _SMALL_RESERVE_SHARE))
    return reserve

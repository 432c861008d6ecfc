"""The decision table of ``--load-strategy=auto``: conditions over facts, and what they choose.

The first row whose conditions all hold wins. A condition says in words why it holds or why not;
the words of the winning row are the reason in the log, those of the others are what ``doctor``
prints. Everything here is pure; docs/loading.md shows the same table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

import torch

from comfy.loading.hardware import HardwareProfile
from comfy.loading.memory import MIB, MemoryNeed, Pool, default_reserve
from comfy.loading.options import LoadOptions
from comfy.loading.storage import StorageProfile
from comfy.loading.usage import in_words

Purpose = Literal["run", "edit", "inspect"]
CacheColumn = Literal["keep", "drop", "room"]
DirectColumn = Literal["off", "probe", "fuse"]

SMALL_FILE_BYTES = 64 * MIB
# Above this share in the page cache, buffered reads beat those that go around it.
WARM_FRACTION = 0.2
HOT_FRACTION = 0.8
# Room for the cached file and for work beside it.
_ROOM_FACTOR = 1.5
# Streaming: the weights in use and those that are read ahead.
_STREAMED_WEIGHTS = 2

TOO_LARGE = 2


@dataclass(frozen=True, slots=True)
class LoadRequest:
    """What the caller wants; nothing about how.

    Attributes:
        path: The checkpoint.
        device: Where the weights are wanted; None leaves them as the strategy holds them.
        dtype: For floating weights; None keeps each as it is in the file.
        keys: Which weights; None means all.
        purpose: To execute them, to change them, or only to look.
        partial: The caller can leave weights in the file and have them read on demand.
        offload: The caller streams weights through the device again and again (low VRAM).
    """

    path: str
    device: torch.device | None
    dtype: torch.dtype | None = None
    keys: frozenset[str] | None = None
    purpose: Purpose = "run"
    partial: bool = False
    offload: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a decision depends on, besides the request.

    Attributes:
        profile: The device that will execute the weights.
        storage: Where the file lies.
        host: What host memory can give.
        device: What the device's memory can give; the same figures as `host` on the CPU.
        file_bytes: Bytes of the wanted weights in the file.
        need_bytes: Their bytes in the wanted dtype.
        largest_bytes: Bytes of the largest of them.
        largest_cast_bytes: Largest temporary of a cast; 0 without casts.
        options: What the user set.
        executes_on_cpu: The CPU computes with them.
        casts: Their dtype changes on the way.
        places_now: The load itself brings them to an accelerator; otherwise a strategy that
            leaves them in the file takes no memory for them yet.
        estimates: What strategies say that they need; those that are missing are computed.
    """

    profile: HardwareProfile
    storage: StorageProfile
    host: Pool
    device: Pool
    file_bytes: int
    need_bytes: int
    largest_bytes: int
    largest_cast_bytes: int
    options: LoadOptions
    executes_on_cpu: bool
    casts: bool = False
    places_now: bool = True
    estimates: Mapping[str, MemoryNeed] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Shortfall:
    """A pool, the bytes that a plan takes from it, and those that it can give."""

    pool: Pool
    nbytes: int
    available: int


@dataclass(frozen=True, slots=True)
class Case:
    """One decision: a request and the facts, with what follows from them."""

    request: LoadRequest
    facts: Facts

    @property
    def on_cpu(self) -> bool:
        """Whether the weights' home is host memory."""
        return self.facts.executes_on_cpu or self.facts.profile.backend == "cpu"

    @property
    def is_unified(self) -> bool:
        """Whether cached pages are taken from the weights' own memory."""
        return self.facts.profile.unified

    @property
    def is_remote(self) -> bool:
        """Whether something other than this machine's kernel serves the file."""
        return self.facts.storage.is_network or self.facts.storage.is_fuse

    @property
    def hot(self) -> float:
        """Share of the wanted bytes that are in memory already."""
        storage = self.facts.storage
        return 1.0 if storage.is_memory else storage.resident_fraction or 0.0

    def reserve(self, pool: Pool) -> int:
        """Bytes of a pool that planning leaves alone."""
        chosen = self.facts.options.reserve_bytes
        return default_reserve(self.facts.profile, pool) if chosen is None else chosen

    def available(self, pool: Pool) -> int:
        """Bytes of a pool that a plan may take."""
        return max(0, pool.free - self.reserve(pool))

    @property
    def host_has_room(self) -> bool:
        """Whether a copy of the file in the page cache costs nobody anything."""
        return self.available(self.facts.host) >= _ROOM_FACTOR * self.facts.file_bytes

    def need(self, strategy: str, *, on_demand: bool = False) -> MemoryNeed:
        """What a strategy takes at its worst moment.

        Args:
            strategy: Its name; of one that is not ours the most is assumed.
            on_demand: Weights stay in the file, and come when they are used.
        """
        facts = self.facts
        if strategy in facts.estimates:
            return facts.estimates[strategy]
        staging = 0 if self.on_cpu else facts.options.staging_bytes
        places = facts.places_now and not self.on_cpu
        streams = on_demand or (self.request.offload and not self.is_unified)
        streamed = min(facts.need_bytes, _STREAMED_WEIGHTS * facts.largest_bytes)
        device = (streamed if streams else facts.need_bytes) if places else 0
        if strategy == "file-slice":
            host = streamed if self.on_cpu and facts.places_now else 0
        elif strategy == "mmap" and not facts.casts:
            host = 0
        elif places and self.is_unified:
            # Host tensors leave one by one while device tensors arrive; both are one memory.
            host, device = facts.largest_bytes, max(facts.need_bytes, facts.file_bytes)
        else:
            host = facts.file_bytes if places else facts.need_bytes
        return MemoryNeed(facts.file_bytes, host, device, staging, facts.largest_cast_bytes)

    def shortfall(self, need: MemoryNeed) -> Shortfall | None:
        """Find a pool that cannot give what is needed of it; None if all can."""
        facts, on_host = self.facts, need.host + need.staging
        host, device = self.available(facts.host), self.available(facts.device)
        if self.on_cpu:
            wanted = [Shortfall(facts.host, on_host + need.cast, host)]
        elif self.is_unified:
            wanted = [
                Shortfall(facts.device, need.unified_total(), device),
                # The reserve is taken off once, above; it is one memory.
                Shortfall(facts.host, on_host, facts.host.free),
            ]
        else:
            wanted = [
                Shortfall(facts.device, need.device + need.cast, device),
                Shortfall(facts.host, on_host, host),
            ]
        return next((one for one in wanted if one.nbytes > one.available), None)


Finding = tuple[bool, str]
"""Whether a condition holds, and in words why or why not."""

Condition = Callable[[Case], Finding]


def _either(holds: bool, yes: str, no: str) -> Finding:
    return holds, yes if holds else no


def cpu_executes(case: Case) -> Finding:
    """Weights are used where the host can read them."""
    return _either(case.on_cpu, "the CPU executes", f"{case.facts.profile.device} executes")


def no_cast(case: Case) -> Finding:
    """The file's bytes are the weights."""
    return _either(not case.facts.casts, "dtype unchanged", "the dtype changes")


def mapping_pays(case: Case) -> Finding:
    """Mapped pages are in memory already, or more than memory holds."""
    if case.facts.storage.is_memory:
        return True, f"on {case.facts.storage.kind}"
    if case.hot > HOT_FRACTION:
        return True, f"{case.hot:.0%} cached"
    free = case.available(case.facts.host)
    if case.facts.file_bytes > free:
        return (
            True,
            f"{in_words(case.facts.file_bytes)} of file for {in_words(free)} of free memory",
        )
    return False, f"{case.hot:.0%} cached, and the file fits into free memory"


def does_not_fit(case: Case) -> Finding:
    """The pool that must hold the weights cannot."""
    need = case.need("readinto" if case.on_cpu else "file-slice")
    short = case.shortfall(need)
    if short is None:
        return False, "the weights fit"
    return True, (
        f"{in_words(short.nbytes)} needed of {short.pool.name}, "
        f"{in_words(short.available)} available"
    )


def is_small(case: Case) -> Finding:
    """So little that machinery costs more than it brings."""
    size = in_words(case.facts.file_bytes)
    return _either(case.facts.file_bytes < SMALL_FILE_BYTES, f"only {size}", size)


def unified(case: Case) -> Finding:
    """Device memory is host memory."""
    if case.on_cpu:
        return False, "the CPU executes"
    return _either(case.is_unified, "unified memory", "the device has memory of its own")


def discrete(case: Case) -> Finding:
    """Device memory is the device's own, and its size is known."""
    if case.on_cpu:
        return False, "the CPU executes"
    if case.is_unified:
        return False, "unified memory"
    known = case.facts.profile.is_known
    return _either(known, f"discrete {case.facts.profile.backend}", "unknown backend")


def unknown(case: Case) -> Finding:
    """Nothing is known about the device's memory."""
    known = case.facts.profile.is_known or case.on_cpu or case.is_unified
    return _either(not known, f"{case.facts.profile.backend} backend", "the backend is known")


def mps(case: Case) -> Finding:
    """Apple's devices."""
    return _either(case.facts.profile.backend == "mps", "MPS", "not MPS")


def not_mps(case: Case) -> Finding:
    """Any device but Apple's."""
    return _either(case.facts.profile.backend != "mps", "", "MPS")


def coherent(case: Case) -> Finding:
    """The device walks the host's page tables, so that its memory may hold page cache."""
    return _either(
        case.facts.profile.coherent, "it uses the host's page tables", "page tables of its own"
    )


def remote(case: Case) -> Finding:
    """Something other than this machine's kernel serves the file."""
    return _either(case.is_remote, f"{case.facts.storage.kind} storage", "local disk")


def local(case: Case) -> Finding:
    """This machine's kernel serves the file."""
    return _either(not case.is_remote, "local disk", f"{case.facts.storage.kind} storage")


def warm(case: Case) -> Finding:
    """Enough is cached for buffered reads to win."""
    return _either(case.hot >= WARM_FRACTION, f"{case.hot:.0%} cached", f"cold ({case.hot:.0%})")


def cold(case: Case) -> Finding:
    """So little is cached that reads around the cache win."""
    return _either(case.hot < WARM_FRACTION, "cold", f"{case.hot:.0%} cached")


def windows(case: Case) -> Finding:
    """Windows, where a mapping is charged against the page file."""
    return _either(case.facts.profile.platform == "win32", "Windows", "not Windows")


def offloads(case: Case) -> Finding:
    """Weights are streamed through the device again and again."""
    return _either(case.request.offload, "weights are streamed", "weights stay on the device")


def host_holds_all(case: Case) -> Finding:
    """Host memory can hold what is streamed."""
    need = case.need("readinto")
    free, size = case.available(case.facts.host), need.host + need.staging
    return free >= size, f"{in_words(free)} of host memory for {in_words(size)}"


def host_roomy(case: Case) -> Finding:
    """The page cache may keep the file as a warm copy."""
    free = in_words(case.available(case.facts.host))
    return _either(case.host_has_room, f"{free} of host memory free", f"only {free} of host memory")


def host_holds_largest_too(case: Case) -> Finding:
    """Host memory can hold all weights, and one of them twice."""
    size = case.facts.need_bytes + case.facts.largest_bytes
    free = case.available(case.facts.host)
    return free >= size, f"{in_words(free)} of host memory for {in_words(size)}"


@dataclass(frozen=True, slots=True)
class Row:
    """One row: if all conditions hold, the first strategy that can be used is taken.

    Attributes:
        number: As in the documentation.
        title: What kind of load this is.
        conditions: Asked in order.
        strategies: Names, the preferred one first.
        cache: What becomes of the page cache: "room" keeps it if host memory is plenty.
        direct: Whether to read around it, never while keeping it: "probe" if the disk allows and
            the file is cold, "fuse" if the filesystem is FUSE besides.
        threads: Reader threads; 0 lets storage decide.
    """

    number: int
    title: str
    conditions: tuple[Condition, ...]
    strategies: tuple[str, ...]
    cache: CacheColumn
    direct: DirectColumn
    threads: int = 0

    def judge(self, case: Case) -> tuple[bool, tuple[str, ...]]:
        """Tell whether the row applies, and the reasons: all of them, or the one against it."""
        reasons = []
        for condition in self.conditions:
            holds, words = condition(case)
            if not holds:
                return False, (words,)
            reasons.append(words)
        return True, tuple(reason for reason in reasons if reason)


_SLICE = ("file-slice",)
_READ = ("readinto",)

ROWS = (
    Row(1, "CPU, from memory or larger than it", (cpu_executes, no_cast, mapping_pays),
        ("mmap",), "keep", "off"),
    Row(TOO_LARGE, "larger than the memory that must hold it", (does_not_fit,),
        _SLICE, "drop", "probe"),
    Row(3, "small file", (is_small,), _READ, "keep", "off", threads=1),
    Row(4, "CPU", (cpu_executes,), _READ, "drop", "probe"),
    Row(5, "unified memory, remote file", (unified, not_mps, remote), _SLICE, "drop", "fuse"),
    Row(6, "unified memory, cached file", (unified, not_mps, local, warm), _SLICE, "drop", "off"),
    Row(7, "unified memory, cold file", (unified, not_mps, local, cold), _SLICE, "drop", "probe"),
    # Our own reader, whether or not safetensors' bulk loader for MPS is there: one code path.
    Row(8, "MPS", (mps,), _SLICE, "drop", "probe"),
    Row(9, "coherent device (Grace Hopper)", (discrete, coherent), _SLICE, "drop", "probe"),
    Row(10, "discrete, remote file", (discrete, remote), _SLICE, "room", "fuse"),
    Row(11, "discrete, Windows", (discrete, windows), _SLICE, "keep", "off"),
    Row(12, "discrete, streamed from host memory", (discrete, offloads, local, host_holds_all),
        _READ, "drop", "probe"),
    Row(13, "discrete, streamed from the file", (discrete, offloads, local),
        _SLICE, "room", "off"),
    Row(14, "discrete, host memory plenty", (discrete, local, host_roomy),
        _SLICE, "keep", "probe"),
    Row(15, "discrete, host memory scarce", (discrete, local), _SLICE, "drop", "probe"),
    Row(16, "unknown backend", (unknown, host_holds_largest_too), _READ, "room", "off"),
    Row(17, "anything else", (), ("readinto", "mmap"), "keep", "off"),
)  # fmt: skip
"""In order; the first that matches wins."""

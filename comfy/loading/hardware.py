"""What a device is: facts gathered from several signals, and a vote on unified memory.

*Unified* means that device memory is the host's memory, so that a second copy of a weight costs
the same bytes twice. It is decided by what drivers and the system report, never by the name of a
product. A strong signal decides; two weak ones decide where no strong one speaks; the user's
``--unified-memory`` beats them all. Every signal is kept as a `Vote`, so that ``doctor`` can show
how a verdict came about.

Nothing here runs at import, and probing the CPU touches no accelerator.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch

from comfy.loading.options import Switch
from comfy.loading.signals import (
    CUDA_HOST_REGISTER_SUPPORTED,
    CUDA_INTEGRATED,
    CUDA_USES_HOST_PAGE_TABLES,
    DriverFacts,
    HardwareSources,
)

Backend = Literal["cpu", "cuda", "hip", "xpu", "mps", "directml", "other"]
Says = Literal["unified", "discrete", "nothing"]

OVERRIDE = "--unified-memory"
# A driver that claims more than this is not reporting a size (1e32 was seen on Jetson Thor).
LARGEST_MEMORY_BYTES = 1 << 50
# GB10 reports 100 % of MemTotal as its own, an APU with the default TTM limit 50 %.
_UNIFIED_SHARE = (0.40, 1.05)
_SAME_SIZE_SHARE = (0.90, 1.10)
# An APU's own carve-out is tiny beside what it may map; a card's memory is not.
_CARVE_OUT_SHARE = 0.25

_ACCELERATORS = ("cuda", "xpu", "mps", "npu", "mlu")
_BUILT_IN = ("cpu", "cuda", "xpu", "mps")


@dataclass(frozen=True, slots=True)
class Vote:
    """How one signal argued.

    Attributes:
        signal: Where the value came from.
        value: What was seen, in words.
        says: The conclusion it supports.
        strong: Whether it decides alone.
    """

    signal: str
    value: str
    says: Says
    strong: bool


@dataclass(frozen=True, slots=True)
class HardwareProfile:
    """Facts about one device and the machine around it; no policy.

    Attributes:
        device: The device, with its index where it has one.
        backend: Which kind of driver serves it.
        unified: Device memory is host memory.
        coherent: The device walks the CPU's page tables (GB10, GH200).
        votes: The signals, in the order in which they were asked.
        total_bytes: Memory of the device; 0 if unknown.
        page_bytes: Size of a page of the system.
        platform: As ``sys.platform``, or "wsl".
        registers_host_memory: Host memory can be page-locked for the device.
        cpu_count: CPUs that this process may use.
    """

    device: torch.device
    backend: Backend
    unified: bool
    coherent: bool
    votes: tuple[Vote, ...]
    total_bytes: int
    page_bytes: int
    platform: str
    registers_host_memory: bool
    cpu_count: int

    @property
    def is_known(self) -> bool:
        """Whether somebody told what the device is; false for DirectML and unregistered kinds."""
        return self.backend != "directml" and self.total_bytes > 0

    @property
    def is_disputed(self) -> bool:
        """Whether strong signals contradict each other and the user did not decide."""
        strong = [vote for vote in self.votes if vote.strong]
        if any(vote.signal == OVERRIDE for vote in strong):
            return False
        return {"unified", "discrete"} <= {vote.says for vote in strong}


HardwareProbe = Callable[[torch.device], HardwareProfile]

_probes: dict[str, HardwareProbe] = {}


def register_hardware_probe(device_type: str, probe_device: HardwareProbe) -> None:
    """Teach `probe` a kind of device that torch's own backends do not cover.

    Args:
        device_type: As in ``torch.device.type``.
        probe_device: Tells the facts of one such device.

    Raises:
        ValueError: If the kind is torch's own, or taught by somebody else already.
    """
    known = _probes.get(device_type)
    if device_type in _BUILT_IN or (known is not None and known is not probe_device):
        owner = "this package" if known is None else repr(known)
        raise ValueError(
            f"devices of type '{device_type}' are already probed by {owner}; "
            f"{probe_device!r} was not registered."
        )
    _probes[device_type] = probe_device


def unregister_hardware_probe(device_type: str) -> None:
    """Forget what `register_hardware_probe` taught; harmless when repeated."""
    _probes.pop(device_type, None)


def probe(
    device: torch.device, *, unified: Switch = "auto", sources: HardwareSources | None = None
) -> HardwareProfile:
    """Gather the facts about a device.

    Args:
        device: Which; without an index the current one of its kind.
        unified: The user's word on unified memory; "auto" lets the votes decide.
        sources: Where facts come from; the real ones if None.

    Returns:
        The profile. A driver that cannot be asked leaves facts unknown; it never raises here.
    """
    sources = sources or HardwareSources()
    if device.type == "cpu":
        return _cpu_profile(device, sources)
    registered = _probes.get(device.type)
    profile = registered(device) if registered else _probe_accelerator(device, sources)
    if unified == "auto":
        return profile
    says: Says = "unified" if unified == "on" else "discrete"
    vote = Vote(OVERRIDE, unified, says, strong=True)
    return replace(profile, unified=unified == "on", votes=(*profile.votes, vote))


def _cpu_profile(device: torch.device, sources: HardwareSources) -> HardwareProfile:
    return HardwareProfile(
        device=device,
        backend="cpu",
        unified=False,
        coherent=False,
        votes=(),
        total_bytes=sources.host_total_bytes(),
        page_bytes=sources.page_bytes(),
        platform=sources.platform(),
        registers_host_memory=False,
        cpu_count=sources.cpu_count(),
    )


def _probe_accelerator(device: torch.device, sources: HardwareSources) -> HardwareProfile:
    backend = _backend(device, sources)
    facts = DriverFacts() if backend in ("directml", "other") else sources.driver(device)
    index = facts.index or 0
    if backend == "cuda" and facts.is_integrated is None:
        flag = sources.cuda_attribute(CUDA_INTEGRATED, index)
        facts = replace(facts, is_integrated=None if flag is None else bool(flag))
    shares_tables = backend == "cuda" and bool(
        sources.cuda_attribute(CUDA_USES_HOST_PAGE_TABLES, index)
    )
    host_total = sources.host_total_bytes()
    votes = _votes(backend, facts, host_total, shares_tables, sources)
    is_unified = _is_unified(votes)
    total = _credible_total(facts, host_total)
    indexed = device if facts.index is None else torch.device(device.type, facts.index)
    return HardwareProfile(
        device=indexed,
        backend=backend,
        unified=is_unified,
        coherent=shares_tables,
        votes=votes,
        total_bytes=min(total, host_total) if is_unified else total,
        page_bytes=sources.page_bytes(),
        platform=sources.platform(),
        registers_host_memory=_registers_host_memory(backend, index, sources),
        cpu_count=sources.cpu_count(),
    )


def _backend(device: torch.device, sources: HardwareSources) -> Backend:
    if device.type == "cuda":
        return "hip" if sources.is_hip() else "cuda"
    if device.type == "xpu":
        return "xpu"
    if device.type == "mps":
        return "mps"
    if device.type == "privateuseone" and sources.is_directml():
        return "directml"
    return "other"


def _credible_total(facts: DriverFacts, host_total: int) -> int:
    """The driver's total; where it cannot be a size, the host's if that is the same memory."""
    if facts.total_bytes is None or facts.total_bytes > LARGEST_MEMORY_BYTES:
        return host_total if facts.is_integrated else 0
    return facts.total_bytes


def _registers_host_memory(backend: Backend, index: int, sources: HardwareSources) -> bool:
    if backend == "hip":
        return True
    if backend != "cuda":
        return False
    flag = sources.cuda_attribute(CUDA_HOST_REGISTER_SUPPORTED, index)
    return sources.platform() != "wsl" if flag is None else bool(flag)


def _votes(
    backend: Backend,
    facts: DriverFacts,
    host_total: int,
    shares_tables: bool,
    sources: HardwareSources,
) -> tuple[Vote, ...]:
    votes = []
    if facts.error:
        votes.append(Vote("driver", facts.error, "nothing", strong=False))
    if facts.is_integrated is not None:
        says: Says = "unified" if facts.is_integrated else "discrete"
        votes.append(Vote("integrated flag", str(facts.is_integrated), says, strong=True))
    if facts.total_bytes is not None:
        votes.append(_total_vote(backend, facts, facts.total_bytes, host_total))
    if backend == "cuda":
        told: Says = "unified" if shares_tables else "nothing"
        votes.append(Vote("uses host page tables", str(shares_tables), told, strong=False))
    votes.extend(_amdgpu_votes(sources) if backend == "hip" else ())
    return tuple(votes)


def _total_vote(backend: Backend, facts: DriverFacts, total: int, host_total: int) -> Vote:
    """Compare the device's total with the host's: far apart, they are not the same memory."""
    if total > LARGEST_MEMORY_BYTES:
        return Vote("total memory", f"{total:.3g} bytes is no size", "nothing", strong=False)
    share = total / max(1, host_total)
    value = f"{total / 2**30:.1f} GiB, {share:.0%} of the host's"
    low, high = _UNIFIED_SHARE
    # An RTX 5090 was once taken for unified; the flag alone is not believed.
    if backend in ("cuda", "hip") and facts.is_integrated and not low <= share <= high:
        return Vote("total memory", value, "discrete", strong=True)
    low, high = _SAME_SIZE_SHARE
    says: Says = "unified" if low <= share <= high else "nothing"
    return Vote("total memory", value, says, strong=False)


def _amdgpu_votes(sources: HardwareSources) -> list[Vote]:
    votes = []
    for card in sources.amdgpu():
        is_small = card.vram_total <= card.gtt_total * _CARVE_OUT_SHARE
        value = f"VRAM {card.vram_total / 2**30:.1f} GiB, GTT {card.gtt_total / 2**30:.1f} GiB"
        votes.append(Vote("amdgpu", value, "unified" if is_small else "nothing", strong=False))
    # Several cards: it is not known which one is meant, and two of them are not two signals.
    return votes if len(votes) == 1 else [replace(vote, says="nothing") for vote in votes]


def _is_unified(votes: tuple[Vote, ...]) -> bool:
    strong = {vote.says for vote in votes if vote.strong}
    if strong:
        return strong == {"unified"}
    return sum(vote.says == "unified" for vote in votes) >= 2


def _is_usable(kind: str) -> bool:
    if kind == "mps":
        return torch.backends.mps.is_available()
    module = getattr(torch, kind, None)
    return module is not None and bool(module.is_available())


def default_device(
    force_cpu: bool = False, *, is_usable: Callable[[str], bool] = _is_usable
) -> torch.device:
    """Choose the first accelerator that torch can use, or the CPU.

    Args:
        force_cpu: Take the CPU whatever there is.
        is_usable: Tells whether a kind of device can be used.

    Note:
        Creates no device context.
    """
    if not force_cpu:
        for kind in _ACCELERATORS:
            if is_usable(kind):
                return torch.device(kind) if kind == "mps" else torch.device(kind, 0)
    return torch.device("cpu")

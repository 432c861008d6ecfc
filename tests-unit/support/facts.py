"""Machines, disks and requests to reason about: values only, no hardware is asked.

The machines are those of which figures are known (docs/loading.md names the sources). Each
factory takes changes by keyword, so that a test shows only what it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from comfy.loading.decision_table import Facts, LoadRequest
from comfy.loading.hardware import Backend, HardwareProfile
from comfy.loading.memory import Pool
from comfy.loading.options import LoadOptions
from comfy.loading.signals import AmdgpuMemory, DriverFacts, HardwareSources
from comfy.loading.storage import StorageProfile

MIB = 1 << 20
GIB = 1 << 30

CPU = torch.device("cpu")
CUDA = torch.device("cuda", 0)

EVERYTHING: Mapping[str, str | None] = {"mmap": None, "readinto": None, "file-slice": None}
"""All of our strategies, each of them usable."""


def refuse(*_: object) -> Any:
    """Stands for a source that must not be asked."""
    raise AssertionError("this source must not be asked")


@dataclass(frozen=True, slots=True)
class Machine:
    """What the drivers and the system of a machine report."""

    device: torch.device
    host_total_bytes: int
    driver: DriverFacts = field(default_factory=DriverFacts)
    attributes: Mapping[int, int] | None = None
    platform: str = "linux"
    is_hip: bool = False
    is_directml: bool = False
    amdgpu: tuple[AmdgpuMemory, ...] = ()

    def sources(self, **changes: Callable[..., Any]) -> HardwareSources:
        """Make sources that report this machine."""
        attributes = self.attributes or {}
        sources = HardwareSources(
            platform=lambda: self.platform,
            cpu_count=lambda: 16,
            page_bytes=lambda: 4096,
            host_total_bytes=lambda: self.host_total_bytes,
            is_hip=lambda: self.is_hip,
            is_directml=lambda: self.is_directml,
            driver=lambda device: self.driver,
            cuda_attribute=lambda attribute, index: attributes.get(attribute),
            amdgpu=lambda: self.amdgpu,
        )
        return replace(sources, **changes)


def cuda_machine(
    total_gib: float, host_gib: float, integrated: bool | None, **changes: Any
) -> Machine:
    """A machine whose device is served by CUDA, or by HIP if the changes say so."""
    driver = DriverFacts(0, int(total_gib * GIB), integrated)
    return replace(Machine(CUDA, int(host_gib * GIB), driver), **changes)


GB10 = cuda_machine(121.69, 121.69, True, attributes={18: 1, 99: 1, 100: 1})
JETSON_ORIN = cuda_machine(61.4, 61.4, True, attributes={18: 1, 99: 1, 100: 0})
STRIX_HALO = cuda_machine(
    62.47, 124.92, True, is_hip=True, amdgpu=(AmdgpuMemory(GIB // 2, 62 * GIB, GIB),)
)
N1X = cuda_machine(46477 / 1024, 64, True, platform="win32")
N1X_CARVE_OUT = cuda_machine(8128 / 1024, 64, True, platform="win32")
RTX_5090 = cuda_machine(31.8, 128, False, attributes={18: 0, 99: 1, 100: 0})
RTX_5090_AS_UNIFIED = cuda_machine(31.8, 128, True, attributes={18: 1, 99: 1, 100: 0})
GH200 = cuda_machine(94.5, 480, False, attributes={18: 0, 99: 1, 100: 1})
XPU_IGPU = Machine(torch.device("xpu", 0), 32 * GIB, DriverFacts(0, 28 * GIB, True))
ARC = Machine(torch.device("xpu", 0), 64 * GIB, DriverFacts(0, 16 * GIB, False))
MAC = Machine(torch.device("mps"), 64 * GIB, DriverFacts(None, 48 * GIB, True), platform="darwin")
DIRECTML = Machine(torch.device("privateuseone", 0), 32 * GIB, platform="win32", is_directml=True)


def profile(
    backend: Backend = "cuda",
    *,
    unified: bool = False,
    coherent: bool = False,
    total_bytes: int = 24 * GIB,
    platform: str = "linux",
    cpu_count: int = 16,
) -> HardwareProfile:
    """A device as `probe` would tell it; a discrete CUDA card unless said otherwise."""
    types = {"hip": "cuda", "directml": "privateuseone", "other": "privateuseone"}
    kind = types.get(backend, backend)
    return HardwareProfile(
        device=torch.device(kind) if kind in ("cpu", "mps") else torch.device(kind, 0),
        backend=backend,
        unified=unified or backend == "mps",
        coherent=coherent,
        votes=(),
        total_bytes=0 if backend in ("directml", "other") else total_bytes,
        page_bytes=4096,
        platform=platform,
        registers_host_memory=backend in ("cuda", "hip"),
        cpu_count=cpu_count,
    )


def storage(
    kind: str = "ext4",
    *,
    hot: float | None = 0.0,
    direct: int = 4096,
    rotational: bool = False,
) -> StorageProfile:
    """A disk as `probe_storage` would tell it; a cold local SSD unless said otherwise."""
    is_network = kind in ("nfs4", "9p", "fuse.sshfs")
    is_fuse = kind.startswith("fuse")
    return StorageProfile(
        kind=kind,
        is_local=not is_network and not is_fuse,
        is_rotational=rotational,
        is_memory=kind == "tmpfs",
        is_network=is_network,
        is_fuse=is_fuse,
        resident_fraction=hot,
        direct_block_bytes=0 if kind in ("tmpfs", "nfs4") else direct,
    )


def pool(free: int, total: int | None = None, name: str = "host memory", **changes: Any) -> Pool:
    """A pool with so many bytes free; nothing of it is in use unless said otherwise."""
    return Pool(name, free if total is None else total, free, **changes)


def request(**changes: Any) -> LoadRequest:
    """A request for a file on the first CUDA device, unless said otherwise."""
    return LoadRequest(**{"path": "model.safetensors", "device": CUDA, **changes})


def facts(**changes: Any) -> Facts:
    """Facts of a 6 GiB file for a discrete 24 GiB card beside 64 GiB of host memory.

    On the CPU and on unified memory the device's pool is the host's, unless given. ``options``
    may be a dict of `LoadOptions` fields.
    """
    size = changes.get("file_bytes", 6 * GIB)
    device = changes.get("profile", profile())
    host = changes.get("host", pool(60 * GIB, 64 * GIB))
    shares = device.unified or device.backend in ("cpu", "directml", "other")
    own = pool(23 * GIB, 24 * GIB, f"{device.device} memory")
    values: dict[str, Any] = {
        "profile": device,
        "storage": storage(),
        "host": host,
        "device": host if shares else own,
        "file_bytes": size,
        "need_bytes": size,
        "largest_bytes": min(size, 300 * MIB),
        "largest_cast_bytes": 0,
        "executes_on_cpu": device.backend == "cpu",
    }
    values.update(changes)
    options = changes.get("options", {})
    values["options"] = options if isinstance(options, LoadOptions) else LoadOptions(**options)
    return Facts(**values)


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Write a piece of a system's tree: relative path to text.

    Returns:
        `root`, to be given as the place where the system's tree begins.
    """
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def meminfo(total: int, available: int | None, **counters: int) -> str:
    """Write /proc/meminfo; all in bytes.

    Args:
        total: MemTotal.
        available: MemAvailable; None leaves the line out, as kernels before 3.14 do.
        counters: More lines, by name.
    """
    values = {"MemTotal": total, **counters}
    if available is not None:
        values["MemAvailable"] = available
    lines = [f"{name}: {value // 1024:>12} kB" for name, value in values.items()]
    return "\n".join([*lines, "HugePages_Total:       0", ""])

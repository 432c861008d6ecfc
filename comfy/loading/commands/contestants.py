"""What can be measured: our strategies, stock safetensors, and what the machine allows at best.

A `Contestant` names a target that a measuring process calls (see `one_run`). Every load ends when
each weight can be used: on its device, synchronised, and touched page by page where it is mapped,
since a mapping by itself reads nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import safetensors
import safetensors.torch
import torch

from comfy.loading.commands.one_run import Job, Outcome
from comfy.loading.file_tensor import FileTensor
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.pages import PAGE_BYTES, writable_bytes
from comfy.loading.plan import LoadRequest
from comfy.loading.sources import is_mapped

Kind = Literal["ours", "stock", "peer", "disk", "memory"]

_OURS = "comfy.loading.commands.contestants:prepare_ours"
_STOCK = "comfy.loading.commands.contestants:prepare_safetensors"
_DISK = "comfy.loading.commands.ceilings:prepare_disk"
_MEMORY = "comfy.loading.commands.ceilings:prepare_memory"
_DEVICE_MEMORY = "comfy.loading.commands.contestants:prepare_device_memory"


@dataclass(frozen=True, slots=True)
class Contestant:
    """Something whose time and memory are measured.

    Attributes:
        name: In the tables.
        kind: Whose it is; "disk" and "memory" are ceilings, not loaders.
        target: As `one_run` calls it.
        arguments: For the target.
        is_private: It leaves the caller with memory of its own, not with pages of the file.
        maps: It maps the file, so that pages of the file are part of its peak.
        device: Where it brings the weights, as torch writes it.
        setup: Called first in the measuring process, "module:function", or "".
    """

    name: str
    kind: Kind
    target: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    is_private: bool = True
    maps: bool = False
    device: str = "cpu"
    setup: str = ""

    @property
    def is_ceiling(self) -> bool:
        """Whether it tells what is possible instead of loading."""
        return self.kind in ("disk", "memory")


def ours(
    strategy: str, options: LoadOptions, device: str = "cpu", setup: str = "", name: str = ""
) -> Contestant:
    """One of our strategies, or "auto"."""
    return Contestant(
        name=name or strategy,
        kind="ours",
        target=_OURS,
        arguments={"options": asdict(replace(options, strategy=strategy))},
        is_private=strategy != "mmap" or device != "cpu",
        maps=strategy == "mmap" and device == "cpu",
        device=device,
        setup=setup,
    )


def stock(backend: str, *, copies: bool, device: str = "cpu", setup: str = "") -> Contestant:
    """The safetensors library by itself.

    Args:
        backend: "mmap" or "pread", as the library names them.
        copies: Clone each mapped tensor, so that the caller gets memory of its own.
        device: Where to bring the weights; another than the CPU copies by itself.
        setup: As for `Contestant`.
    """
    suffix = ", then copy" if copies or (device != "cpu" and backend == "mmap") else ""
    return Contestant(
        name=f"safetensors {backend}{suffix}",
        kind="stock",
        target=_STOCK,
        arguments={"backend": backend, "copies": copies},
        is_private=copies or backend != "mmap" or device != "cpu",
        maps=backend == "mmap",
        device=device,
        setup=setup,
    )


def ceilings(device: str = "cpu", setup: str = "") -> list[Contestant]:
    """The disk, in the two ways that are best on one disk or another, and fresh memory."""
    memory = _MEMORY if device == "cpu" else _DEVICE_MEMORY
    return [
        Contestant("disk, 1 thread", "disk", _DISK, {"threads": 1, "piece_mib": 8}),
        Contestant("disk, 4 threads", "disk", _DISK, {"threads": 4, "piece_mib": 2}),
        Contestant("memory", "memory", memory, device=device, setup=setup),
    ]


# -- in the measuring process ------------------------------------------------------------------


def prepare_ours(job: Job) -> Callable[[], Outcome]:
    """Load with a Loader of its own; arguments: ``options``."""
    device = awake(job.device)
    loader = Loader(LoadOptions(**job.arguments["options"]), run_device=device)
    loader.profile(device)
    for name in loader.registry:
        # Imports are nobody's loading time: not those of peers, and not ours.
        loader.registry.get(name)

    def act() -> Outcome:
        loaded = loader.open(LoadRequest(path=job.path, device=device))
        state = loaded.state_dict
        if any(isinstance(value, FileTensor) for value in state.values()):
            # On the CPU file-slice leaves weights in the file until somebody wants them.
            loader.place(state, device)
        mapped = [value for value in state.values() if _is_mapped(value)]
        touch(mapped)
        plan = loaded.plan
        notes = {
            "strategy": plan.strategy,
            "row": plan.row,
            "threads": plan.threads,
            "direct": plan.direct,
            "cache": plan.cache,
            "mapped": bool(mapped),
        }
        return finished(state, device, notes)

    return act


def prepare_safetensors(job: Job) -> Callable[[], Outcome]:
    """Load with the library; arguments: ``backend``, ``copies``."""
    device = awake(job.device)
    backend, copies = job.arguments["backend"], job.arguments["copies"]
    is_lazy = backend == "mmap" and not copies and device.type == "cpu"

    def act() -> Outcome:
        state: dict[str, torch.Tensor] = {}
        for path in job.files:
            with safetensors.safe_open(path, "pt", device="cpu", backend=backend) as file:
                for name in file.keys():  # noqa: SIM118 - not a dictionary
                    tensor = file.get_tensor(name)
                    if device.type != "cpu":
                        tensor = tensor.to(device)
                    state[name] = tensor.clone() if copies and device.type == "cpu" else tensor
        if is_lazy:
            touch(state.values())
        return finished(state, device, {"backend": backend})

    return act


def prepare_device_memory(job: Job) -> Callable[[], Outcome]:
    """Copy as many bytes as the weights have into fresh memory of the device, in one thread."""
    device = awake(job.device)
    # A device in host memory would otherwise be filled by a team of threads.
    torch.set_num_threads(1)
    source = torch.ones(64 * 1024 * 1024, dtype=torch.uint8)
    if device.type == "cuda":
        source = source.pin_memory()

    def act() -> Outcome:
        kept = []
        for size in job.sizes:
            target = torch.empty(size, dtype=torch.uint8, device=device)
            for start in range(0, size, source.numel()):
                piece = min(source.numel(), size - start)
                target[start : start + piece].copy_(source[:piece], non_blocking=True)
            kept.append(target)
        synchronize(device)
        return Outcome(tensors=kept, nbytes=sum(job.sizes))

    return act


def awake(device: str) -> torch.device:
    """Make the context of a device, which is not what is measured."""
    found = torch.device(device)
    if found.type != "cpu":
        torch.empty(1, device=found)
        synchronize(found)
    if found.type in ("cuda", "xpu"):
        torch.get_device_module(found).reset_peak_memory_stats(found)
    return found


def synchronize(device: torch.device) -> None:
    """Wait until a device has done all that was queued."""
    if device.type == "cpu":
        return
    module = torch.get_device_module(device)
    if hasattr(module, "synchronize"):
        module.synchronize()


def touch(tensors: Iterable[torch.Tensor]) -> None:
    """Read one byte of each page."""
    for tensor in tensors:
        if tensor.nbytes:
            tensor.view(-1).view(torch.uint8)[::PAGE_BYTES].max()


def finished(state: Mapping[str, Any], device: torch.device, notes: Mapping[str, Any]) -> Outcome:
    """Wait for the device and count what can be used."""
    synchronize(device)
    tensors = {name: one for name, one in state.items() if isinstance(one, torch.Tensor)}
    module = torch.get_device_module(device) if device.type in ("cuda", "xpu") else None
    return Outcome(
        tensors=state,
        nbytes=sum(one.nbytes for one in tensors.values()),
        notes=notes,
        device_peak=None if module is None else lambda: int(module.max_memory_allocated(device)),
        digest=lambda: digest(tensors),
    )


def digest(tensors: Mapping[str, torch.Tensor]) -> str:
    """Fingerprint names, dtypes, shapes and bytes; not meant against attackers.

    Args:
        tensors: On any device; each is brought to the host by itself.
    """
    total = 0
    for name in sorted(tensors):
        tensor = tensors[name].detach().to("cpu").contiguous()
        total = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), total)
        if tensor.numel():
            total = zlib.crc32(writable_bytes(tensor.view(-1).view(torch.uint8)), total)
    return f"{total:08x}"


def _is_mapped(value: object) -> bool:
    return isinstance(value, torch.Tensor) and is_mapped(value)

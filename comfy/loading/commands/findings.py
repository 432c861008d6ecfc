"""What `doctor` looks at before it speaks: machine, memory, storage, and one decision of `auto`."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from comfy.loading.errors import LoadError
from comfy.loading.hardware import HardwareProfile, probe
from comfy.loading.loader import Loader
from comfy.loading.memory import GIB, MIB, Pool, default_reserve, host_pool
from comfy.loading.options import LoadOptions
from comfy.loading.page_cache import dontcache_works, resident_bytes
from comfy.loading.plan import Facts, LoadPlan, LoadRequest, Verdict, explain, resolve
from comfy.loading.testing import write_raw

_TYPICAL_BYTES = 6 * GIB
_TYPICAL_LARGEST_BYTES = 300 * MIB
_SMALL_BYTES = 20 * MIB


@dataclass(frozen=True, slots=True)
class Software:
    """Versions, and what this build of torch can serve.

    Attributes:
        system: Kernel and architecture.
        python: Version.
        torch: Version.
        serves: What kinds of accelerators the build has code for.
    """

    system: str
    python: str
    torch: str
    serves: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CacheAbilities:
    """What this system and filesystem allow around the page cache.

    Attributes:
        counts: It tells what is in the cache (cachestat).
        drops: It forgets pages on request (posix_fadvise).
        direct_block_bytes: Alignment of reads around the cache (O_DIRECT); 0 if there are none.
        uncached_reads: Reads can leave nothing behind (RWF_DONTCACHE).
    """

    counts: bool
    drops: bool
    direct_block_bytes: int
    uncached_reads: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """How one load would go.

    Attributes:
        title: Which load, in words.
        request: What is asked.
        facts: What is known.
        plan: The plan, or the error that a load would end with.
    """

    title: str
    request: LoadRequest
    facts: Facts
    plan: LoadPlan | LoadError


@dataclass(frozen=True, slots=True)
class Findings:
    """Everything that `doctor` tells.

    Attributes:
        software: Versions.
        profile: The device, as the loading flags make it.
        detected_unified: What the detection says without ``--unified-memory``.
        host: Pool of host memory.
        device: Pool of the device's memory.
        reserve_bytes: What planning leaves free of it.
        path: The file, or None if the examples are imagined.
        place: Where the storage facts come from.
        place_note: What is odd about that.
        abilities: Around the page cache.
        decision: About the file, or the first example.
        examples: Decisions about imagined files, where no file was given.
        verdicts: Of all rows on `decision`.
        available: Each strategy, and None or why it cannot be used.
    """

    software: Software
    profile: HardwareProfile
    detected_unified: bool
    host: Pool
    device: Pool
    reserve_bytes: int
    path: str | None
    place: str
    place_note: str
    abilities: CacheAbilities
    decision: Decision
    examples: tuple[Decision, ...]
    verdicts: tuple[Verdict, ...]
    available: Mapping[str, str | None]

    @property
    def options(self) -> LoadOptions:
        """The flags of this run."""
        return self.decision.facts.options


def examine(
    target: str | None, device: torch.device | None, options: LoadOptions, *, offload: bool
) -> Findings:
    """Look around; reads headers, writes at most one temporary file of 4 KiB.

    Args:
        target: A checkpoint, a folder, or None for the models folder.
        device: Where weights would be executed; found if None.
        options: The user's flags.
        offload: Weights would be streamed through the device (low VRAM).

    Raises:
        FileNotFoundError: If `target` is not there.
        LoadError: If the file is invalid.
    """
    loader = Loader(options, run_device=device)
    if target is not None and not os.path.isdir(target):
        path = os.path.abspath(target)
        return _examine(loader, path, path, "", offload, imagined=False)
    with _sample_file(target) as (path, place, note):
        return _examine(loader, path, place, note, offload, imagined=True)


def _examine(
    loader: Loader, path: str, place: str, note: str, offload: bool, *, imagined: bool
) -> Findings:
    request = LoadRequest(path=path, device=loader.run_device, offload=offload)
    facts, available = loader.plan(request)
    if imagined:
        examples = tuple(_imagine(request, facts, available))
    else:
        title = os.path.basename(path)
        examples = (_decide(title, request, facts, available),)
    decision = examples[0]
    return Findings(
        software=_software(),
        profile=facts.profile,
        detected_unified=probe(loader.run_device).unified,
        host=facts.host,
        device=facts.device,
        reserve_bytes=_reserve(facts),
        path=None if imagined else path,
        place=place,
        place_note=note,
        abilities=_abilities(path, facts.storage.direct_block_bytes),
        decision=decision,
        examples=examples if imagined else (),
        verdicts=explain(decision.request, decision.facts, available),
        available=available,
    )


def _reserve(facts: Facts) -> int:
    chosen = facts.options.reserve_bytes
    return default_reserve(facts.profile, facts.device) if chosen is None else chosen


def _decide(
    title: str, request: LoadRequest, facts: Facts, available: Mapping[str, str | None]
) -> Decision:
    try:
        plan: LoadPlan | LoadError = resolve(request, facts, available)
    except LoadError as err:
        plan = err
    return Decision(title, request, facts, plan)


def _imagine(
    request: LoadRequest, facts: Facts, available: Mapping[str, str | None]
) -> Iterator[Decision]:
    """Decisions about files that one would have; the storage is real."""
    free = max(0, facts.device.free - _reserve(facts))
    # Half of what is free, where the usual model would not fit: that case comes last.
    model = min(_TYPICAL_BYTES, free // 2)
    sizes = (
        ("a model that is not in memory", model, 0.0),
        ("the same, when the page cache holds it", model, 1.0),
        ("a small file (LoRA, VAE)", _SMALL_BYTES, 0.0),
        ("a model larger than memory", int(facts.device.total * 1.1), 0.0),
    )
    for title, size, hot in sizes:
        imagined = replace(
            facts,
            file_bytes=size,
            need_bytes=size,
            largest_bytes=min(size, _TYPICAL_LARGEST_BYTES),
            storage=replace(facts.storage, resident_fraction=hot),
        )
        # Errors name the file; the temporary one is not what this is about.
        asked = replace(request, path="model.safetensors")
        yield _decide(title, asked, imagined, available)


@contextlib.contextmanager
def _sample_file(folder: str | None) -> Iterator[tuple[str, str, str]]:
    """A tiny checkpoint where models lie, that place, and a note if it had to be put elsewhere."""
    wanted = Path("models" if Path("models").is_dir() else ".") if folder is None else Path(folder)
    place, note = wanted.absolute(), ""
    with contextlib.ExitStack() as stack:
        try:
            name = stack.enter_context(_temporary_folder(place))
        except OSError as err:
            reason = err.strerror or type(err).__name__
            name = stack.enter_context(_temporary_folder(None))
            note = f"{place} cannot be written ({reason}); these facts are those of another folder"
            place = Path(name).parent
        path = Path(name) / "sample.safetensors"
        write_raw(path, {"sample": ("U8", (4096,), bytes(4096))})
        yield str(path), str(place), note


def _temporary_folder(folder: Path | None) -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix=".comfy-doctor-", dir=folder)


def _abilities(path: str, direct_block_bytes: int) -> CacheAbilities:
    fd = os.open(path, os.O_RDONLY)
    try:
        return CacheAbilities(
            counts=resident_bytes(fd) is not None,
            drops=hasattr(os, "posix_fadvise"),
            direct_block_bytes=direct_block_bytes,
            uncached_reads=dontcache_works(fd),
        )
    finally:
        os.close(fd)


def machine(device: torch.device) -> dict[str, Any]:
    """Describe where something was measured, in plain values."""
    profile, memory = probe(device), host_pool()
    return {
        **asdict(_software()),
        "cpu": _cpu_name(),
        "cpu_count": profile.cpu_count,
        "memory_bytes": memory.total,
        "device": str(profile.device),
        "backend": profile.backend,
        "unified": profile.unified,
    }


def _cpu_name() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        for line in file:
            if line.startswith(("model name", "Model")):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _software() -> Software:
    serves = {
        "cuda": torch.version.cuda is not None,
        "hip": torch.version.hip is not None,
        "xpu": getattr(torch.version, "xpu", None) is not None,
        "mps": torch.backends.mps.is_built(),
    }
    return Software(
        system=f"{platform.system()} {platform.release()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        serves=tuple(name for name, is_built in serves.items() if is_built),
    )

"""Looking around before a load: everything `plan.resolve` needs to know, gathered once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from comfy.loading.contents import Contents, distinct
from comfy.loading.destinations import cast_bytes, cast_dtype
from comfy.loading.devices import DevicePort
from comfy.loading.hardware import HardwareProfile
from comfy.loading.memory import device_pool, host_pool
from comfy.loading.options import LoadOptions
from comfy.loading.page_cache import probe_direct, resident_bytes
from comfy.loading.plan import Facts, LoadRequest
from comfy.loading.registry import BUILT_IN, StrategyRegistry, maps_files
from comfy.loading.storage import StorageProfile, probe_storage
from comfy.loading.weight_file import WeightFile


def cached_bytes(contents: Contents) -> int | None:
    """Bytes of a checkpoint's files in the page cache; None where the system cannot tell."""
    total = 0
    for file in contents.files:
        with file.reading() as fd:
            found = resident_bytes(fd)
        if found is None:
            return None
        total += min(found, file.size)
    return total


def look_at_storage(file: WeightFile, resident_fraction: float | None) -> StorageProfile:
    """Facts about where a file lies."""
    with file.reading() as fd:
        block = probe_direct(fd, file.size)
    return probe_storage(file.path, resident_fraction=resident_fraction, direct_block_bytes=block)


def gather_facts(
    contents: Contents,
    request: LoadRequest,
    options: LoadOptions,
    profile: HardwareProfile,
    port: DevicePort,
    resident_fraction: float | None,
) -> Facts:
    """Ask system, storage and device; changes nothing.

    Args:
        contents: The checkpoint's table.
        request: What the caller wants.
        options: What the user set.
        profile: Of the device that will execute the weights.
        port: Of the same device.
        resident_fraction: Of the files in the page cache, None if unknown.
    """
    slices = list(distinct(contents.slices)[0].values())
    host = host_pool()
    casts = [one for one in slices if cast_bytes(one, request.dtype) != one.nbytes]
    is_recast = any(cast_dtype(one.dtype, request.dtype) != one.dtype for one in slices)
    places_now = request.device is not None and request.device.type not in ("cpu", "meta")
    return Facts(
        profile=profile,
        storage=look_at_storage(contents.files[0], resident_fraction),
        host=host,
        device=device_pool(profile, host, None if profile.backend == "cpu" else port.free_bytes),
        file_bytes=sum(one.nbytes for one in slices),
        need_bytes=sum(cast_bytes(one, request.dtype) for one in slices),
        largest_bytes=max((one.nbytes for one in slices), default=0),
        largest_cast_bytes=max((one.nbytes for one in casts), default=0),
        options=options,
        executes_on_cpu=profile.backend == "cpu",
        casts=is_recast,
        places_now=places_now,
    )


def availability(
    registry: StrategyRegistry, facts: Facts, request: LoadRequest
) -> Mapping[str, str | None]:
    """Each registered strategy, and None or the reason why it cannot be used here."""
    return {name: _answer(registry, name, facts, request) for name in registry}


def _answer(
    registry: StrategyRegistry, name: str, facts: Facts, request: LoadRequest
) -> str | None:
    try:
        strategy = registry.get(name)
        if maps_files(strategy) and not facts.options.allow_mmap:
            return "--disable-mmap forbids strategies that map files"
        return strategy.supports(facts.profile, facts.storage, request)
    except Exception as err:  # noqa: BLE001 - a broken plug-in must not hinder the others
        return f"it is broken ({type(err).__name__}: {err})"


def with_own_estimate(
    facts: Facts,
    registry: StrategyRegistry,
    available: Mapping[str, str | None],
    contents: Contents,
    request: LoadRequest,
) -> Facts:
    """Let a plug-in that the user named say what it will allocate; of the others that is known.

    Where the load itself places the weights afterwards, the most is assumed: a plug-in knows
    nothing of that.
    """
    name = facts.options.strategy
    is_usable = name in available and available[name] is None
    if facts.places_now or name in BUILT_IN or not is_usable:
        return facts
    need = registry.get(name).estimate(distinct(contents.slices)[0], request)
    return replace(facts, estimates={name: need})

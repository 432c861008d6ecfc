"""What /loading and /system_stats tell of loading: files, strategies and reasons, homes, memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import comfy.model_management
from app.memory_history import MemoryHistory
from app.memory_pools import load_options, memory_pools
from app.model_names import model_name
from app.weight_homes import Homes, weight_homes
from comfy import device_memory
from comfy.loading import default_loader
from comfy.loading.journal import FileEntry
from comfy.loading.page_cache import resident_bytes
from comfy.loading.weight_file import WeightFile

_GB = 1e9


def strategy_facts() -> dict[str, Any]:
    """What the user asked for, and the facts about the device that decide the rest."""
    options = load_options()
    device = comfy.model_management.get_torch_device()
    profile = device_memory.profile(device)
    if options.strategy == "auto":
        why = "Each file gets the first strategy of the decision table that fits it."
    else:
        why = f"--load-strategy={options.strategy} holds for every file."
    return {
        "requested": options.strategy,
        "why": why,
        "mmap_allowed": options.allow_mmap,
        "cache": options.cache,
        "direct": options.direct,
        "threads": options.threads,
        "staging_bytes": options.staging_bytes,
        "device": str(device),
        "unified": profile.unified,
        "signals": [asdict(vote) for vote in profile.votes],
    }


def file_facts() -> list[dict[str, Any]]:
    """All files that were loaded, the newest last, and what else is in use."""
    loader = default_loader()
    homes = weight_homes()
    alive = {file.path: file for file in loader.files.alive()}
    return [_file(one, homes, alive) for one in loader.journal.entries()]


def _file(
    entry: FileEntry, homes: Mapping[str, Homes], alive: Mapping[str, WeightFile]
) -> dict[str, Any]:
    name, report, work = model_name(entry.path), entry.report, entry.work
    home, file = homes.get(entry.path), alive.get(entry.path)
    size = file.size if file is not None else 0 if report is None else report.file_bytes
    done, seconds = entry.bytes_read, entry.seconds
    if work is not None and work.done:
        done, seconds = work.done, work.seconds
    return {
        "name": name.name,
        "folder": name.folder,
        "size_bytes": size,
        "strategy": None if report is None else report.strategy,
        "row": 0 if report is None else report.row,
        "reasons": [] if report is None else list(report.reasons),
        "loads": entry.loads,
        "bytes_read": entry.bytes_read,
        "seconds": round(entry.seconds, 6),
        "gb_per_s": round(done / _GB / seconds, 6) if seconds > 0 else None,
        "peak_host_bytes": entry.peak_host,
        "peak_device_bytes": entry.peak_device,
        "cached_bytes": _cached(entry, file),
        "homes": None if home is None else asdict(home),
        "work": None if work is None else asdict(work),
        "problem": _without_path(entry.problem, entry.path, str(name)),
    }


def _cached(entry: FileEntry, file: WeightFile | None) -> int | None:
    """Bytes in the page cache: now for a file in use, else when its last load had ended."""
    if file is not None:
        try:
            with open(file.path, "rb", buffering=0) as opened:
                found = resident_bytes(opened.fileno())
        except OSError:
            # Moved or deleted since; what was seen last is all that can be told.
            found = None
        if found is not None:
            return min(found, file.size)
    return None if entry.report is None else entry.report.cached_after


def _without_path(text: str, path: str, name: str) -> str:
    return text.replace(path, name)


def loading_facts(history: MemoryHistory, is_running: bool, since: float) -> dict[str, Any]:
    """Everything for the loading panel.

    Args:
        history: Of memory.
        is_running: Whether a prompt runs or waits.
        since: Only samples after this time are wanted; times as in ``memory.now``.
    """
    # In this order no sample is above the peak, though more are taken meanwhile.
    samples = history.samples(since)
    bound = history.bound()
    return {
        "time": time.time(),
        "is_loading": default_loader().journal.is_busy,
        "is_running": is_running,
        "strategy": strategy_facts(),
        "pools": [asdict(one) for one in memory_pools()],
        "files": file_facts(),
        "memory": {
            "now": history.now,
            "bound": {**asdict(bound), "total": bound.total},
            "samples": [
                [round(one.seconds, 3), one.host, one.device, one.weights, one.at_home]
                for one in samples
            ],
            "fields": ["seconds", "host", "device", "weights", "at_home"],
        },
    }

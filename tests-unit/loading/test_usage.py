"""What a load is measured and reported to have taken."""

from __future__ import annotations

import json
import mmap
import os
import sys
import threading
import time
from pathlib import Path

import pytest

from comfy.loading import usage
from comfy.loading.memory import MemoryReport, MemorySample, PeakSampler, sample
from support.facts import GIB, MIB


def test_sample_sees_private_memory_that_was_touched() -> None:
    before = sample().rss_anon
    # Pages of its own: the heap would give some that were touched before.
    block = mmap.mmap(-1, 16 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    block.write(bytes(len(block)))
    assert sample().rss_anon - before >= len(block) - MIB


def test_sample_takes_what_the_gauges_tell() -> None:
    found = sample(device_bytes=lambda: 7, cached=lambda: 9)
    assert (found.device, found.cached) == (7, 9)
    assert found.total == found.host + 7


def test_system_without_proc_is_sampled_through_psutil(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "_STATUS", os.path.join("nowhere", "status"))
    found = sample()
    assert found.rss_anon > MIB
    assert (found.rss_file, found.rss_shmem) == (0, 0)


def test_peak_is_seen_though_it_is_gone_at_the_end() -> None:
    with PeakSampler(interval_s=0.001) as sampler:
        # Pages of their own: the heap might keep what is freed, and have had it before.
        size = 32 * MIB
        with mmap.mmap(-1, size) as block:
            block[::4096] = b"x" * (size // 4096)
            time.sleep(0.1)
            held = sample().rss_anon + sample().rss_shmem
        left = sample().rss_anon + sample().rss_shmem
    assert left <= held - size + MIB
    assert sampler.peak.rss_anon + sampler.peak.rss_shmem >= held - MIB
    assert sampler.peak_total >= held - MIB


def test_each_field_has_its_own_peak() -> None:
    device, cached = iter([5, 1, 1]), iter([1, 6, 1])
    with PeakSampler(60, lambda: next(device), lambda: next(cached)) as sampler:
        sampler._measure()
    assert (sampler.peak.device, sampler.peak.cached) == (5, 6)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems tell one number")
def test_shared_and_mapped_memory_are_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(4 * MIB))
    with PeakSampler(interval_s=60) as sampler:
        before = sample()
        with mmap.mmap(-1, 8 * MIB) as shared:
            shared.write(bytes(8 * MIB))
            sampler._measure()
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
            assert sum(mapped[:: mmap.PAGESIZE]) == 0
            sampler._measure()
    assert 7 * MIB < sampler.peak.rss_shmem - before.rss_shmem < 9 * MIB
    assert 3 * MIB < sampler.peak.rss_file - before.rss_file < 7 * MIB


def test_sampler_stops_at_once_and_leaves_nothing_behind() -> None:
    descriptors = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    with PeakSampler(interval_s=60):
        started = time.perf_counter()
    assert time.perf_counter() - started < 5
    assert not [thread for thread in threading.enumerate() if thread.name == "memory-sampler"]
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) == descriptors


def test_failing_gauge_ends_the_sampling_and_not_the_load() -> None:
    calls = iter([1, 2])
    with PeakSampler(interval_s=0.001, device_bytes=lambda: next(calls)) as sampler:
        time.sleep(0.05)
    assert isinstance(sampler.failure, StopIteration)
    assert sampler.peak.device == 2


def test_sampler_passes_the_callers_error_on() -> None:
    with pytest.raises(KeyError), PeakSampler():
        raise KeyError("load")
    assert not [thread for thread in threading.enumerate() if thread.name == "memory-sampler"]


# -- report --------------------------------------------------------------------------------


def report(**changes: object) -> MemoryReport:
    values: dict[str, object] = {
        "path": "/models/model.safetensors",
        "strategy": "file-slice",
        "row": 7,
        "reasons": ("unified memory", "local disk", "cold"),
        "before": MemorySample(rss_anon=200 * MIB),
        "peak": MemorySample(rss_anon=260 * MIB, rss_shmem=4 * MIB, device=6001 * MIB),
        "after": MemorySample(rss_anon=200 * MIB, device=6001 * MIB),
        "bytes_read": 6292126924,
        "bytes_uploaded": 6292126924,
        "seconds": 2.31,
        "file_bytes": 6292126924,
        "cached_before": 0,
        "cached_after": 0,
    }
    return MemoryReport(**{**values, **changes})


def test_line_tells_everything() -> None:
    assert report().line() == (
        "model.safetensors: 5.86 GiB in 2.31 s (2.72 GB/s), file-slice (row 7: unified memory, "
        "local disk, cold), peak +64 MiB host, +6001 MiB device, cache 0 % -> 0 %"
    )


def test_line_of_a_named_strategy_has_no_row() -> None:
    line = report(row=0, reasons=("--load-strategy=file-slice",)).line()
    assert "file-slice (--load-strategy=file-slice), peak" in line


def test_line_of_an_unread_file_has_no_rate() -> None:
    line = report(bytes_read=0, seconds=0.004).line()
    assert line.startswith("model.safetensors: 5.86 GiB in 0.00 s (nothing read yet), ")


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 bytes"), (1536, "1.50 KiB"), (3 * MIB, "3.00 MiB"), (GIB, "1.00 GiB")],
)
def test_line_writes_sizes_in_a_fitting_unit(size: int, words: str) -> None:
    assert f": {words} in" in report(bytes_read=0, file_bytes=size).line()


def test_line_tells_the_cached_share() -> None:
    assert (
        report(cached_before=6292126924 // 2, cached_after=6292130000)
        .line()
        .endswith("cache 50 % -> 100 %")
    )


def test_line_is_silent_about_a_cache_that_cannot_be_asked() -> None:
    assert "cache" not in report(cached_before=None).line()


def test_line_tells_what_was_added() -> None:
    before = MemorySample(rss_anon=200 * MIB, device=1001 * MIB)
    assert "+64 MiB host, +5000 MiB device" in report(before=before).line()


def test_lower_peak_than_before_is_shown_as_nothing() -> None:
    assert "peak +0 MiB host" in report(peak=MemorySample()).line()


def test_json_has_every_number() -> None:
    found = json.loads(json.dumps(report().to_json()))
    assert found["reasons"] == ["unified memory", "local disk", "cold"]
    assert found["peak"]["device"] == 6001 * MIB
    assert found["bytes_read"] == 6292126924

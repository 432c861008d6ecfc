"""Medians, shares, and what is said to bound a load. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from comfy.loading.commands.one_run import Result
from comfy.loading.commands.runs import Run
from comfy.loading.commands.scores import Score, score

GB = 10**9


def run(name: str, seconds: float | None, number: int = 0, **changes: Any) -> Run:
    """A run over 1 GB of weights; no seconds means that it failed."""
    result = None
    if seconds is not None:
        result = Result(
            seconds, GB, 0.5, 0, 0, GB, 100, 100 + GB, changes.pop("device_peak", 0), {}
        )
        result = replace(result, notes=changes.pop("notes", {}))
    about: dict[str, Any] = {
        "path": "/model",
        "contestant": name,
        "kind": "ours",
        "device": "cpu",
        "is_private": True,
        "maps": False,
        "state": "cold",
        "round": number,
        "result": result,
        "problem": "" if result else "it broke",
        "cached_left": 0.0,
    }
    return Run(**{**about, **changes})


def disk(seconds: float, number: int = 0, name: str = "disk") -> Run:
    return run(name, seconds, number, kind="disk")


def memory(seconds: float, number: int = 0, **changes: Any) -> Run:
    return run("memory", seconds, number, kind="memory", **changes)


def one(runs: Sequence[Run], name: str = "it") -> Score:
    (found,) = [entry for entry in score(runs) if entry.contestant == name]
    return found


def test_median_and_range_over_rounds() -> None:
    found = one([run("it", seconds, number) for number, seconds in enumerate([3.0, 1.0, 2.0])])
    assert (found.seconds, found.fastest_s, found.slowest_s) == (2.0, 1.0, 3.0)
    assert found.rate == GB / 2
    assert found.runs == 3


def test_shares_compare_within_a_round() -> None:
    # The disk was slow in the second round, and so was the load: it used all of it both times.
    runs = [disk(1.0, 0), disk(10.0, 1), run("it", 1.0, 0), run("it", 10.0, 1)]
    assert one(runs).of_disk == pytest.approx(1.0)


def test_faster_disk_reader_counts() -> None:
    runs = [disk(2.0, name="one"), disk(1.0, name="four"), run("it", 2.0)]
    assert one(runs).of_disk == pytest.approx(0.5)


def test_memory_of_another_device_does_not_count() -> None:
    runs = [memory(1.0), run("it", 1.0, device="simgpu:0")]
    assert one(runs).of_memory is None


def test_peak_is_over_the_baseline_and_with_the_device() -> None:
    found = one([run("it", 1.0), run("it", 1.0, 1, device_peak=GB)])
    assert found.peak_bytes == 2 * GB
    assert found.peak_share == pytest.approx(2.0)


@pytest.mark.parametrize(("maps", "share"), [(True, 1.0), (False, 1.5)])
def test_cached_pages_take_memory_once(maps: bool, share: float) -> None:
    assert one([run("it", 1.0, maps=maps, cached_left=0.5)]).pool_share == pytest.approx(share)


@pytest.mark.parametrize(
    ("seconds", "state", "is_private", "bound"),
    [
        (1.1, "cold", True, "the disk"),
        (1.1, "cold", False, "the disk"),
        (2.1, "cold", True, "fresh memory"),
        (3.2, "cold", True, "the disk, then fresh memory"),
        (9.0, "cold", True, "itself"),
        (9.0, "cold", False, "itself"),
        (2.1, "warm", True, "fresh memory"),
        (9.0, "warm", True, "itself"),
        (0.1, "warm", False, "page faults"),
    ],
)
def test_bound(seconds: float, state: Any, is_private: bool, bound: str) -> None:
    # Alone the disk takes 1 s for these bytes, and memory 2 s.
    ceilings = [memory(2.0, state=state), *([disk(1.0)] if state == "cold" else [])]
    runs = [*ceilings, run("it", seconds, state=state, is_private=is_private)]
    assert one(runs).bound == bound


def test_other_programs_are_a_reason_as_well() -> None:
    runs = [disk(1.0), memory(1.0), run("it", 9.0, others_share=0.5)]
    assert one(runs).bound == "itself, or other programs"


def test_mapped_weights_are_not_compared_with_fresh_memory() -> None:
    assert one([memory(1.0), run("it", 0.1, is_private=False)]).of_memory is None


def test_failure_and_discarded_runs_are_counted_and_told() -> None:
    found = one([run("it", None), run("it", None, 1, was_discarded=True, problem="not cold")])
    assert (found.runs, found.discarded, found.problem) == (0, 1, "not cold")
    assert found.seconds is None
    part = one([run("it", 1.0), run("it", None, 1)])
    assert (part.runs, part.seconds, part.problem) == (1, 1.0, "it broke")


def test_loader_with_other_bytes_is_found() -> None:
    runs = [run(name, 1.0, digest="right") for name in ("a", "b")]
    runs += [run("c", 1.0, digest="wrong"), run("d", 1.0)]
    assert {entry.contestant: entry.same_bytes for entry in score(runs)} == {
        "a": True,
        "b": True,
        "c": False,
        "d": None,
    }


def test_states_devices_and_files_are_kept_apart() -> None:
    runs = [
        run("it", 1.0),
        run("it", 2.0, state="warm"),
        run("it", 3.0, device="simgpu:0"),
        run("it", 4.0, path="/other"),
    ]
    assert sorted(entry.seconds or 0 for entry in score(runs)) == [1.0, 2.0, 3.0, 4.0]


def test_auto_tells_what_it_took() -> None:
    assert one([run("it", 1.0, notes={"strategy": "mmap"})]).label == "it (mmap)"
    assert one([run("mmap", 1.0, notes={"strategy": "mmap"})], "mmap").label == "mmap"

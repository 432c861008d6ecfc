"""The harness of `bench`: processes, states of the page cache, ceilings."""

from __future__ import annotations

import json
import mmap
import os
import textwrap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.commands.cache_states import make_cold, make_warm, reached, residency
from comfy.loading.commands.ceilings import prepare_disk, prepare_memory
from comfy.loading.commands.contestants import (
    Contestant,
    ceilings,
    digest,
    ours,
    prepare_ours,
    prepare_safetensors,
    stock,
)
from comfy.loading.commands.one_run import Job
from comfy.loading.commands.runs import Run, Step, Target, run_once, schedule
from comfy.loading.options import LoadOptions
from support.files import write_large
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
LOADERS = """
    import os, signal, sys, time
    from comfy.loading.commands.one_run import Outcome

    def allocate(job):
        print("libraries print")
        def act():
            kept = bytearray(os.urandom(1 << 20)) * job.arguments["mib"]
            return Outcome(kept, len(kept), {"path": job.path})
        return act

    def spike(job):
        def act():
            bytearray(os.urandom(1 << 20) * 64)
            return Outcome(None, 1)
        return act

    def refuse(job):
        raise ValueError("no such thing")

    def fail(job):
        def act():
            raise MemoryError("too much")
        return act

    def die(job):
        return lambda: os.kill(os.getpid(), signal.SIGKILL)

    def hang(job):
        return lambda: time.sleep(60)

    def environment(job):
        names = [name for name in os.environ if name.startswith("COMFY_")]
        return lambda: Outcome(None, 1, {"names": names})
"""


@pytest.fixture
def target(tmp_path: Path) -> Target:
    path = str(write_large(tmp_path / "model.safetensors", 3 * MIB, largest_bytes=MIB))
    return Target(path, (path,), (MIB, MIB, MIB))


@pytest.fixture
def loaders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a module with loaders; measuring processes find what this process finds."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "loaders_of_a_test.py").write_text(textwrap.dedent(LOADERS))
    monkeypatch.syspath_prepend(str(folder))
    return "loaders_of_a_test"


def run(target: Target, function: str, state: Any = "cold", **arguments: Any) -> Run:
    one = Contestant("it", "peer", f"loaders_of_a_test:{function}", arguments)
    return run_once(Step(target, one, state, 0), rest_s=0.0)


def test_run_reports_time_memory_and_state(target: Target, loaders: str) -> None:
    found = run(target, "allocate", mib=32)
    assert found.problem == ""
    assert found.result is not None
    assert found.result.nbytes == 32 * MIB
    assert found.result.notes == {"path": target.path}
    assert 0 < found.result.seconds < 60
    over = found.result.peak_bytes - found.result.baseline_bytes
    assert 32 * MIB <= over < 64 * MIB
    assert found.cached_before is not None
    assert found.cached_before < 0.01
    assert found.cached_left is not None
    assert found.cached_left < 0.01


def test_peak_that_is_gone_at_the_end_is_seen(target: Target, loaders: str) -> None:
    found = run(target, "spike")
    assert found.result is not None
    if found.result.peak_bytes - found.result.baseline_bytes < 50 * MIB:
        pytest.fail(f"the peak of 64 MiB was missed: {found.result}")


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        ("refuse", "ValueError: no such thing"),
        ("fail", "MemoryError: too much"),
        ("die", "killed by signal 9"),
        ("missing", "AttributeError"),
    ],
)
def test_loader_that_fails_is_a_result(
    function: str, problem: str, target: Target, loaders: str
) -> None:
    found = run(target, function)
    assert found.result is None
    assert found.was_discarded is False
    assert problem in found.problem


def test_loader_that_hangs_is_ended(target: Target, loaders: str) -> None:
    one = Contestant("it", "peer", f"{loaders}:hang")
    begin = time.monotonic()
    found = run_once(Step(target, one, "cold", 0), timeout_s=0.3, rest_s=0.0)
    assert "more than 0 s" in found.problem
    assert time.monotonic() - begin < 30


def test_settings_of_the_user_do_not_reach_the_measured_process(
    target: Target, loaders: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMFY_LOAD_THREADS", "7")
    found = run(target, "environment")
    assert found.result is not None
    assert found.result.notes == {"names": []}


@contextmanager
def held_in_memory(path: str) -> Iterator[None]:
    """Map a file and touch it: the page cache cannot let go of it."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
        assert pages[:: mmap.PAGESIZE]
        yield


def test_run_in_a_wrong_state_is_discarded(target: Target, loaders: str) -> None:
    with held_in_memory(target.path):
        found = run(target, "allocate", mib=1)
    assert found.was_discarded
    assert found.result is None
    assert found.problem.startswith("not cold: 100.0% of the file")


def test_memory_ceiling_does_not_care_for_the_state(target: Target) -> None:
    *_, memory = ceilings()
    with held_in_memory(target.path):
        assert run_once(Step(target, memory, "cold", 0), rest_s=0.0).result is not None


def test_interrupt_leaves_no_process(target: Target, loaders: str) -> None:
    one = Contestant("it", "peer", f"{loaders}:hang")

    def interrupt() -> None:
        time.sleep(0.5)
        os.kill(os.getpid(), 2)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        run_once(Step(target, one, "cold", 0), rest_s=0.0)
    assert children() == []


def children() -> list[str]:
    """Running children of this process, by their command."""
    found = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                fields = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
                command = Path(f"/proc/{name}/cmdline").read_text()
            except OSError:
                continue
            if int(fields[1]) == os.getpid() and "one_run" in command:
                found.append(command)
    return found


# -- states ------------------------------------------------------------------------------------


def test_files_become_cold_and_warm(target: Target) -> None:
    make_warm(target.files)
    assert reached("warm", residency(target.files)) is True
    assert reached("cold", residency(target.files)) is False
    make_cold(target.files)
    assert reached("cold", residency(target.files)) is True
    assert reached("warm", residency(target.files)) is False


def test_only_the_given_files_become_cold(target: Target, tmp_path: Path) -> None:
    other = str(write_large(tmp_path / "other.safetensors", MIB, largest_bytes=MIB))
    make_warm([other])
    make_cold(target.files)
    assert residency([other]) == 1.0


def test_state_that_cannot_be_told_is_not_judged() -> None:
    assert reached("cold", None) is None


# -- the order ---------------------------------------------------------------------------------


def test_rounds_hold_every_contestant_once_in_changing_order(target: Target) -> None:
    names = [Contestant(str(number), "peer", "x:y") for number in range(6)]
    steps = schedule([target], names, ["cold", "warm"], 3, seed=1)
    rounds: dict[tuple[int, str], list[str]] = {}
    for step in steps:
        rounds.setdefault((step.round, step.state), []).append(step.contestant.name)
    assert len(rounds) == 6
    assert all(sorted(found) == sorted(one.name for one in names) for found in rounds.values())
    assert len({tuple(found) for found in rounds.values()}) > 1
    assert steps == schedule([target], names, ["cold", "warm"], 3, seed=1)
    assert [step.round for step in steps] == sorted(step.round for step in steps)


def test_disks_are_measured_cold_only_and_bytes_are_compared_once(target: Target) -> None:
    some = [*ceilings(), ours("readinto", LoadOptions())]
    steps = schedule([target], some, ["cold", "warm"], 2)
    assert {step.state for step in steps if step.contestant.kind == "disk"} == {"cold"}
    asked = [(step.round, step.contestant.kind) for step in steps if step.wants_digest]
    assert asked == [(0, "ours"), (0, "ours")]


# -- what is measured --------------------------------------------------------------------------


def job(target: Target, one: Contestant) -> Job:
    return Job(
        one.target, target.path, target.files, target.sizes, one.device, one.setup, one.arguments
    )


def test_job_survives_the_way_to_the_other_process(target: Target) -> None:
    before = job(target, ours("readinto", LoadOptions()))
    assert Job.from_json(json.dumps(asdict(before))) == before


@pytest.mark.parametrize("threads", [1, 4])
def test_disk_ceiling_reads_every_byte(threads: int, target: Target) -> None:
    one = Contestant("disk", "disk", "", {"threads": threads, "piece_mib": 2})
    outcome = prepare_disk(job(target, one))()
    assert outcome.nbytes == os.path.getsize(target.path)
    assert outcome.notes["threads"] == threads


def test_memory_ceiling_fills_as_much_as_the_weights_take(target: Target) -> None:
    sizes = (3 * MIB, 100, 9 * MIB + 5)
    outcome = prepare_memory(Job("", target.path, target.files, sizes))()
    assert outcome.nbytes == sum(sizes)
    assert [len(block) for block in outcome.tensors] == list(sizes)
    assert all(any(block) for block in outcome.tensors)


@pytest.mark.parametrize("device", ["cpu", "simgpu:0"])
def test_all_loaders_bring_the_same_bytes(
    device: str, target: Target, simgpu: SimulatedDevice
) -> None:
    options = LoadOptions()
    digests = {}
    for name in ("auto", "mmap", "readinto", "file-slice"):
        outcome = prepare_ours(job(target, ours(name, options, device)))()
        assert {one.device.type for one in outcome.tensors.values()} == {device.split(":")[0]}
        assert outcome.digest is not None
        digests[name] = outcome.digest()
    for backend, copies in (("mmap", False), ("mmap", True), ("pread", False)):
        one = stock(backend, copies=copies, device=device)
        outcome = prepare_safetensors(job(target, one))()
        assert outcome.digest is not None
        digests[one.name + str(copies)] = outcome.digest()
    assert len(set(digests.values())) == 1, digests
    assert outcome.nbytes == target.nbytes


def test_file_slice_on_the_cpu_is_measured_with_its_weights_read(target: Target) -> None:
    outcome = prepare_ours(job(target, ours("file-slice", LoadOptions())))()
    assert {type(one) for one in outcome.tensors.values()} == {torch.Tensor}


def test_digest_sees_every_difference() -> None:
    first = {"a": torch.arange(6.0), "b": torch.zeros(0)}
    assert digest(first) == digest(dict(reversed(first.items())))
    others = [
        {**first, "a": torch.arange(6.0) + 1},
        {**first, "a": torch.arange(6.0).view(2, 3)},
        {**first, "a": torch.arange(6.0).view(torch.int32)},
        {"c": first["a"], "b": first["b"]},
    ]
    assert len({digest(first), *map(digest, others)}) == 5

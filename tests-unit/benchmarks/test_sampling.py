"""`benchmarks.sampling` on narrow checkpoints: what it times is what it says, in bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import comfy.model_management
from benchmarks import sampling
from support import narrow
from support.simulated_device import SimulatedDevice
from support.whole_checkpoint import Models, extents


@pytest.fixture(autouse=True)
def _own_run_device() -> Iterator[None]:
    yield
    comfy.model_management.unload_all_models()
    comfy.model_management.set_run_device(None)


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return [
        str(narrow.write_checkpoint(tmp_path / f"{seed}.safetensors", seed=seed)) for seed in (0, 1)
    ]


def test_forward_passes_are_part_of_their_steps(paths: list[str]) -> None:
    whole, networks = sampling.step_times(paths[0], side=8, steps=2)
    assert 0 < networks < whole


def test_each_round_has_a_read_and_a_switch(paths: list[str], simgpu: SimulatedDevice) -> None:
    times = sampling.switch_times(paths, rounds=3)
    assert len(times) == 3
    assert all(read > 0 and switch > 0 for read, switch in times)


def test_switching_reads_each_weight_once(paths: list[str], simgpu: SimulatedDevice) -> None:
    comfy.model_management.set_run_device(simgpu.device)
    one, other = (Models.of(path) for path in paths)
    sampling.switch_to(one)
    before = simgpu.counters
    for models in (other, one):
        sampling.switch_to(models)
    weights = sum(end - begin for begin, end in extents(paths[0]).values())
    copied = (
        simgpu.counters.uploaded_bytes
        - before.uploaded_bytes
        + simgpu.counters.h2d_bytes
        - before.h2d_bytes
    )
    assert 2 * weights <= copied <= 2.01 * weights
    assert simgpu.allocated_bytes <= 1.01 * weights

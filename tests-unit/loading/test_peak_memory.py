"""Peak memory of a 2 GiB model, measured from outside, in a subprocess of its own.

The simulated device's tensors live in this process's memory, as on unified hardware: a weight on
the host and the same weight on the device are two in these figures, and the page cache is a
third in those of the control group.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from support import simulated_device
from support.cold import evict
from support.memory_cap import Measured, cgroup_reason, run_measured
from support.raw_files import write_large

MIB = 1024 * 1024
MODEL_BYTES = 2048 * MIB
LARGEST_BYTES = 128 * MIB
SLACK_BYTES = 128 * MIB

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("peak") / "model.safetensors"
    write_large(path, MODEL_BYTES, largest_bytes=LARGEST_BYTES)
    yield path
    path.unlink()


# -- what is measured; each runs in a process of its own -----------------------------------------


def load_to_device(path: str, strategy: str) -> int:
    """Load with one of ours, onto the device; gives the bytes that ended there."""
    device = simulated_device.install()[0]
    loader = Loader(LoadOptions(strategy=strategy), run_device=device.device)
    loaded = loader.open(LoadRequest(path=path, device=device.device))
    globals()["kept"] = loaded
    return device.allocated_bytes


def open_then_place(path: str, strategy: str) -> int:
    """Open as a model loader does, and move the state dict home later."""
    device = simulated_device.install()[0]
    loader = Loader(LoadOptions(strategy=strategy), run_device=device.device)
    state = loader.open(LoadRequest(path=path, device=None)).state_dict
    loader.place(state, device.device)
    globals()["kept"] = state
    return device.allocated_bytes


def load_to_device_in_half(path: str, strategy: str) -> int:
    """Load with a cast in flight: bf16 in the file, fp8 on the device."""
    device = simulated_device.install()[0]
    loader = Loader(LoadOptions(strategy=strategy), run_device=device.device)
    request = LoadRequest(path=path, device=device.device, dtype=torch.float8_e4m3fn)
    globals()["kept"] = loader.open(request)
    return device.allocated_bytes


def map_then_copy(path: str) -> int:
    """What today's loaders do: a mapped state dict, a device copy of it, both alive."""
    device = simulated_device.install()[0]
    state = load_file(path)
    globals()["kept"] = state, {key: tensor.to(device.device) for key, tensor in state.items()}
    return device.allocated_bytes


def map_clone_and_copy(path: str) -> int:
    """What a "no mapping" switch that maps and copies does, and then the device copy."""
    device = simulated_device.install()[0]
    state = {key: tensor.clone() for key, tensor in load_file(path).items()}
    globals()["kept"] = state, {key: tensor.to(device.device) for key, tensor in state.items()}
    return device.allocated_bytes


def load_to_host(path: str, strategy: str) -> int:
    """Load with one of ours onto the CPU, and look at every page."""
    loader = Loader(LoadOptions(strategy=strategy), run_device="cpu")
    state = loader.open(LoadRequest(path=path, device=torch.device("cpu"))).state_dict
    globals()["kept"] = state
    return sum(int(tensor.view(torch.uint8)[::4096].sum()) >= 0 for tensor in state.values())


def measure(act: Callable[..., int], path: Path, **arguments: object) -> Measured:
    evict(path)
    return run_measured(act, arguments={"path": str(path), **arguments}).succeeded()


def check_bound(found: Measured, bound: int) -> None:
    assert found.peak_over_baseline_bytes <= bound
    if found.group_peak_over_baseline_bytes is not None:
        assert found.group_peak_over_baseline_bytes <= bound


# -- the promise ------------------------------------------------------------------------------------


@pytest.mark.parametrize("act", [load_to_device, open_then_place])
def test_file_slice_onto_unified_memory_holds_each_weight_once(
    model: Path, act: Callable[..., int]
) -> None:
    found = measure(act, model, strategy="file-slice")
    size = os.path.getsize(model)
    assert found.result >= MODEL_BYTES * 0.99
    check_bound(found, size + SLACK_BYTES)


def test_auto_onto_unified_memory_holds_each_weight_once(model: Path) -> None:
    check_bound(
        measure(load_to_device, model, strategy="auto"), os.path.getsize(model) + SLACK_BYTES
    )


def test_readinto_then_upload_holds_one_weight_twice_at_most(model: Path) -> None:
    found = measure(open_then_place, model, strategy="readinto")
    assert found.result >= MODEL_BYTES * 0.99
    check_bound(found, os.path.getsize(model) + LARGEST_BYTES + SLACK_BYTES)


def test_mmap_then_place_holds_each_weight_once(model: Path) -> None:
    found = measure(open_then_place, model, strategy="mmap")
    assert found.peak_over_baseline_bytes <= os.path.getsize(model) + SLACK_BYTES


def test_cast_in_flight_holds_the_weights_in_the_smaller_dtype_only(model: Path) -> None:
    found = measure(load_to_device_in_half, model, strategy="file-slice")
    size = os.path.getsize(model) // 2
    assert size * 0.99 <= found.result <= size
    check_bound(found, size + SLACK_BYTES)


def test_measuring_sees_the_two_copies_of_map_then_copy(model: Path) -> None:
    found = measure(map_then_copy, model)
    assert found.peak_over_baseline_bytes >= 1.9 * MODEL_BYTES


@pytest.mark.parametrize("strategy", ["readinto", "file-slice"])
def test_host_load_holds_each_weight_once(model: Path, strategy: str) -> None:
    found = measure(load_to_host, model, strategy=strategy)
    assert found.result > 0
    check_bound(found, os.path.getsize(model) + SLACK_BYTES)


# -- under a limit ----------------------------------------------------------------------------------

needs_group = pytest.mark.skipif(cgroup_reason() is not None, reason=str(cgroup_reason()))
LIMIT_BYTES = int(1.15 * MODEL_BYTES)


@needs_group
def test_file_slice_loads_under_a_limit_of_little_more_than_the_model(model: Path) -> None:
    evict(model)
    found = run_measured(
        load_to_device,
        arguments={"path": str(model), "strategy": "file-slice"},
        limit_over_baseline_bytes=LIMIT_BYTES,
    ).succeeded()
    assert found.result >= MODEL_BYTES * 0.99
    assert not found.killed_for_memory


@needs_group
def test_map_and_clone_dies_under_the_same_limit(model: Path) -> None:
    evict(model)
    found = run_measured(
        map_clone_and_copy,
        arguments={"path": str(model)},
        limit_over_baseline_bytes=LIMIT_BYTES,
    )
    assert found.killed_for_memory or found.error is not None

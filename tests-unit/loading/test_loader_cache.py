"""What a load leaves in the page cache, by strategy and policy, counted by the kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from support.cold import evict, resident_bytes, resident_fraction, warm
from support.raw_files import write_large
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
SIZE = 128 * MIB


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cache") / "model.safetensors"
    write_large(path, SIZE, largest_bytes=16 * MIB)
    evict(path)
    if resident_fraction(path) > 0.01:
        pytest.skip("this filesystem keeps its pages")
    return path


def load(path: Path, device: torch.device, **options: object) -> None:
    loader = Loader(LoadOptions(**options), run_device=device)
    loaded = loader.open(LoadRequest(path=str(path), device=device))
    # What stays in the file for now is read by the first who uses it, under the same policy.
    loader.place(loaded.state_dict, device)
    loader.close()


@pytest.mark.parametrize("strategy", ["readinto", "file-slice"])
@pytest.mark.parametrize("direct", ["auto", "off"])
@pytest.mark.parametrize("where", ["cpu", "simgpu"])
def test_drop_leaves_at_most_a_hundredth_of_a_cold_file(
    model: Path, simgpu: SimulatedDevice, strategy: str, direct: str, where: str
) -> None:
    device = torch.device("cpu") if where == "cpu" else simgpu.device
    evict(model)
    load(model, device, strategy=strategy, direct=direct, cache="drop")
    assert resident_fraction(model) <= 0.01


@pytest.mark.parametrize("strategy", ["readinto", "file-slice"])
@pytest.mark.parametrize("direct", ["auto", "off"])
def test_drop_leaves_what_others_brought_in(
    model: Path, simgpu: SimulatedDevice, strategy: str, direct: str
) -> None:
    evict(model)
    warm(model, 32 * MIB, 64 * MIB)
    before = resident_bytes(model)
    load(model, simgpu.device, strategy=strategy, direct=direct, cache="drop")
    assert abs(resident_bytes(model) - before) <= SIZE * 0.01


@pytest.mark.parametrize("strategy", ["mmap", "readinto", "file-slice"])
def test_keep_leaves_a_warm_copy(model: Path, strategy: str) -> None:
    evict(model)
    load(model, torch.device("cpu"), strategy=strategy, cache="keep")
    assert resident_fraction(model) >= 0.95


def test_keep_leaves_a_warm_file_as_it_is(model: Path, simgpu: SimulatedDevice) -> None:
    warm(model)
    load(model, simgpu.device, strategy="file-slice", cache="keep")
    assert resident_fraction(model) >= 0.99


@pytest.mark.parametrize("is_warm", [False, True], ids=["cold", "warm"])
def test_auto_on_unified_memory_leaves_nothing(
    model: Path, simgpu: SimulatedDevice, is_warm: bool
) -> None:
    evict(model)
    if is_warm:
        warm(model)
    load(model, simgpu.device)
    assert resident_fraction(model) <= 0.01


def test_auto_on_a_discrete_device_keeps_the_warm_copy(
    model: Path, simgpu: SimulatedDevice
) -> None:
    simgpu.is_unified = False
    warm(model)
    load(model, simgpu.device, strategy="file-slice")
    assert resident_fraction(model) >= 0.99

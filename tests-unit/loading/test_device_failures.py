"""A device that is full or whose copies fail ends a load with numbers, and leaves it as it was."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch

from comfy.loading.errors import LoadError, NotEnoughMemory
from comfy.loading.plan import LoadRequest
from support.faults import AtByte
from support.loads import (
    HALF_WAY_BYTES,
    MIB,
    MODEL_BYTES,
    STRATEGIES,
    TO_DEVICE,
    Way,
    digest,
    gives_all_back,
    write_model,
)
from support.simulated_device import SimulatedDevice

every_way = pytest.mark.parametrize("way", TO_DEVICE, ids=str)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("devices") / "model.safetensors")


@pytest.fixture(scope="module")
def expected(path: Path) -> str:
    return digest(Way("readinto", "cpu").load(Way("readinto", "cpu").loader(), path))


@pytest.fixture(autouse=True, scope="module")
def _torch_is_ready(path: Path) -> None:
    # The first operation on any tensor subclass makes torch import 40 MiB of itself.
    loader = Way("file-slice", "cpu").loader()
    loader.open(LoadRequest(path=str(path), device=None)).state_dict["blocks.0001.weight"].clone()


@pytest.fixture(autouse=True)
def _nothing_of_other_tests_is_left() -> None:
    # An error that a test holds is in a cycle with the frame of that test.
    gc.collect()


@every_way
def test_device_that_is_full_from_the_start_is_told_before_the_first_byte(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader = way.loader()
    # Facts about a device are asked once, before it is full.
    loader.profile(simgpu.device)
    file = loader.files.open(path)
    simgpu.capacity_bytes = MODEL_BYTES // 2
    with gives_all_back(loader), pytest.raises(NotEnoughMemory) as caught:
        way.load(loader, path)
    error = caught.value
    assert error.path == str(path)
    assert error.need > MODEL_BYTES // 2 >= error.available
    assert file.bytes_read < MIB
    assert simgpu.allocations == 0
    simgpu.capacity_bytes = None
    assert digest(way.load(loader, path)) == expected
    loader.close()


@every_way
def test_device_that_fills_up_half_way_is_told_with_numbers(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    def fill() -> None:
        simgpu.capacity_bytes = simgpu.allocated_bytes + MIB

    loader, progress = way.loader(), AtByte(HALF_WAY_BYTES, fill)
    with gives_all_back(loader), pytest.raises(NotEnoughMemory) as caught:
        way.load(loader, path, progress=progress)
    assert progress.has_acted
    assert caught.value.path == str(path)
    assert caught.value.need > caught.value.available
    simgpu.capacity_bytes = None
    assert digest(way.load(loader, path)) == expected
    loader.close()


@every_way
@pytest.mark.parametrize("nth", [1, 9, 20])
def test_allocation_that_fails_is_told_with_path_and_tensor(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way, nth: int
) -> None:
    loader = way.loader()
    simgpu.fail_allocation(nth)
    with gives_all_back(loader), pytest.raises(NotEnoughMemory) as caught:
        way.load(loader, path)
    error = caught.value
    assert error.path == str(path)
    assert error.tensor is not None and error.tensor.startswith("blocks.")
    assert error.tensor in str(error)
    assert error.need > 0
    assert "simgpu:0" in error.pool
    assert digest(way.load(loader, path)) == expected
    loader.close()


@every_way
@pytest.mark.parametrize("nth", [1, 12, 22])
def test_copy_that_fails_is_told_with_path_and_device(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way, nth: int
) -> None:
    loader = way.loader()
    simgpu.fail_upload(nth)
    with gives_all_back(loader), pytest.raises(LoadError) as caught:
        way.load(loader, path)
    assert isinstance(caught.value, RuntimeError)
    assert caught.value.path == str(path)
    assert "simgpu:0" in str(caught.value)
    assert "copy engine failed" in str(caught.value)
    assert digest(way.load(loader, path)) == expected
    loader.close()


@every_way
def test_loader_survives_many_failures(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    # A slot of the ring lost with each would end in waiting for ever.
    loader = way.loader()
    errors = []
    with gives_all_back(loader):
        for nth in range(1, 9):
            simgpu.fail_upload(nth)
            with pytest.raises(LoadError) as caught:
                way.load(loader, path)
            errors.append(caught.value)
    assert digest(way.load(loader, path)) == expected
    assert len(errors) == 8
    loader.close()


# -- what the caller holds stays whole -------------------------------------------------------------


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("failure", ["allocation", "upload"])
def test_failed_place_leaves_each_weight_here_or_there(
    path: Path, expected: str, simgpu: SimulatedDevice, strategy: str, failure: str
) -> None:
    loader = Way(strategy, "simgpu:0").loader()
    state = loader.open(LoadRequest(path=str(path), device=None)).state_dict
    if failure == "allocation":
        simgpu.fail_allocation(20)
    else:
        simgpu.fail_upload(20)
    with pytest.raises(LoadError) as caught:
        loader.place(state, simgpu.device)
    here = [tensor.device.type for tensor in state.values()]
    assert "cpu" in here
    # What is allocated on the device is in the dict, and nothing else, while the error is held.
    assert caught.value.__traceback__ is not None
    placed = sum(tensor.nbytes for tensor in state.values() if tensor.device.type != "cpu")
    assert simgpu.allocated_bytes == placed
    assert digest(state) == expected
    loader.place(state, simgpu.device)
    assert {tensor.device for tensor in state.values()} == {simgpu.device}
    assert digest(state) == expected
    loader.close()


@pytest.mark.parametrize("failure", ["allocation", "upload"])
def test_failed_move_of_one_weight_leaves_it_in_its_file(
    path: Path, simgpu: SimulatedDevice, failure: str
) -> None:
    loader = Way("file-slice", "simgpu:0").loader()
    tensor = loader.open(LoadRequest(path=str(path), device=None)).state_dict["blocks.0000.weight"]
    if failure == "allocation":
        simgpu.fail_allocation(1)
    else:
        simgpu.fail_upload(3)
    with pytest.raises(LoadError) as caught:
        tensor.to(simgpu.device)
    assert caught.value.path == str(path)
    assert simgpu.allocated_bytes == 0
    assert torch.equal(tensor.to(simgpu.device).to("cpu"), tensor.clone())
    loader.close()

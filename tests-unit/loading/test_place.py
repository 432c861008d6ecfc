"""`place` moves a state dict home: whatever its values are, each once, shared ones together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.file_tensor import FileTensor
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.sources import is_mapped
from comfy.loading.testing import as_bytes
from support.census import mapped_files
from support.files import write_safetensors
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
STRATEGIES = ["mmap", "readinto", "file-slice"]
WHERES = ["cpu", "simgpu:0"]


def weights() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(17)
    return {
        "a.weight": torch.randn(512, 768, generator=generator),
        "a.bias": torch.randn(512, generator=generator),
        "b.weight": torch.randn(1024, 640, generator=generator).half(),
        "b.bias": torch.randn(640, generator=generator).half(),
        "count": torch.tensor(41),
        "empty": torch.empty(0, 4),
    }


TOTAL_BYTES = sum(tensor.nbytes for tensor in weights().values())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", weights())


@pytest.fixture
def loader(simgpu: SimulatedDevice) -> Any:
    made = Loader(LoadOptions(staging_bytes=MIB), run_device=simgpu.device)
    yield made
    made.close()


def open_with(loader: Loader, path: Path, strategy: str) -> dict[str, Any]:
    options = LoadOptions(strategy, staging_bytes=MIB)
    return loader.open(LoadRequest(path=str(path), device=None), options=options).state_dict


def contents(state: dict[str, torch.Tensor]) -> dict[str, bytes]:
    return {name: as_bytes(tensor) for name, tensor in state.items()}


@pytest.fixture
def mixed(loader: Loader, path: Path) -> dict[str, Any]:
    """Mapped, read and described weights, strange views, and things that are no tensors."""
    mapped, read = open_with(loader, path, "mmap"), open_with(loader, path, "readinto")
    described = open_with(loader, path, "file-slice")
    written = open_with(loader, path, "file-slice")["b.bias"]
    with torch.no_grad():
        written.fill_(3)
    return {
        "mapped": mapped["a.weight"],
        "read": read["b.weight"],
        "described": described["a.weight"],
        "own": torch.arange(12.0).reshape(3, 4),
        "transposed": torch.arange(12.0).reshape(3, 4).t(),
        "described.t": described["b.weight"].t(),
        "described.rows": described["b.weight"][5:9],
        "described.column": described["a.weight"][:, 7],
        "mapped.rows": mapped["a.weight"][2:4],
        "written": written,
        "count": described["count"],
        "empty": described["empty"],
        "parameter": torch.nn.Parameter(torch.ones(5)),
        "step": 1000,
        "name": "a name",
        "nothing": None,
    }


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_all_kinds_of_values_are_moved_in_place(
    loader: Loader,
    mixed: dict[str, Any],
    simgpu: SimulatedDevice,
    where: str,
    dtype: torch.dtype | None,
) -> None:
    names = list(mixed)
    expected = {
        name: value.detach().clone().to(dtype if value.is_floating_point() else value.dtype)
        for name, value in mixed.items()
        if isinstance(value, torch.Tensor)
    }
    loader.place(mixed, where, dtype=dtype)
    assert list(mixed) == names
    assert (mixed["step"], mixed["name"], mixed["nothing"]) == (1000, "a name", None)
    for name, tensor in expected.items():
        assert mixed[name].device == torch.device(where), name
        assert mixed[name].shape == tensor.shape, name
        assert mixed[name].dtype == tensor.dtype, name
        assert as_bytes(mixed[name]) == as_bytes(tensor), name
        assert not isinstance(mixed[name], FileTensor), name
        assert not is_mapped(mixed[name]), name
    assert mixed["written"].tolist() == [3.0] * 640


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_place_returns_the_bytes_that_it_moved(
    loader: Loader, path: Path, simgpu: SimulatedDevice, strategy: str
) -> None:
    state = open_with(loader, path, strategy)
    assert loader.place(state, simgpu.device) == TOTAL_BYTES
    assert simgpu.counters.uploaded_bytes == TOTAL_BYTES
    assert simgpu.counters.h2d_copies == 0
    assert simgpu.allocated_bytes == TOTAL_BYTES


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_placing_again_moves_nothing(
    loader: Loader, path: Path, simgpu: SimulatedDevice, strategy: str, where: str
) -> None:
    state = open_with(loader, path, strategy)
    loader.place(state, where)
    before = {name: id(tensor) for name, tensor in state.items()}
    uploads = simgpu.counters.uploads
    assert loader.place(state, where) == 0
    assert {name: id(tensor) for name, tensor in state.items()} == before
    assert simgpu.counters.uploads == uploads


def test_only_chosen_keys_are_moved(loader: Loader, path: Path, simgpu: SimulatedDevice) -> None:
    state = open_with(loader, path, "file-slice")
    moved = loader.place(state, simgpu.device, keys=["b.weight", "count"])
    assert moved == weights()["b.weight"].nbytes + 8
    there = {name for name, tensor in state.items() if tensor.device == simgpu.device}
    assert there == {"b.weight", "count"}
    assert all(state[name].is_in_file for name in set(state) - there)


def test_unknown_key_is_told_before_anything_moves(
    loader: Loader, path: Path, simgpu: SimulatedDevice
) -> None:
    state = open_with(loader, path, "file-slice")
    with pytest.raises(KeyError, match="third"):
        loader.place(state, simgpu.device, keys=["a.bias", "third"])
    assert all(tensor.device.type == "cpu" for tensor in state.values())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_place_on_the_cpu_gives_private_memory(
    loader: Loader, path: Path, simgpu: SimulatedDevice, strategy: str
) -> None:
    state = open_with(loader, path, strategy)
    loader.place(state, "cpu")
    assert {type(tensor) for tensor in state.values()} == {torch.Tensor}
    assert not any(is_mapped(tensor) for tensor in state.values())
    assert str(path) not in mapped_files()
    assert contents(state) == contents(weights())


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_weights_can_go_on_to_another_device_and_back(
    loader: Loader,
    path: Path,
    simgpu: SimulatedDevice,
    second_simgpu: SimulatedDevice,
    strategy: str,
) -> None:
    state = open_with(loader, path, strategy)
    for device in (simgpu.device, second_simgpu.device, torch.device("cpu"), simgpu.device):
        assert loader.place(state, device) == TOTAL_BYTES
        assert {tensor.device for tensor in state.values()} == {device}
        assert contents(state) == contents(weights())
    assert second_simgpu.allocated_bytes == 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_dtype_changes_on_a_second_place(
    loader: Loader, path: Path, simgpu: SimulatedDevice, strategy: str
) -> None:
    state = open_with(loader, path, strategy)
    loader.place(state, simgpu.device)
    loader.place(state, simgpu.device, dtype=torch.float64)
    assert {tensor.dtype for name, tensor in state.items() if name != "count"} == {torch.float64}
    assert as_bytes(state["a.bias"]) == as_bytes(weights()["a.bias"].double())


def test_progress_of_a_place_reaches_its_end(
    loader: Loader, path: Path, simgpu: SimulatedDevice
) -> None:
    told: list[tuple[int, int]] = []
    state = open_with(loader, path, "file-slice")
    loader.place(state, simgpu.device, progress=lambda done, whole: told.append((done, whole)))
    assert told[-1] == (TOTAL_BYTES, TOTAL_BYTES)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


# -- weights that are shared -----------------------------------------------------------------------


def _same_object(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    # What `module.state_dict()` gives for a tied parameter.
    return tensor.detach()


def _parameter(tensor: torch.Tensor) -> torch.Tensor:
    return torch.nn.Parameter(tensor, requires_grad=False)


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("dtype", [None, torch.float16])
@pytest.mark.parametrize("tie", [_same_object, _alias, _parameter])
@pytest.mark.parametrize("strategy", [*STRATEGIES, "none"])
def test_tied_weights_stay_one(
    loader: Loader,
    path: Path,
    simgpu: SimulatedDevice,
    strategy: str,
    tie: Callable[[torch.Tensor], torch.Tensor],
    dtype: torch.dtype | None,
    where: str,
) -> None:
    opened = weights() if strategy == "none" else open_with(loader, path, strategy)
    state = {
        "embedding": opened["a.weight"],
        "between": opened["b.bias"],
        "head": tie(opened["a.weight"]),
    }
    loader.place(state, where, dtype=dtype)
    expected = weights()["a.weight"].to(dtype or torch.float32)
    assert state["head"].data_ptr() == state["embedding"].data_ptr()
    assert as_bytes(state["head"]) == as_bytes(state["embedding"]) == as_bytes(expected)
    if where != "cpu":
        assert simgpu.allocated_bytes == expected.nbytes + state["between"].nbytes
        assert simgpu.peak_bytes == simgpu.allocated_bytes


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_neighbours_in_one_storage_are_not_taken_for_one(
    loader: Loader, path: Path, simgpu: SimulatedDevice, strategy: str
) -> None:
    whole = open_with(loader, path, strategy)["a.weight"]
    state = {"q": whole[:256], "k": whole[256:], "t": whole.t(), "again": whole[:256]}
    loader.place(state, simgpu.device)
    expected = weights()["a.weight"]
    assert as_bytes(state["q"]) == as_bytes(expected[:256])
    assert as_bytes(state["k"]) == as_bytes(expected[256:])
    assert as_bytes(state["t"]) == as_bytes(expected.t())
    assert state["again"].data_ptr() == state["q"].data_ptr()

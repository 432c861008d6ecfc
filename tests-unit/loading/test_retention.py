"""What stays after a load: the bytes of the tensors that are kept, and descriptors that are needed."""

from __future__ import annotations

import ctypes
import gc
import json
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.testing import as_bytes
from support import simulated_device
from support.census import descriptors, descriptors_of, memory, thread_names
from support.files import write_checkpoint, write_large, write_safetensors
from support.memory_cap import run_measured
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
STRATEGIES = ["mmap", "readinto", "file-slice"]
MODEL_BYTES = 96 * MIB
# What the heap, code loaded on first use and the counting itself may hold.
SLACK_BYTES = 8 * MIB


def loader_of(strategy: str, device: torch.device | str = "cpu", **options: Any) -> Loader:
    chosen = LoadOptions(strategy=strategy, **{"staging_bytes": MIB, **options})
    return Loader(chosen, run_device=device)


def state_of(
    loader: Loader, path: Path, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    return loader.open(LoadRequest(path=str(path), device=device)).state_dict


def weights(count: int = 4) -> dict[str, torch.Tensor]:
    """Matrices of 2 MiB and biases of 4 KiB, in turns."""
    generator = torch.Generator().manual_seed(5)
    state: dict[str, torch.Tensor] = {}
    for number in range(count):
        state[f"{number}.weight"] = torch.randn(512, 1024, generator=generator)
        state[f"{number}.bias"] = torch.randn(1024, generator=generator)
    return state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", weights())


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    return write_checkpoint(tmp_path / "model.ckpt", weights())


# -- memory ----------------------------------------------------------------------------------------


def keep_one(path: str, wheres: list[str]) -> dict[str, int]:
    """Load with each strategy to each place, keep one small tensor, and count what is left.

    Runs in a process of its own. The memory is counted while the tensor is alive.
    """
    cards = simulated_device.install()
    kept: dict[str, torch.Tensor] = {}
    left: dict[str, int] = {}
    for strategy in STRATEGIES:
        for where in wheres:
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            before = memory().total
            loader = loader_of(strategy, where)
            target = torch.device(where)
            state = state_of(loader, Path(path), target)
            loader.place(state, target)
            name = min(state, key=lambda key: state[key].nbytes)
            kept[f"{strategy} {where}"] = state[name]
            state.clear()
            loader.close()
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            left[f"{strategy} {where}"] = memory().total - before
    left["on device"] = cards[0].allocated_bytes
    left["kept on device"] = sum(one.nbytes for one in kept.values() if one.device.type != "cpu")
    return left


WHERES = ["cpu", "simgpu:0"]


@pytest.fixture(scope="module")
def left_bytes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    path = tmp_path_factory.mktemp("retention") / "model.safetensors"
    write_large(path, MODEL_BYTES, largest_bytes=16 * MIB)
    arguments = {"path": str(path), "wheres": WHERES}
    measured = run_measured(keep_one, arguments=arguments, in_group=False).succeeded()
    path.unlink()
    # The load itself is seen by the same means.
    assert measured.peak_over_baseline_bytes > MODEL_BYTES
    found: dict[str, int] = measured.result
    return found


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_small_survivor_leaves_no_memory_of_the_rest(
    left_bytes: dict[str, int], strategy: str, where: str
) -> None:
    assert left_bytes[f"{strategy} {where}"] < SLACK_BYTES


def test_small_survivors_leave_only_their_bytes_on_the_device(left_bytes: dict[str, int]) -> None:
    assert left_bytes["on device"] == left_bytes["kept on device"] > 0


@pytest.mark.parametrize("where", WHERES)
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["2.weight", "2.bias"])
def test_storage_of_each_weight_has_its_bytes_only(
    path: Path, simgpu: SimulatedDevice, strategy: str, where: str, name: str
) -> None:
    loader = loader_of(strategy, where)
    state = state_of(loader, path, torch.device(where))
    loader.place(state, where)
    assert state[name].untyped_storage().nbytes() == state[name].nbytes
    assert as_bytes(state[name]) == as_bytes(weights()[name])
    loader.close()


# -- descriptors -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("strategy", "count"), [("mmap", 0), ("readinto", 0), ("file-slice", 1)])
def test_open_descriptors_after_a_load(path: Path, strategy: str, count: int) -> None:
    loader = loader_of(strategy)
    state = state_of(loader, path)
    assert len(descriptors_of(path)) == count
    del state
    gc.collect()
    assert descriptors_of(path) == []


@pytest.mark.parametrize(("strategy", "count"), [("mmap", 0), ("readinto", 0), ("file-slice", 1)])
def test_open_descriptors_after_a_load_of_a_pickle(
    pickled: Path, strategy: str, count: int
) -> None:
    loader = loader_of(strategy)
    state = state_of(loader, pickled)
    assert len(descriptors_of(pickled)) == count
    del state
    gc.collect()
    assert descriptors_of(pickled) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_descriptor_is_open_while_bytes_are_read(path: Path, strategy: str) -> None:
    counted: list[int] = []
    loader = loader_of(strategy)
    loader.open(
        LoadRequest(path=str(path), device=None, dtype=torch.float16),
        progress=lambda done, total: counted.append(len(descriptors_of(path))),
    )
    assert counted
    assert min(counted) >= 1


def test_descriptor_closes_with_the_last_tensor_in_the_file(path: Path) -> None:
    state = state_of(loader_of("file-slice"), path)
    names = list(state)
    for name in names[:-1]:
        del state[name]
    assert len(descriptors_of(path)) == 1
    del state[names[-1]]
    assert descriptors_of(path) == []


def test_view_of_a_weight_in_the_file_keeps_the_descriptor(path: Path) -> None:
    state = state_of(loader_of("file-slice"), path)
    row = state["0.weight"][3]
    state.clear()
    assert len(descriptors_of(path)) == 1
    assert as_bytes(row) == as_bytes(weights()["0.weight"][3])
    del row
    assert descriptors_of(path) == []


def test_descriptor_closes_when_the_last_weight_was_placed(
    path: Path, simgpu: SimulatedDevice
) -> None:
    loader = loader_of("file-slice", simgpu.device)
    state = state_of(loader, path)
    names = list(state)
    loader.place(state, simgpu.device, keys=names[:-1])
    assert len(descriptors_of(path)) == 1
    loader.place(state, simgpu.device)
    assert descriptors_of(path) == []
    assert set(state) == set(names)
    loader.close()


@pytest.mark.parametrize(
    "bring_home",
    [
        lambda tensor: tensor.data_ptr(),
        lambda tensor: tensor.numpy(),
        lambda tensor: tensor.add_(1),
    ],
    ids=["data_ptr", "numpy", "write"],
)
def test_descriptor_closes_when_the_last_weight_is_at_home_on_the_host(
    path: Path, bring_home: Callable[[torch.Tensor], object]
) -> None:
    state = state_of(loader_of("file-slice"), path)
    for tensor in state.values():
        assert len(descriptors_of(path)) == 1
        bring_home(tensor)
    assert descriptors_of(path) == []


def test_two_loads_of_a_file_share_one_descriptor(path: Path) -> None:
    loader = loader_of("file-slice")
    first, second = state_of(loader, path), state_of(loader, path)
    assert len(descriptors_of(path)) == 1
    del first
    assert len(descriptors_of(path)) == 1
    del second
    assert descriptors_of(path) == []


def _write_shards(folder: Path) -> tuple[Path, dict[str, Path]]:
    files: dict[str, Path] = {}
    for number in range(3):
        share = {name: one for name, one in weights(3).items() if name.startswith(f"{number}.")}
        file = write_safetensors(folder / f"{number}.safetensors", share)
        files.update(dict.fromkeys(share, file))
    index = folder / "model.safetensors.index.json"
    table = {"metadata": {}, "weight_map": {name: file.name for name, file in files.items()}}
    index.write_text(json.dumps(table))
    return index, files


@pytest.mark.parametrize(("strategy", "count"), [("mmap", 0), ("readinto", 0), ("file-slice", 1)])
def test_open_descriptors_after_a_load_of_shards(tmp_path: Path, strategy: str, count: int) -> None:
    index, files = _write_shards(tmp_path)
    state = state_of(loader_of(strategy), index)
    assert [len(descriptors_of(file)) for file in set(files.values())] == [count] * 3
    assert descriptors_of(index) == []
    for name in [name for name in state if files[name].name == "0.safetensors"]:
        del state[name]
    assert descriptors_of(tmp_path / "0.safetensors") == []
    assert len(descriptors_of(tmp_path / "1.safetensors")) == count


MANY = 200
DESCRIPTORS = 128


def open_many(folder: str) -> dict[str, Any]:
    """Hold hundreds of files open in the sense of `file-slice`, and use them; runs apart."""
    card = simulated_device.install()[0]
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    loader = loader_of("file-slice", card.device)
    paths = sorted(Path(folder).glob("*.safetensors"))
    states = [state_of(loader, path) for path in paths]
    most = len(descriptors())
    wrong = []
    for turn in range(2):
        for path, state in zip(paths, states, strict=True):
            expected = torch.full((4, 8), float(path.stem))
            value = state["up"].clone() if turn else state["up"].to(card.device).to("cpu")
            if not torch.equal(value, expected):
                wrong.append(path.name)
        most = max(most, len(descriptors()))
    for state in states:
        loader.place(state, card.device)
    return {"files": len(paths), "wrong": wrong, "most": most, "left": len(descriptors())}


def test_hundreds_of_files_work_where_few_descriptors_are_allowed(tmp_path: Path) -> None:
    for number in range(MANY):
        value = {"up": torch.full((4, 8), float(number)), "down": torch.zeros(8)}
        write_safetensors(tmp_path / f"{number}.safetensors", value)
    measured = run_measured(open_many, arguments={"folder": str(tmp_path)}, in_group=False)
    found = measured.succeeded().result
    assert found["files"] == MANY
    assert found["wrong"] == []
    assert found["most"] < DESCRIPTORS
    # All weights are on the device: no file is needed any more.
    assert found["left"] < found["most"] - 32


# -- threads ---------------------------------------------------------------------------------------


def until(condition: Callable[[], bool], timeout_s: float = 2.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("where", WHERES)
def test_no_thread_of_a_load_is_left(
    path: Path, simgpu: SimulatedDevice, strategy: str, where: str
) -> None:
    before = threading.active_count()
    loader = loader_of(strategy, where, threads=3)
    loader.place(state_of(loader, path, torch.device(where)), where)
    assert not [name for name in thread_names() if name.startswith(("weight-", "memory-"))]
    loader.close()
    assert until(lambda: threading.active_count() <= before)

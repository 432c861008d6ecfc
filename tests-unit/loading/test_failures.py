"""A load that fails tells what, where and how much, and leaves nothing; the next one works.

Every error is one that the system really gives. It is held, with its traceback, while memory,
descriptors, mappings and threads are counted.
"""

from __future__ import annotations

import contextlib
import errno
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from comfy.loading.errors import (
    InvalidWeightFile,
    LoadCancelled,
    LoadError,
    NotEnoughMemory,
    TruncatedWeightFile,
    WeightFileChanged,
    WeightReadFailed,
)
from comfy.loading.file_tensor import FileTensor
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.reader import CancelToken
from support import faults
from support.census import descriptors_of
from support.faults import AtByte
from support.files import evict, write_large
from support.loads import (
    HALF_WAY_BYTES,
    MIB,
    MODEL_BYTES,
    WAYS,
    Way,
    digest,
    gives_all_back,
    link,
    write_model,
)
from support.simulated_device import SimulatedDevice


@pytest.fixture(autouse=True, scope="module")
def _torch_is_ready(model: Path) -> None:
    # The first operation on any tensor subclass makes torch import 40 MiB of itself.
    _, state = open_only(Way("file-slice", "cpu"), model)
    state["blocks.0001.weight"].clone()


every_way = pytest.mark.parametrize("way", WAYS, ids=str)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("failures") / "model.safetensors")


@pytest.fixture(scope="module")
def expected(model: Path) -> str:
    return digest(Way("readinto", "cpu").load(Way("readinto", "cpu").loader(), model))


@pytest.fixture
def path(model: Path, tmp_path: Path) -> Path:
    """The model under a name of its own; its bytes must not be changed."""
    return link(model, tmp_path / "model.safetensors")


@pytest.fixture
def victim(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that a test may damage."""
    return Path(shutil.copyfile(model, tmp_path / "model.safetensors"))


def restore(model: Path, path: Path) -> None:
    path.unlink(missing_ok=True)
    link(model, path)


# -- the file changes while it is read -------------------------------------------------------------


def _truncate(path: Path) -> None:
    faults.truncate(path, MIB)


def _overwrite(path: Path) -> None:
    faults.overwrite(path, MODEL_BYTES // 2, b"other")


def _replace(path: Path) -> None:
    faults.replace(path)


CHANGES = {
    "truncated": (_truncate, (TruncatedWeightFile, WeightFileChanged)),
    "overwritten": (_overwrite, (WeightFileChanged,)),
    "replaced": (_replace, (WeightFileChanged,)),
}


@every_way
@pytest.mark.parametrize("change", CHANGES)
def test_file_that_changes_half_way_fails_the_load_and_leaves_nothing(
    model: Path, victim: Path, expected: str, simgpu: SimulatedDevice, way: Way, change: str
) -> None:
    act, errors = CHANGES[change]
    loader = way.loader()
    progress = AtByte(HALF_WAY_BYTES, lambda: act(victim))
    with gives_all_back(loader), pytest.raises(errors) as caught:
        way.load(loader, victim, progress=progress)
    assert progress.has_acted
    assert caught.value.path == str(victim)
    assert isinstance(caught.value, LoadError)
    restore(model, victim)
    assert digest(way.load(loader, victim)) == expected
    loader.close()


@every_way
def test_file_deleted_half_way_is_read_to_its_end(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader = way.loader()
    progress = AtByte(HALF_WAY_BYTES, lambda: faults.delete(path))
    state = way.load(loader, path, progress=progress)
    assert progress.has_acted
    assert digest(state) == expected
    assert descriptors_of(path) == []
    loader.close()


@every_way
def test_read_error_half_way_fails_the_load_and_leaves_nothing(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader = way.loader()
    # Cold, so that the readers are not done before the fault is there.
    evict(path)
    with contextlib.ExitStack() as stack:
        progress = AtByte(HALF_WAY_BYTES, lambda: stack.enter_context(faults.unreadable(path)))
        # What the fault itself holds is given back first, hence the order of the contexts.
        with gives_all_back(loader):
            with pytest.raises(WeightReadFailed) as caught:
                way.load(loader, path, progress=progress)
            stack.close()
    assert progress.has_acted
    assert caught.value.errno == errno.EBADF
    assert caught.value.path == str(path)
    assert caught.value.offset is not None and 0 < caught.value.offset < path.stat().st_size
    assert "at byte" in str(caught.value)
    assert digest(way.load(loader, path)) == expected
    loader.close()


@pytest.mark.parametrize("where", ["cpu", "simgpu:0"])
def test_error_that_is_held_keeps_nothing_of_a_large_weight(
    tmp_path: Path, simgpu: SimulatedDevice, where: str
) -> None:
    # Many requests, so that most are still to come when the first is done.
    size = 3 * MODEL_BYTES
    path = write_large(tmp_path / "one.safetensors", size, largest_bytes=size)
    loader = Way("file-slice", where).loader(threads=1)
    state = loader.open(LoadRequest(path=str(path), device=None)).state_dict
    (name,) = state
    evict(path)
    with contextlib.ExitStack() as stack:
        progress = AtByte(MIB, lambda: stack.enter_context(faults.unreadable(path)))
        with gives_all_back(loader):
            with pytest.raises(WeightReadFailed) as caught:
                loader.place(state, where, progress=progress)
            stack.close()
            assert caught.value.__traceback__ is not None
    assert state[name].is_in_file  # type: ignore[attr-defined]


def test_truncated_file_is_told_with_tensor_and_numbers(
    victim: Path, simgpu: SimulatedDevice
) -> None:
    # Already cut when it is opened: the header knows better.
    faults.truncate(victim, MODEL_BYTES // 2)
    with pytest.raises(InvalidWeightFile) as caught:
        Loader(LoadOptions(), run_device="cpu").open(LoadRequest(path=str(victim), device=None))
    assert caught.value.path == str(victim)
    assert caught.value.wanted is not None and caught.value.wanted > MODEL_BYTES
    assert caught.value.got == MODEL_BYTES // 2
    assert descriptors_of(victim) == []


# -- the file changes after the load ---------------------------------------------------------------


def open_only(way: Way, path: Path) -> tuple[Loader, dict[str, torch.Tensor]]:
    """Open without a destination, so that the strategy's own kind of values is there."""
    loader = way.loader()
    return loader, loader.open(LoadRequest(path=str(path), device=None)).state_dict


LATER = [way for way in WAYS if way.strategy != "readinto"]


@pytest.mark.parametrize("way", LATER, ids=str)
@pytest.mark.parametrize("change", CHANGES)
def test_file_that_changed_after_the_load_is_never_read_for_another(
    victim: Path, simgpu: SimulatedDevice, way: Way, change: str
) -> None:
    act, errors = CHANGES[change]
    loader, state = open_only(way, victim)
    before = {name: id(tensor) for name, tensor in state.items()}
    act(victim)
    with gives_all_back(loader), pytest.raises(errors) as caught:
        loader.place(state, way.device)
    assert caught.value.path == str(victim)
    # Every weight is where it was, as far as the file still has it.
    assert {name: id(tensor) for name, tensor in state.items() if _is_large(tensor)} == {
        name: before[name] for name, tensor in state.items() if _is_large(tensor)
    }


def _is_large(tensor: torch.Tensor) -> bool:
    return tensor.nbytes >= MIB


@pytest.mark.parametrize("where", ["cpu", "simgpu:0"])
@pytest.mark.parametrize(
    "use",
    [
        lambda tensor, where: tensor.to(where) if where != "cpu" else tensor.clone(),
        lambda tensor, where: tensor.data_ptr(),
        lambda tensor, where: tensor[:2] + 1,
    ],
    ids=["move", "data_ptr", "rows"],
)
def test_use_of_a_weight_whose_file_changed_is_an_error(
    victim: Path,
    simgpu: SimulatedDevice,
    where: str,
    use: Callable[[torch.Tensor, str], object],
) -> None:
    loader, state = open_only(Way("file-slice", where), victim)
    tensor = next(iter(state.values()))
    _replace(victim)
    with gives_all_back(loader), pytest.raises(WeightFileChanged) as caught:
        use(tensor, where)
    assert caught.value.path == str(victim)
    assert isinstance(tensor, FileTensor) and tensor.is_in_file


@pytest.mark.parametrize("where", ["cpu", "simgpu:0"])
@pytest.mark.parametrize("change", [*CHANGES, "deleted"])
def test_weights_that_were_read_need_their_file_no_more(
    victim: Path, expected: str, simgpu: SimulatedDevice, change: str, where: str
) -> None:
    loader, state = open_only(Way("readinto", where), victim)
    act = faults.delete if change == "deleted" else CHANGES[change][0]
    act(victim)
    loader.place(state, where)
    assert digest(state) == expected
    loader.close()


@pytest.mark.parametrize("where", ["cpu", "simgpu:0"])
def test_weights_left_in_a_file_that_was_deleted_are_still_there(
    path: Path, expected: str, simgpu: SimulatedDevice, where: str
) -> None:
    loader, state = open_only(Way("file-slice", where), path)
    faults.delete(path)
    first = next(iter(state))
    assert state[first].clone().nbytes
    loader.place(state, where)
    assert digest(state) == expected
    loader.close()


def test_mapped_weights_of_a_deleted_file_are_not_moved_but_can_be_used(
    path: Path, expected: str, simgpu: SimulatedDevice
) -> None:
    loader, state = open_only(Way("mmap", "simgpu:0"), path)
    faults.delete(path)
    with pytest.raises(WeightFileChanged) as caught:
        loader.place(state, simgpu.device)
    assert caught.value.path == str(path)
    assert digest(state) == expected
    loader.close()


# -- too little memory, told before the first byte -------------------------------------------------


@pytest.mark.parametrize(
    "way", [way for way in WAYS if way.where != "cpu" or way.strategy == "readinto"], ids=str
)
def test_plan_that_does_not_fit_fails_before_the_first_byte(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader = way.loader()
    # Keeps the object with the count of bytes alive.
    file = loader.files.open(path)
    tight = LoadOptions(strategy=way.strategy, staging_bytes=MIB, reserve_bytes=1 << 50)
    with gives_all_back(loader), pytest.raises(NotEnoughMemory) as caught:
        loader.open(LoadRequest(path=str(path), device=way.device), options=tight)
    error = caught.value
    assert error.path == str(path)
    assert error.need >= MODEL_BYTES > error.available == 0
    assert file.bytes_read < path.stat().st_size - MODEL_BYTES + 16
    assert simgpu.allocations == 0
    assert digest(way.load(loader, path)) == expected
    loader.close()


# -- cancel ----------------------------------------------------------------------------------------


@every_way
def test_cancel_half_way_leaves_nothing(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader, token = way.loader(), CancelToken()
    progress = AtByte(HALF_WAY_BYTES, token.cancel)
    with gives_all_back(loader), pytest.raises(LoadCancelled) as caught:
        way.load(loader, path, cancel=token, progress=progress)
    assert progress.has_acted
    assert progress.calls[-1][0] < progress.calls[-1][1]
    assert caught.value.path == str(path)
    assert digest(way.load(loader, path)) == expected
    loader.close()


@every_way
def test_error_of_the_callers_own_callback_passes_through_and_leaves_nothing(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    class Own(Exception):
        pass

    def fail() -> None:
        raise Own

    loader = way.loader()
    with gives_all_back(loader), pytest.raises(Own):
        way.load(loader, path, progress=AtByte(HALF_WAY_BYTES, fail))
    assert digest(way.load(loader, path)) == expected
    loader.close()


def test_what_is_left_behind_is_seen(path: Path, simgpu: SimulatedDevice) -> None:
    way = Way("readinto", "cpu")
    loader = way.loader()
    with pytest.raises(AssertionError, match="left behind"), gives_all_back(loader):
        kept = way.load(loader, path)
    assert kept

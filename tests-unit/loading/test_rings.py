"""Staging rings: lent, shared, and given back when they are idle, closed or forgotten."""

from __future__ import annotations

import contextlib
import gc
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from comfy.loading.errors import LoadCancelled, WeightReadFailed
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest, staging_shape
from comfy.loading.reader import CancelToken
from comfy.loading.rings import Rings
from comfy.loading.staging import StagingRing
from comfy.loading.testing import as_bytes
from support.census import memory, thread_names
from support.faults import AtByte, unreadable
from support.files import write_safetensors
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
# What the heap, code loaded on first use and the counting itself may hold.
SLACK_BYTES = 8 * MIB


def weights() -> dict[str, torch.Tensor]:
    """Matrices of 2 MiB and biases of 4 KiB, in turns."""
    generator = torch.Generator().manual_seed(5)
    state: dict[str, torch.Tensor] = {}
    for number in range(4):
        state[f"{number}.weight"] = torch.randn(512, 1024, generator=generator)
        state[f"{number}.bias"] = torch.randn(1024, generator=generator)
    return state


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_safetensors(tmp_path / "model.safetensors", weights())


def loader_of(device: torch.device, staging_bytes: int = MIB) -> Loader:
    return Loader(LoadOptions("file-slice", staging_bytes=staging_bytes), run_device=device)


def state_of(
    loader: Loader, path: Path, device: torch.device | None = None
) -> dict[str, torch.Tensor]:
    return loader.open(LoadRequest(path=str(path), device=device)).state_dict


RING_BYTES = 48 * MIB


@pytest.fixture
def staged(path: Path, simgpu: SimulatedDevice) -> Loader:
    """A Loader that has used its staging of 48 MiB."""
    loader = loader_of(simgpu.device, RING_BYTES)
    state_of(loader, path, simgpu.device)
    assert loader.rings.nbytes == RING_BYTES
    assert sum(simgpu.registered.values()) == RING_BYTES
    return loader


def private_bytes() -> int:
    now = memory()
    return now.rss_anon + now.rss_shmem


def until(condition: Callable[[], bool], timeout_s: float = 2.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_staging_goes_back_when_the_loader_is_closed(
    staged: Loader, simgpu: SimulatedDevice
) -> None:
    before = private_bytes()
    staged.close()
    assert staged.rings.nbytes == 0
    assert not simgpu.registered
    assert private_bytes() < before - RING_BYTES + SLACK_BYTES


def test_staging_goes_back_with_a_loader_that_nobody_closed(
    path: Path, simgpu: SimulatedDevice
) -> None:
    loader = loader_of(simgpu.device, RING_BYTES)
    state_of(loader, path, simgpu.device)
    before = private_bytes()
    del loader
    gc.collect()
    assert until(lambda: private_bytes() < before - RING_BYTES + SLACK_BYTES)
    assert not simgpu.registered


def test_staging_goes_back_after_its_idle_time(path: Path, simgpu: SimulatedDevice) -> None:
    threads = thread_names()
    loader = loader_of(simgpu.device, RING_BYTES)
    loader.mover.rings = Rings(idle_s=0.2)
    state_of(loader, path, simgpu.device)
    before = private_bytes()
    assert loader.rings.nbytes == RING_BYTES
    assert until(lambda: loader.rings.nbytes == 0)
    assert not simgpu.registered
    assert private_bytes() < before - RING_BYTES + SLACK_BYTES
    assert until(lambda: len(thread_names()) <= len(threads))


def test_staging_stays_while_it_is_used_again_and_again(
    path: Path, simgpu: SimulatedDevice
) -> None:
    loader = loader_of(simgpu.device)
    loader.mover.rings = Rings(idle_s=0.3)
    state = state_of(loader, path)
    state["0.bias"].to(simgpu.device)
    first = next(iter(simgpu.registered))
    for _ in range(12):
        time.sleep(0.05)
        state["0.bias"].to(simgpu.device)
        assert first in simgpu.registered
    loader.close()


def test_staging_comes_back_after_it_was_freed(
    staged: Loader, path: Path, simgpu: SimulatedDevice
) -> None:
    staged.close()
    state = state_of(staged, path, simgpu.device)
    assert as_bytes(state["1.weight"]) == as_bytes(weights()["1.weight"])
    staged.close()


def test_staging_in_use_survives_a_close(path: Path, simgpu: SimulatedDevice) -> None:
    simgpu.copies.delay_s_per_mib = 0.02
    loader = loader_of(simgpu.device)
    closed: list[int] = []

    def close(done: int, total: int) -> None:
        if not closed:
            loader.close()
            closed.append(done)

    request = LoadRequest(path=str(path), device=simgpu.device)
    state = loader.open(request, progress=close).state_dict
    assert closed
    assert {name: as_bytes(one) for name, one in state.items()} == {
        name: as_bytes(one) for name, one in weights().items()
    }
    loader.close()
    assert loader.rings.nbytes == 0


@contextlib.contextmanager
def lent_to_another_thread(
    loader: Loader, device: torch.device, nbytes: int
) -> Iterator[StagingRing]:
    with ThreadPoolExecutor(1) as other:
        lending = loader.rings.lend(device, *staging_shape(nbytes))
        _, ring = other.submit(lending.__enter__).result()
        try:
            yield ring
        finally:
            other.submit(lending.__exit__, None, None, None).result()


def _cancel(path: Path, loader: Loader, device: torch.device) -> None:
    token = CancelToken()
    half = AtByte(4 * MIB, token.cancel)
    request = LoadRequest(path=str(path), device=device)
    with pytest.raises(LoadCancelled):
        loader.open(request, cancel=token, progress=half)


def _fail_to_read(path: Path, loader: Loader, device: torch.device) -> None:
    request = LoadRequest(path=str(path), device=device)
    with contextlib.ExitStack() as stack:
        half = AtByte(4 * MIB, lambda: stack.enter_context(unreadable(path)))
        with pytest.raises(WeightReadFailed):
            loader.open(request, progress=half)


@pytest.mark.parametrize("fail", [_cancel, _fail_to_read])
def test_failed_loads_lose_no_slot_of_a_ring_that_others_use(
    path: Path,
    simgpu: SimulatedDevice,
    fail: Callable[[Path, Loader, torch.device], None],
) -> None:
    simgpu.copies.delay_s_per_mib = 0.005
    loader = Loader(
        LoadOptions("file-slice", staging_bytes=4 * MIB, threads=3), run_device=simgpu.device
    )
    with lent_to_another_thread(loader, simgpu.device, 4 * MIB) as ring:
        assert ring.is_whole
        for _ in range(6):
            fail(path, loader, simgpu.device)
            assert ring.is_whole
        state = state_of(loader, path, simgpu.device)
        assert loader.rings.nbytes == ring.nbytes
    assert as_bytes(state["3.weight"]) == as_bytes(weights()["3.weight"])
    loader.close()


def test_ring_that_lost_a_slot_is_not_used_again(path: Path, simgpu: SimulatedDevice) -> None:
    loader = loader_of(simgpu.device)
    with loader.rings.lend(simgpu.device, *staging_shape(MIB)) as (_, ring):
        assert ring.acquire(lambda: False) is not None
        assert not ring.is_whole
    assert loader.rings.nbytes == 0
    assert state_of(loader, path, simgpu.device)["0.bias"].device == simgpu.device
    loader.close()


def _one_weight(loader: Loader, state: dict[str, torch.Tensor], device: torch.device) -> None:
    state["1.weight"] = state["1.weight"].to(device)


def _whole_state(loader: Loader, state: dict[str, torch.Tensor], device: torch.device) -> None:
    loader.place(state, device)


@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("move", [_one_weight, _whole_state])
def test_what_is_moved_between_two_of_a_stream_waits_for_none_of_its_slots(
    path: Path,
    simgpu: SimulatedDevice,
    move: Callable[[Loader, dict[str, torch.Tensor], torch.device], None],
    depth: int,
) -> None:
    loader = loader_of(simgpu.device)
    state = state_of(loader, path)
    with contextlib.ExitStack() as streams:
        rings = [
            streams.enter_context(loader.rings.lend(simgpu.device, *staging_shape(MIB)))[1]
            for _ in range(depth)
        ]
        taken = [(ring, ring.acquire(lambda: False)) for ring in rings for _ in ring.slots]

        def give_back() -> None:
            while taken:
                ring, slot = taken.pop()
                assert slot is not None
                ring.release(slot)

        rescue = threading.Timer(20.0, give_back)
        rescue.start()
        move(loader, state, simgpu.device)
        was_needed = not rescue.is_alive()
        rescue.cancel()
        rescue.join()
        assert not was_needed
        assert loader.rings.nbytes > sum(ring.nbytes for ring in rings)
        give_back()
    assert loader.rings.nbytes == rings[0].nbytes
    assert as_bytes(state["1.weight"]) == as_bytes(weights()["1.weight"])
    loader.close()

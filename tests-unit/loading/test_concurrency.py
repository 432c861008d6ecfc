"""Several threads load through one Loader at once, and each gets its own weights, whole."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from comfy.loading.errors import LoadCancelled, LoadError
from comfy.loading.loader import Loader
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.reader import CancelToken
from comfy.loading.testing import as_bytes
from support.census import descriptors_of
from support.faults import AtByte
from support.files import write_large
from support.loads import STRATEGIES, Way, digest
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024
FILES = 4
FILE_BYTES = 8 * MIB


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("concurrency")
    return [
        write_large(folder / f"{n}.safetensors", FILE_BYTES, largest_bytes=2 * MIB, seed=n)
        for n in range(FILES)
    ]


@pytest.fixture(scope="module")
def expected(paths: list[Path]) -> list[str]:
    way = Way("readinto", "cpu")
    return [digest(way.load(way.loader(), path)) for path in paths]


def at_once(*acts: Callable[[], object]) -> list[object]:
    """Call all of them, each in a thread of its own, starting together; errors are results."""
    barrier = threading.Barrier(len(acts))

    def run(act: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return act()
        except LoadError as err:
            return err

    with ThreadPoolExecutor(len(acts)) as pool:
        return [one.result(timeout=50) for one in [pool.submit(run, act) for act in acts]]


@pytest.mark.parametrize("delay_s_per_mib", [0.0, 0.01])
@pytest.mark.parametrize("devices", ["two", "one"])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_different_files_to_different_devices(
    paths: list[Path],
    expected: list[str],
    simgpu: SimulatedDevice,
    second_simgpu: SimulatedDevice,
    strategy: str,
    devices: str,
    delay_s_per_mib: float,
) -> None:
    cards = [simgpu, second_simgpu] if devices == "two" else [simgpu]
    for card in cards:
        card.copies.delay_s_per_mib = delay_s_per_mib
    options = LoadOptions(strategy=strategy, staging_bytes=MIB, threads=3)
    loader = Loader(options, run_device=simgpu.device)

    def load(number: int) -> dict[str, torch.Tensor]:
        device = cards[number % len(cards)].device
        request = LoadRequest(path=str(paths[number]), device=device)
        state = loader.open(request).state_dict
        assert {tensor.device for tensor in state.values()} == {device}
        return state

    found = at_once(*(lambda n=n: digest(load(n)) for n in range(FILES)))  # type: ignore[misc]
    assert found == expected
    loader.close()
    assert all(card.allocated_bytes == 0 for card in (simgpu, second_simgpu))
    assert not simgpu.registered and not second_simgpu.registered


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_file_to_two_devices(
    paths: list[Path],
    expected: list[str],
    simgpu: SimulatedDevice,
    second_simgpu: SimulatedDevice,
    strategy: str,
) -> None:
    simgpu.copies.delay_s_per_mib = second_simgpu.copies.delay_s_per_mib = 0.01
    loader = Loader(LoadOptions(strategy=strategy, staging_bytes=MIB), run_device=simgpu.device)

    def load(device: torch.device) -> str:
        return digest(loader.open(LoadRequest(path=str(paths[0]), device=device)).state_dict)

    cards = [simgpu.device, second_simgpu.device] * 2
    found = at_once(*(lambda card=card: load(card) for card in cards))  # type: ignore[misc]
    assert found == [expected[0]] * 4
    assert descriptors_of(paths[0]) == []
    loader.close()


def test_weights_of_one_file_are_used_from_many_threads(
    paths: list[Path], expected: list[str], simgpu: SimulatedDevice
) -> None:
    simgpu.copies.delay_s_per_mib = 0.005
    loader = Loader(LoadOptions("file-slice", staging_bytes=MIB), run_device=simgpu.device)
    state = loader.open(LoadRequest(path=str(paths[0]), device=None)).state_dict
    truth = {name: as_bytes(tensor) for name, tensor in state.items()}

    def use(turn: int) -> list[str]:
        names = list(state)[turn:] + list(state)[:turn]
        device = simgpu.device if turn % 2 else torch.device("cpu")
        return [n for n in names if as_bytes(state[n].to(device).clone()) != truth[n]]

    assert at_once(*(lambda n=n: use(n) for n in range(6))) == [[]] * 6  # type: ignore[misc]
    assert digest(state) == expected[0]
    loader.close()


def test_threads_that_want_the_same_weight_on_the_host_share_one(
    paths: list[Path], simgpu: SimulatedDevice
) -> None:
    loader = Loader(LoadOptions("file-slice"), run_device="cpu")
    state = loader.open(LoadRequest(path=str(paths[0]), device=None)).state_dict
    tensor = max(state.values(), key=lambda one: one.nbytes)
    found = at_once(*([tensor.data_ptr] * 8))
    assert len(set(found)) == 1


@pytest.mark.parametrize("failure", ["cancel", "upload", "allocation"])
def test_failure_of_one_load_leaves_the_others_alone(
    paths: list[Path], expected: list[str], simgpu: SimulatedDevice, failure: str
) -> None:
    simgpu.copies.delay_s_per_mib = 0.01
    loader = Loader(LoadOptions("file-slice", staging_bytes=MIB), run_device=simgpu.device)
    token = CancelToken()
    acts = {
        "cancel": token.cancel,
        "upload": lambda: simgpu.fail_upload(1),
        "allocation": lambda: simgpu.fail_allocation(1),
    }
    trouble = AtByte(FILE_BYTES // 2, acts[failure])

    def load(number: int) -> str:
        told = {"cancel": token, "progress": trouble} if number == 0 else {}
        request = LoadRequest(path=str(paths[number]), device=simgpu.device)
        return digest(loader.open(request, **told).state_dict)

    found = at_once(*(lambda n=n: load(n) for n in range(FILES)))  # type: ignore[misc]
    assert trouble.has_acted
    errors = [one for one in found if isinstance(one, LoadError)]
    # A fault of the device may hit whoever comes next; a cancel hits its own load only.
    assert len(errors) <= 1
    if failure == "cancel":
        assert isinstance(found[0], LoadCancelled)
    whole = [n for n, one in enumerate(found) if not isinstance(one, LoadError)]
    assert [found[n] for n in whole] == [expected[n] for n in whole]
    errors.clear()
    found.clear()
    assert digest_again(loader, paths, simgpu.device) == expected
    loader.close()


def digest_again(loader: Loader, paths: list[Path], device: torch.device) -> list[str]:
    requests = [LoadRequest(path=str(path), device=device) for path in paths]
    return [digest(loader.open(request).state_dict) for request in requests]

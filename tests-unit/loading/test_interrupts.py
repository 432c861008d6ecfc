"""Ctrl-C and cancelling from elsewhere end a load at once, and leave nothing of it."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from comfy.loading.errors import LoadCancelled
from comfy.loading.loader import Loader
from comfy.loading.plan import LoadRequest
from comfy.loading.reader import CancelToken
from support.census import descriptors_of, thread_names
from support.faults import AtByte
from support.loads import (
    HALF_WAY_BYTES,
    TO_DEVICE,
    WAYS,
    Way,
    digest,
    gives_all_back,
    write_model,
)
from support.memory_cap import run_measured
from support.simulated_device import SimulatedDevice, install

TESTS = Path(__file__).resolve().parent.parent
AT_ONCE_S = 1.0


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("interrupts") / "model.safetensors")


@pytest.fixture(scope="module")
def expected(path: Path) -> str:
    return digest(Way("readinto", "cpu").load(Way("readinto", "cpu").loader(), path))


@pytest.fixture(autouse=True, scope="module")
def _torch_is_ready(path: Path) -> None:
    # The first operation on any tensor subclass makes torch import 40 MiB of itself.
    loader = Way("file-slice", "cpu").loader()
    loader.open(LoadRequest(path=str(path), device=None)).state_dict["blocks.0001.weight"].clone()


def interrupt() -> None:
    """What Ctrl-C does."""
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_interrupt_between_two_requests_leaves_nothing(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader, progress = way.loader(), AtByte(HALF_WAY_BYTES, interrupt)
    with gives_all_back(loader), pytest.raises(KeyboardInterrupt):
        way.load(loader, path, progress=progress)
    assert progress.has_acted
    assert digest(way.load(loader, path)) == expected
    loader.close()


@pytest.mark.parametrize("way", TO_DEVICE, ids=str)
def test_interrupt_while_waiting_for_slow_copies_ends_the_load_at_once(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader = way.loader()
    state = loader.open(LoadRequest(path=str(path), device=None)).state_dict
    # All of it would take more than two seconds.
    simgpu.copies.delay_s_per_mib = 0.1
    sent: list[float] = []

    def send() -> None:
        sent.append(time.monotonic())
        interrupt()

    timer = threading.Timer(0.3, send)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        loader.place(state, simgpu.device)
    ended = time.monotonic()
    timer.join()
    limit = AT_ONCE_S if way.strategy != "readinto" else 16 * 0.1 + AT_ONCE_S
    assert 0 <= ended - sent[0] < limit
    simgpu.copies.delay_s_per_mib = 0.0
    loader.place(state, simgpu.device)
    assert digest(state) == expected
    loader.close()


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_cancel_from_another_thread_ends_the_load_at_once(
    path: Path, expected: str, simgpu: SimulatedDevice, way: Way
) -> None:
    loader, token = way.loader(), CancelToken()
    simgpu.copies.delay_s_per_mib = 0.1
    cancelled: list[float] = []

    def cancel() -> None:
        cancelled.append(time.monotonic())
        token.cancel()

    def linger(done: int, total: int) -> None:
        # Reading alone would be over before anybody could cancel it.
        time.sleep(0.05)

    timer = threading.Timer(0.1, cancel)
    with gives_all_back(loader):
        timer.start()
        with pytest.raises(LoadCancelled) as caught:
            way.load(loader, path, cancel=token, progress=linger)
        ended = time.monotonic()
        timer.join()
    assert caught.value.path == str(path)
    assert 0 <= ended - cancelled[0] < AT_ONCE_S
    simgpu.copies.delay_s_per_mib = 0.0
    assert digest(way.load(loader, path)) == expected
    loader.close()


# -- at any moment ---------------------------------------------------------------------------------

MOMENTS = 40


def interrupt_often(path: str) -> dict[str, Any]:
    """Interrupt loads at moments spread over their whole length; runs in a process of its own."""
    card = install()[0]
    found: dict[str, Any] = {"interrupted": 0, "wrong": [], "left": []}
    for way in (Way("file-slice", card.device.type), Way("readinto", "cpu")):
        loader = way.loader(threads=2)
        expected = digest(way.load(loader, Path(path)))
        begin = time.perf_counter()
        way.load(loader, Path(path))
        length_s = time.perf_counter() - begin
        for moment in range(MOMENTS):
            found["interrupted"] += _is_interrupted(way, loader, path, length_s * moment / MOMENTS)
        if digest(way.load(loader, Path(path))) != expected:
            found["wrong"].append(str(way))
        loader.close()
    deadline = time.monotonic() + 1.0
    while (left := _what_is_left(path, card)) and time.monotonic() < deadline:
        time.sleep(0.01)
    found["left"] = left
    return found


def _is_interrupted(way: Way, loader: Loader, path: str, delay_s: float) -> bool:
    timer = threading.Timer(delay_s, interrupt)
    try:
        timer.start()
        way.load(loader, Path(path))
        timer.join()
        time.sleep(0.002)
    except KeyboardInterrupt:
        return True
    return False


def _what_is_left(path: str, card: SimulatedDevice) -> list[str]:
    gc.collect()
    left = [f"descriptor {fd}" for fd in descriptors_of(path)]
    left += [name for name in thread_names() if name.startswith(("weight-", "memory-"))]
    left += [f"{card.allocated_bytes} bytes"] if card.allocated_bytes else []
    return left


@pytest.mark.slow
def test_interrupt_at_any_moment_leaves_nothing(path: Path) -> None:
    measured = run_measured(interrupt_often, arguments={"path": str(path)}, in_group=False)
    found = measured.succeeded().result
    # An interrupt that meets a destructor is lost, as everywhere in Python; few do.
    assert found["interrupted"] > MOMENTS
    assert found["wrong"] == []
    assert found["left"] == []


# -- a whole program -------------------------------------------------------------------------------

PROGRAM = """
import sys
from pathlib import Path
from support.loads import Way
from support.simulated_device import install
install()[0].copies.delay_s_per_mib = 0.2
way = Way(sys.argv[2], sys.argv[3])
loader = way.loader()
def told(done, total):
    print("loading", flush=True)
    if way.where == "cpu":
        import time; time.sleep(0.2)
way.load(loader, Path(sys.argv[1]), progress=told)
print("loaded", flush=True)
"""


@pytest.mark.parametrize("way", [Way("file-slice", "simgpu:0"), Way("readinto", "cpu")], ids=str)
def test_interrupted_program_exits_within_two_seconds(path: Path, way: Way) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(path), way.strategy, way.where],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "loading\n"
        process.send_signal(signal.SIGINT)
        sent = time.monotonic()
        output, errors = process.communicate(timeout=20)
        took = time.monotonic() - sent
    assert process.returncode == -signal.SIGINT
    assert errors.rstrip().endswith("KeyboardInterrupt")
    assert "Exception ignored" not in errors
    assert "loaded" not in output
    assert took < 2.0

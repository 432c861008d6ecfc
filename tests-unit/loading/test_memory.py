"""Which memory figure is believed of a device, and how much of it is left alone."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from comfy.loading import memory
from comfy.loading.hardware import Vote
from comfy.loading.memory import MemoryNeed, Pool, default_reserve, device_pool, host_pool
from support.facts import GIB, MIB, meminfo, pool, profile, refuse, write_tree


@pytest.fixture(autouse=True)
def _forget_warnings() -> Iterator[None]:
    memory._warn_once.cache_clear()
    yield
    memory._warn_once.cache_clear()


HOST = pool(50 * GIB, 64 * GIB)


def ask(found: tuple[float, float]) -> Callable[[], tuple[float, float]]:
    return lambda: found


def failing(error: Exception) -> Callable[[], tuple[int, int]]:
    def query() -> tuple[int, int]:
        raise error

    return query


def none_held() -> int:
    return 0


def test_cpu_has_the_hosts_pool() -> None:
    assert device_pool(profile("cpu"), HOST, refuse) is HOST


def test_discrete_card_is_believed_and_the_host_ignored() -> None:
    poor = pool(GIB, 64 * GIB)
    found = device_pool(profile(), poor, ask((20 * GIB, 24 * GIB)))
    assert found == Pool("cuda:0 memory", 24 * GIB, 20 * GIB)


def test_memory_that_torch_keeps_for_reuse_is_free() -> None:
    found = device_pool(profile(), HOST, ask((20 * GIB, 24 * GIB)), reusable=lambda: 2 * GIB)
    assert found.free == 22 * GIB


def test_unified_cuda_is_never_asked_for_its_free_memory() -> None:
    spark = profile(unified=True, total_bytes=64 * GIB)
    found = device_pool(spark, HOST, refuse)
    assert (found.name, found.free) == ("unified memory (cuda:0)", 50 * GIB)
    assert "page cache" in found.notes[-1]


def test_memory_that_torch_keeps_for_reuse_is_free_on_unified_devices_too() -> None:
    spark = profile(unified=True, total_bytes=64 * GIB)
    assert device_pool(spark, HOST, refuse, reusable=lambda: 3 * GIB).free == 53 * GIB
    assert device_pool(spark, HOST, refuse, reusable=lambda: 30 * GIB).free == 64 * GIB


def test_unified_device_that_may_use_only_a_part_is_capped() -> None:
    n1x = profile(unified=True, total_bytes=46477 * MIB)
    assert device_pool(n1x, HOST, refuse).free == 46477 * MIB


def test_disputed_card_gets_the_smaller_figure() -> None:
    votes = (
        Vote("integrated flag", "", "unified", strong=True),
        Vote("total memory", "", "discrete", strong=True),
    )
    card = replace(profile(total_bytes=32 * GIB), votes=votes)
    poor = pool(8 * GIB, 64 * GIB)
    assert device_pool(card, poor, ask((31 * GIB, 32 * GIB))).free == 8 * GIB
    assert device_pool(card, HOST, ask((31 * GIB, 32 * GIB))).free == 31 * GIB


@pytest.mark.parametrize(
    ("told", "free"),
    [
        pytest.param((1e32, 1e32), 24 * GIB, id="1e32"),
        pytest.param((1e32, 24 * GIB), 24 * GIB, id="1e32 of a real total"),
        pytest.param((120 * GIB, 24 * GIB), 24 * GIB, id="free above total"),
        pytest.param((-1, 24 * GIB), 0, id="negative"),
    ],
)
def test_absurd_figures_are_clamped_and_logged_once(
    told: tuple[float, float], free: int, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="comfy.loading"):
        found = device_pool(profile(), HOST, ask(told))
        device_pool(profile(), HOST, ask((2 * told[0], told[1])))
    assert found.free == free
    assert f"counting {free // MIB:,} MiB" in found.notes[0]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("total", [0, 1e32])
def test_absurd_total_does_not_hide_a_real_free_figure(total: float) -> None:
    assert device_pool(profile(), HOST, ask((20 * GIB, total))).free == 20 * GIB


@pytest.mark.parametrize(
    "error",
    [RuntimeError("device busy"), AssertionError("not compiled"), OSError(5, "I/O error")],
)
def test_driver_that_raises_leaves_a_note(error: Exception) -> None:
    found = device_pool(profile(), HOST, failing(error))
    assert found.free == 24 * GIB
    assert str(error) in found.notes[0]


def test_driver_without_numbers_counts_as_raising() -> None:
    found = device_pool(profile(), HOST, ask((float("nan"), float("inf"))))
    assert "ValueError" in found.notes[0]


def test_intel_igpu_whose_driver_raises_has_the_hosts_memory() -> None:
    igpu = profile("xpu", unified=True, total_bytes=64 * GIB)
    found = device_pool(igpu, HOST, failing(RuntimeError("not supported")))
    assert found.free == 50 * GIB
    assert "not supported" in found.notes[0]


def test_mac_is_limited_by_its_working_set() -> None:
    mac = profile("mps", total_bytes=48 * GIB)
    assert device_pool(mac, HOST, ask((40 * GIB, 48 * GIB)), reusable=none_held).free == 40 * GIB
    assert device_pool(mac, pool(8 * GIB), ask((40 * GIB, 48 * GIB)), reusable=none_held).free == (
        8 * GIB
    )


def test_unknown_backend_is_counted_as_the_host() -> None:
    found = device_pool(profile("directml"), HOST)
    assert (found.free, found.notes) == (
        50 * GIB,
        ("the device does not tell its memory; the host's is counted",),
    )


def test_container_limit_is_passed_on_to_unified_memory() -> None:
    limited = pool(6 * GIB, 8 * GIB, notes=("limited",), beyond=40 * GIB)
    found = device_pool(profile(unified=True, total_bytes=64 * GIB), limited, refuse)
    assert (found.total, found.free, found.beyond) == (8 * GIB, 6 * GIB, 40 * GIB)
    assert found.notes[0] == "limited"


def apu_tree(root: Path, gtt_used: int, anonymous: int) -> Path:
    card = "sys/class/drm/card0/device/mem_info_"
    return write_tree(
        root,
        {
            "proc/meminfo": meminfo(128 * GIB, 91 * GIB, AnonPages=anonymous),
            f"{card}vram_total": str(GIB // 2),
            f"{card}gtt_total": str(120 * GIB),
            f"{card}gtt_used": str(gtt_used),
        },
    )


@pytest.mark.parametrize(
    ("told", "gtt_used", "anonymous", "free"),
    [
        pytest.param(110, 0, 4, 110, id="HIP's figure, though MemAvailable is lower"),
        pytest.param(110, 40, 4, 80, id="the kernel says that much is mapped"),
        pytest.param(110, 0, 70, 58, id="processes hold the rest"),
    ],
)
def test_apu_can_have_more_than_memavailable(
    tmp_path: Path, told: int, gtt_used: int, anonymous: int, free: int
) -> None:
    apu = profile("hip", unified=True, total_bytes=128 * GIB)
    root = apu_tree(tmp_path, gtt_used * GIB, anonymous * GIB)
    host = host_pool(root=root)
    found = device_pool(apu, host, ask((told * GIB, 128 * GIB)), reusable=none_held, root=root)
    assert (host.free, found.free) == (91 * GIB, free * GIB)


def test_apu_in_a_container_has_no_more_than_the_container(tmp_path: Path) -> None:
    apu = profile("hip", unified=True, total_bytes=128 * GIB)
    limited = pool(6 * GIB, 8 * GIB, beyond=50 * GIB)
    told = ask((100 * GIB, 128 * GIB))
    found = device_pool(apu, limited, told, reusable=none_held, root=apu_tree(tmp_path, 0, 0))
    assert found.free == 6 * GIB


def test_apu_with_more_free_than_total_is_clamped(tmp_path: Path) -> None:
    apu = profile("hip", unified=True, total_bytes=62 * GIB)
    root = apu_tree(tmp_path, 0, 0)
    host = host_pool(root=root)
    found = device_pool(apu, host, ask((120 * GIB, 62 * GIB)), reusable=none_held, root=root)
    assert found.free == 62 * GIB


def test_apu_of_which_nothing_is_known_has_the_hosts_memory(tmp_path: Path) -> None:
    apu = profile("hip", unified=True, total_bytes=128 * GIB)
    broken = failing(RuntimeError("no"))
    assert device_pool(apu, HOST, broken, reusable=none_held, root=tmp_path).free == 50 * GIB


class DeviceModule:
    """Figures of an imaginary backend, as torch's own modules tell them."""

    initialized = True

    def mem_get_info(self, device: torch.device) -> tuple[int, int]:
        return 3 * GIB, 16 * GIB

    def is_initialized(self) -> bool:
        return self.initialized

    def memory_reserved(self, device: torch.device) -> int:
        return 5 * GIB

    def memory_allocated(self, device: torch.device) -> int:
        return 4 * GIB


@pytest.fixture
def module() -> Iterator[DeviceModule]:
    """The module of torch's device type "ve", of which no backend exists any more."""
    # Torch remembers the first module that it finds for a device, so there is only ever one.
    torch._register_device_module("ve", _MODULE)
    yield _MODULE
    _MODULE.initialized = True
    del torch.ve, sys.modules["torch.ve"]


_MODULE = DeviceModule()


@pytest.mark.parametrize(("initialized", "free"), [(True, 4), (False, 3)])
def test_torch_is_asked_where_nobody_else_tells(
    module: DeviceModule, initialized: bool, free: int
) -> None:
    module.initialized = initialized
    card = replace(profile("xpu", total_bytes=16 * GIB), device=torch.device("ve", 0))
    assert device_pool(card, HOST).free == free * GIB


def test_mac_is_asked_through_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 48 * GIB)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 10 * GIB)
    monkeypatch.setattr(torch.mps, "current_allocated_memory", lambda: 7 * GIB)
    assert device_pool(profile("mps", total_bytes=48 * GIB), HOST).free == (48 - 10 + 3) * GIB


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_torch_without_cuda_leaves_a_note() -> None:
    assert "did not tell" in device_pool(profile(), HOST).notes[0]


# -- reserve -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("total", "reserve"),
    [
        (16, 16 * GIB // 10),
        (31, 31 * GIB // 10),
        (32, 4 * GIB),
        (64, 4 * GIB),
        (128, int(6.4 * GIB)),
    ],
)
def test_unified_machine_keeps_a_reserve(total: int, reserve: int) -> None:
    machine = profile(unified=True, total_bytes=total * GIB)
    assert default_reserve(machine, pool(total * GIB)) == reserve


def test_container_on_a_roomy_machine_keeps_five_percent() -> None:
    machine = profile(unified=True, total_bytes=64 * GIB)
    limited = pool(2 * GIB, 2 * GIB, beyond=40 * GIB)
    assert default_reserve(machine, limited) == int(0.05 * 2 * GIB)


def test_container_on_a_full_machine_keeps_what_the_machine_lacks() -> None:
    machine = profile(unified=True, total_bytes=64 * GIB)
    limited = pool(18 * GIB, 20 * GIB, beyond=1 * GIB)
    assert default_reserve(machine, limited) == 3 * GIB


@pytest.mark.parametrize("backend", ["cpu", "cuda"])
def test_other_machines_keep_little(backend: str) -> None:
    assert default_reserve(profile(backend), pool(24 * GIB)) == 256 * MIB
    assert default_reserve(profile(backend), pool(GIB)) == int(0.05 * GIB)


def test_unified_need_adds_host_and_device() -> None:
    assert MemoryNeed(file=100, host=1, device=20, staging=300, cast=4000).unified_total() == 4321

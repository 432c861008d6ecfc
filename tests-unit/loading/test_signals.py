"""The real sources: this system, torch, and the driver's library where there is one."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading import signals
from comfy.loading.signals import AmdgpuMemory, HardwareSources, amdgpu_memory
from support.facts import write_tree


class Library:
    """A driver's library; each call returns its code, and the attribute is 100 + device."""

    def __init__(self, codes: tuple[int, int, int]) -> None:
        self._codes = codes

    def cuInit(self, flags: int) -> int:
        assert flags == 0
        return self._codes[0]

    def cuDeviceGet(self, handle: Any, index: int) -> int:
        handle._obj.value = 100 + index
        return self._codes[1]

    def cuDeviceGetAttribute(self, value: Any, attribute: int, handle: ctypes.c_int) -> int:
        assert attribute == signals.CUDA_USES_HOST_PAGE_TABLES
        value._obj.value = handle.value
        return self._codes[2]


def install(monkeypatch: pytest.MonkeyPatch, library: object) -> list[str]:
    """Make `library` the one that is found; returns the names under which it was looked for."""
    asked: list[str] = []

    def load(name: str) -> object:
        asked.append(name)
        return library

    monkeypatch.setattr(signals.ctypes, "CDLL", load)
    return asked


def test_attribute_is_read_of_the_device_with_that_index(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = install(monkeypatch, Library((0, 0, 0)))
    assert signals._ask_libcuda(signals.CUDA_USES_HOST_PAGE_TABLES, 2) == 102
    assert asked == ["nvcuda.dll" if os.name == "nt" else "libcuda.so.1"]


@pytest.mark.parametrize("codes", [(100, 0, 0), (0, 101, 0), (0, 0, 1)])
def test_driver_that_refuses_leaves_the_attribute_unknown(
    monkeypatch: pytest.MonkeyPatch, codes: tuple[int, int, int]
) -> None:
    install(monkeypatch, Library(codes))
    assert signals._ask_libcuda(signals.CUDA_USES_HOST_PAGE_TABLES, 0) is None


def test_library_of_another_age_leaves_the_attribute_unknown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(monkeypatch, object())
    assert signals._ask_libcuda(signals.CUDA_USES_HOST_PAGE_TABLES, 0) is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a driver")
def test_missing_library_leaves_the_attribute_unknown() -> None:
    assert signals._ask_libcuda(signals.CUDA_USES_HOST_PAGE_TABLES, 0) is None


@pytest.mark.skipif(sys.platform != "linux", reason="names a Linux kernel")
@pytest.mark.parametrize(
    ("release", "platform"),
    [("6.8.0-45-generic", "linux"), ("5.15.153.1-microsoft-standard-WSL2", "wsl")],
)
def test_wsl_is_told_from_linux(
    monkeypatch: pytest.MonkeyPatch, release: str, platform: str
) -> None:
    monkeypatch.setattr(signals.platform, "release", lambda: release)
    assert HardwareSources().platform() == platform


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no affinity")
def test_cpus_are_those_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    assert HardwareSources().cpu_count() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(signals.os, "sched_getaffinity", lambda pid: {1, 3, 5})
    assert HardwareSources().cpu_count() == 3


def test_system_without_affinity_counts_its_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signals.os, "sched_getaffinity", raising=False)
    assert HardwareSources().cpu_count() == os.cpu_count()


@pytest.mark.parametrize(("version", "is_hip"), [(None, False), ("7.1", True)])
def test_hip_is_told_by_torch(
    monkeypatch: pytest.MonkeyPatch, version: str | None, is_hip: bool
) -> None:
    monkeypatch.setattr(torch.version, "hip", version)
    assert HardwareSources().is_hip() is is_hip


def test_directml_is_told_by_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not HardwareSources().is_directml()
    monkeypatch.setitem(sys.modules, "torch_directml", object())  # type: ignore[arg-type]
    assert HardwareSources().is_directml()


def test_amd_counters_are_read_from_the_systems_tree(tmp_path: Path) -> None:
    card = "sys/class/drm/card1/device/mem_info_"
    other = "sys/class/drm/card0/device/vendor"
    names = {"vram_total": "512\n", "gtt_total": "4096\n", "gtt_used": "128\n"}
    tree = {**{card + name: text for name, text in names.items()}, other: "0x1002\n"}
    assert amdgpu_memory(write_tree(tmp_path, tree)) == (AmdgpuMemory(512, 4096, 128),)
    assert amdgpu_memory(tmp_path / "nowhere") == ()


def test_this_machine_can_be_asked() -> None:
    sources = HardwareSources()
    assert sources.host_total_bytes() > 0
    assert sources.page_bytes() >= 4096
    assert isinstance(sources.amdgpu(), tuple)

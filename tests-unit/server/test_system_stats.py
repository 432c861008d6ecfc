"""GET /system_stats: ComfyUI's shape to the letter, and what we say besides."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import comfy.model_management
from app import package_versions
from comfyui_version import __version__
from support.running_server import Served
from support.simulated_device import SimulatedDevice

SYSTEM = {
    "os": str,
    "ram_total": int,
    "ram_free": int,
    "comfyui_version": str,
    "required_frontend_version": (str, type(None)),
    "installed_templates_version": (str, type(None)),
    "required_templates_version": (str, type(None)),
    "python_version": str,
    "pytorch_version": str,
    "embedded_python": bool,
    "argv": list,
    "comfy_package_versions": list,
}
DEVICE = {
    "name": str,
    "type": str,
    "index": (int, type(None)),
    "vram_total": int,
    "vram_free": int,
    "torch_vram_total": int,
    "torch_vram_free": int,
}


@pytest.fixture
def on_simgpu(simgpu: SimulatedDevice) -> Iterator[SimulatedDevice]:
    comfy.model_management.set_run_device(simgpu.device)
    yield simgpu
    comfy.model_management.set_run_device(None)


def stats(idle: Served) -> dict[str, Any]:
    answer = idle.get("/system_stats")
    assert answer.status == 200
    found: dict[str, Any] = answer.json()
    return found


def assert_shape(found: dict[str, Any], shape: dict[str, Any]) -> None:
    assert found.keys() == shape.keys()
    wrong = {key: found[key] for key, kind in shape.items() if not isinstance(found[key], kind)}
    assert wrong == {}


def test_it_has_comfyuis_shape(idle: Served) -> None:
    found = stats(idle)
    assert list(found) == ["system", "devices", "onecopy"]
    assert_shape(found["system"], SYSTEM)
    assert len(found["devices"]) == 1
    assert_shape(found["devices"][0], DEVICE)


def test_the_system_is_this_one(idle: Served) -> None:
    found = stats(idle)["system"]
    assert found["os"] == sys.platform
    assert found["python_version"].startswith(platform.python_version())
    assert found["pytorch_version"] == torch.__version__
    assert found["comfyui_version"] == __version__
    assert 0 < found["ram_free"] <= found["ram_total"] <= psutil.virtual_memory().total


def test_flags_are_told_as_they_were_given(idle: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["main.py", "--disable-api-nodes", "--port", "8189"]
    monkeypatch.setattr(sys, "argv", argv)
    assert stats(idle)["system"]["argv"] == argv


@pytest.mark.parametrize(
    ("executable", "is_embedded"),
    [("/portable/python_embeded/python.exe", True), ("/usr/bin/python3", False)],
)
def test_the_portable_python_is_known_by_its_folder(
    idle: Served, monkeypatch: pytest.MonkeyPatch, executable: str, is_embedded: bool
) -> None:
    monkeypatch.setattr(sys, "executable", executable)
    assert stats(idle)["system"]["embedded_python"] is is_embedded


def test_the_cpu_is_a_device_without_an_index(idle: Served) -> None:
    comfy.model_management.set_run_device("cpu")
    try:
        (device,) = stats(idle)["devices"]
    finally:
        comfy.model_management.set_run_device(None)
    assert (device["type"], device["index"]) == ("cpu", None)
    assert 0 < device["vram_free"] <= device["vram_total"]


def test_an_accelerator_is_told_with_its_memory(idle: Served, on_simgpu: SimulatedDevice) -> None:
    (device,) = stats(idle)["devices"]
    assert (device["type"], device["index"]) == ("simgpu", 0)
    assert 0 < device["vram_free"] <= device["vram_total"]


def test_ours_stands_under_a_key_of_its_own(idle: Served) -> None:
    ours = stats(idle)["onecopy"]
    assert list(ours) == ["strategy", "pools", "files"]
    assert ours["strategy"]["requested"] == "auto"
    assert ours["strategy"]["why"]
    assert ours["pools"][0]["pool"] == "host"


# -- versions --------------------------------------------------------------------------------------


def test_pins_are_read_from_the_requirements(tmp_path: Path) -> None:
    path = tmp_path / "requirements.txt"
    path.write_text(
        "# The page.\nComfyUI_frontend.package==1.58.1 # pinned\ntorch>=2.8\nav==14; sys_platform\n"
    )
    found = package_versions.required_versions(str(path))
    assert found == {"comfyui-frontend-package": "1.58.1", "av": "14"}


def test_without_requirements_nothing_is_required(tmp_path: Path) -> None:
    assert package_versions.required_versions(str(tmp_path / "none.txt")) == {}


def test_installed_versions_are_what_pip_sees() -> None:
    assert package_versions.installed_version("psutil") == psutil.__version__
    assert package_versions.installed_version("no-such-package-here") is None


def test_the_page_is_told_of_its_packages(idle: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = {"comfyui-frontend-package": "1.2.3", "comfyui-workflow-templates": "0.9"}
    monkeypatch.setattr(package_versions, "required_versions", lambda: pins)
    monkeypatch.setattr(package_versions, "installed_version", lambda name: f"{name} 7")
    found = stats(idle)["system"]
    assert found["required_frontend_version"] == "1.2.3"
    assert found["required_templates_version"] == "0.9"
    assert found["installed_templates_version"] == "comfyui-workflow-templates 7"
    assert found["comfy_package_versions"][0] == {
        "name": "comfyui-frontend-package",
        "installed": "comfyui-frontend-package 7",
        "required": "1.2.3",
    }

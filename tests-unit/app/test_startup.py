"""What comes before torch: environment, folders, the log, the temporary folder."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import comfy.cli_args
import folder_paths
from app import startup
from app.logger import WatchedStream, setup_logger

ROOT = Path(__file__).resolve().parents[2]


def flags(**given: Any) -> SimpleNamespace:
    return SimpleNamespace(**{**vars(comfy.cli_args.args), **given})


VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ASCEND_RT_VISIBLE_DEVICES")


@pytest.mark.parametrize(
    ("given", "variables"),
    [
        ({}, {}),
        ({"cuda_device": "0,2"}, dict.fromkeys(VISIBLE, "0,2")),
        ({"cuda_device": "0,2", "default_device": 2}, dict.fromkeys(VISIBLE, "2,0")),
        ({"oneapi_device_selector": "gpu"}, {"ONEAPI_DEVICE_SELECTOR": "gpu"}),
        ({"deterministic": True}, {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}),
        ({"cuda_malloc": True}, {"PYTORCH_CUDA_ALLOC_CONF": "backend:cudaMallocAsync"}),
    ],
)
def test_flags_set_what_drivers_read(given: dict[str, Any], variables: dict[str, str]) -> None:
    environ: dict[str, str] = {}
    startup.set_environment(flags(**given), environ)
    assert environ == variables


def test_the_default_device_is_number_0_and_the_others_stay_visible() -> None:
    environ: dict[str, str] = {}
    startup.set_environment(flags(default_device=2), environ)
    assert environ.keys() == set(VISIBLE)
    for numbers in environ.values():
        assert numbers.startswith("2,0,1,3,")
        assert sorted(map(int, numbers.split(","))) == list(range(32))


def test_an_order_of_devices_that_somebody_has_set_stays() -> None:
    environ = {"CUDA_VISIBLE_DEVICES": "3,2"}
    startup.set_environment(flags(default_device=1), environ)
    assert environ == {"CUDA_VISIBLE_DEVICES": "3,2"}


@pytest.mark.parametrize(
    ("name", "package"),
    [("use_sage_attention", "sageattention"), ("use_flash_attention", "flash_attn")],
)
def test_a_kernel_that_is_not_installed_ends_the_start(
    name: str,
    package: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as stop:
        startup.prepare(comfy.cli_args.parser, flags(run="a.json", **{name: True}))
    assert stop.value.code == startup.BAD_START
    said = capsys.readouterr().err
    assert f"--{name.replace('_', '-')}" in said
    assert f"'{package}'" in said
    (tmp_path / f"{package}.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    startup.refuse_missing_kernels(flags(**{name: True}))


def test_other_settings_of_the_allocator_are_kept() -> None:
    environ = {"PYTORCH_CUDA_ALLOC_CONF": "backend:native,max_split_size_mb:64"}
    startup.set_environment(flags(cuda_malloc=True), environ)
    assert environ["PYTORCH_CUDA_ALLOC_CONF"] == "max_split_size_mb:64,backend:cudaMallocAsync"


@pytest.fixture
def folders(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The folders as they are, given back after the test."""
    for name in ("output_directory", "temp_directory", "input_directory", "user_directory"):
        monkeypatch.setattr(folder_paths, name, getattr(folder_paths, name))
    known = {key: (list(paths), kinds) for key, (paths, kinds) in _known().items()}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", known)
    yield


def _known() -> dict[str, tuple[list[str], Any]]:
    return folder_paths.folder_names_and_paths


def test_folders_of_flags_are_taken_and_saved_models_can_be_chosen(
    folders: None, tmp_path: Path
) -> None:
    names = ("output", "input", "user", "temp")
    startup.set_folders(flags(**{f"{name}_directory": str(tmp_path / name) for name in names}))
    assert folder_paths.get_output_directory() == str(tmp_path / "output")
    assert folder_paths.get_input_directory() == str(tmp_path / "input")
    assert (tmp_path / "input").is_dir()
    assert folder_paths.get_user_directory() == str(tmp_path / "user")
    assert folder_paths.get_temp_directory() == str(tmp_path / "temp" / "temp")
    for key, name in (
        ("checkpoints", "checkpoints"),
        ("text_encoders", "clip"),
        ("loras", "loras"),
    ):
        assert folder_paths.get_folder_paths(key)[-1] == str(tmp_path / "output" / name)


def test_files_of_folders_are_read(folders: None, tmp_path: Path) -> None:
    config = tmp_path / "more.yaml"
    config.write_text("mine:\n  loras: my_loras\n")
    startup.set_folders(flags(extra_model_paths_config=[[str(config)]]))
    assert str(tmp_path / "my_loras") in folder_paths.get_folder_paths("loras")


def test_a_file_of_folders_that_cannot_be_read_ends_the_start(
    folders: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        startup.prepare(
            comfy.cli_args.parser, flags(extra_model_paths_config=[[str(tmp_path / "no.yaml")]])
        )
    assert stop.value.code == startup.BAD_START
    assert "no.yaml" in capsys.readouterr().err


def test_the_temporary_folder_is_emptied_and_made(folders: None, tmp_path: Path) -> None:
    folder_paths.set_temp_directory(str(tmp_path / "temp"))
    startup.make_temp()
    (tmp_path / "temp" / "old.png").touch()
    startup.make_temp()
    assert list((tmp_path / "temp").iterdir()) == []
    startup.empty_temp()
    assert not (tmp_path / "temp").exists()
    startup.empty_temp()


@pytest.mark.parametrize(("to_stdout", "stream"), [(False, "err"), (True, "out")])
def test_the_log_follows_the_stream_that_is_there_at_that_moment(
    to_stdout: bool, stream: str, capsys: pytest.CaptureFixture[str]
) -> None:
    setup_logger("INFO", to_stdout, keep_writes=False)
    logging.getLogger("somebody").info("one %s", "line")
    logging.getLogger("somebody").debug("silent")
    assert getattr(capsys.readouterr(), stream) == "one line\n"
    assert not isinstance(getattr(sys, f"std{stream}"), WatchedStream)


def test_the_start_imports_no_torch() -> None:
    program = (
        "import sys; from app import startup; from app.headless import workflow_file;"
        "from comfy import prestart; assert 'torch' not in sys.modules, 'torch'"
    )
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, env=dict(os.environ))

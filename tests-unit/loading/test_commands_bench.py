"""``python -m comfy.loading bench``, on small files: that it measures, not how fast anything is."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.__main__ import main
from support.command_line import SIMULATED, finish, start
from support.files import make_file_set, write_checkpoint, write_large

MIB = 1024 * 1024
QUICK = ("--rounds", "1", "--rest", "0")


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Any]:
    """One whole run: what it printed, its progress, and its JSON."""
    folder = tmp_path_factory.mktemp("bench")
    path = write_large(folder / "model.safetensors", 8 * MIB, largest_bytes=4 * MIB)
    command = ("bench", path, *QUICK, "--json", folder / "out.json", "--cold")
    code, out, err = finish(start(*command, "--strategies=readinto"))
    assert code == 0, err
    return out, err, json.loads((folder / "out.json").read_text())


def test_table_has_every_loader_and_what_the_machine_allows(measured: tuple[str, str, Any]) -> None:
    out, _, _ = measured
    lines = [line.strip() for line in out.splitlines()]
    names = ("readinto", "safetensors mmap", "safetensors mmap, then copy", "safetensors pread")
    for name in (*names, "disk, 1 thread", "disk, 4 threads", "memory"):
        assert any(line.startswith(f"{name}  ") for line in lines), name
    for column in ("seconds", "of disk", "of memory", "peak / W", "cache left", "bound by"):
        assert column in out


def test_what_is_dropped_is_said_before(measured: tuple[str, str, Any]) -> None:
    out, _, report = measured
    announced = out.split("\n\n")[0]
    assert "dropped from the page cache" in announced
    assert report["runs"][0]["path"] in announced


def test_progress_has_one_line_for_each_run(measured: tuple[str, str, Any]) -> None:
    _, err, report = measured
    assert len(err.splitlines()) == len(report["runs"]) == 7
    assert err.splitlines()[-1].startswith("[7/7]")


def test_json_holds_every_run_with_its_verified_state(measured: tuple[str, str, Any]) -> None:
    _, _, report = measured
    for one in report["runs"]:
        assert one["state"] == "cold"
        assert one["cached_before"] < 0.01
        assert one["problem"] == ""
        assert one["result"]["seconds"] > 0
    assert report["machine"]["cpu_count"] >= 1
    assert report["version"] == 1


def score_of(report: Any, name: str) -> Any:
    (found,) = [one for one in report["scores"] if one["contestant"] == name]
    return found


def test_memory_sees_the_copy_beside_the_mapping(measured: tuple[str, str, Any]) -> None:
    _, _, report = measured
    once, twice = (
        score_of(report, name)["peak_bytes"] / (8 * MIB)
        for name in ("safetensors mmap", "safetensors mmap, then copy")
    )
    assert 0.9 < once < 1.6
    assert 1.9 < twice < 2.6


def test_bytes_from_the_disk_are_those_of_the_file(measured: tuple[str, str, Any]) -> None:
    _, _, report = measured
    for name in ("readinto", "safetensors mmap", "safetensors pread", "disk, 1 thread"):
        assert 8 * MIB <= score_of(report, name)["disk_bytes"] < 10 * MIB, name


def test_all_loaded_the_same_bytes(measured: tuple[str, str, Any]) -> None:
    _, _, report = measured
    compared = [one["same_bytes"] for one in report["scores"] if one["same_bytes"] is not None]
    assert compared == [True] * 4


def test_simulated_device_and_json_on_standard_output(tmp_path: Path) -> None:
    path = write_large(tmp_path / "model.safetensors", 4 * MIB, largest_bytes=MIB)
    arguments = ("--strategies=file-slice", "--no-stock", "--cold", "--json", "-", *SIMULATED)
    code, out, err = finish(start("bench", path, *QUICK, *arguments))
    assert code == 0, err
    report = json.loads(out)
    found = score_of(report, "file-slice")
    assert found["device"] == "simgpu:0"
    assert found["cached_left"] < 0.01
    assert found["of_memory"] > 0
    assert report["machine"]["unified"] is True
    assert "of disk" in err


def test_ctrl_c_ends_with_130_and_the_runs_so_far(tmp_path: Path) -> None:
    path = write_large(tmp_path / "model.safetensors", MIB, largest_bytes=MIB)
    process = start("bench", path, "--rest", "0", "--strategies=readinto", "--no-stock")
    assert process.stderr is not None
    first = process.stderr.readline()
    assert first.startswith("[1/")
    process.send_signal(signal.SIGINT)
    code, out, err = finish(process)
    assert code == 130
    assert "Stopped after" in out
    assert "Traceback" not in err
    assert "Traceback" not in out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["none.safetensors"], 2, "none.safetensors"),
        (["broken.safetensors"], 1, "HeaderTooSmall"),
        (["model.safetensors", "--strategies=magic"], 1, "magic"),
        (["model.safetensors", "--strategies=mmap", "--disable-mmap"], 2, "forbids"),
        (["model.safetensors", "--device=xpu:9"], 2, "--device=xpu:9"),
    ],
)
def test_what_cannot_be_measured_is_told_at_once(
    arguments: list[str],
    code: int,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_large(tmp_path / "model.safetensors", MIB, largest_bytes=MIB)
    (tmp_path / "broken.safetensors").write_bytes(b"1234")
    monkeypatch.chdir(tmp_path)
    assert main(["bench", *arguments]) == code
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--cold", "--warm"]])
def test_contradictory_arguments_are_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["bench", "model.safetensors", *arguments])
    assert end.value.code == 2
    assert capsys.readouterr().err


def test_files_in_memory_cannot_be_cold(capsys: pytest.CaptureFixture[str]) -> None:
    folder = Path("/dev/shm")
    if not os.access(folder, os.W_OK):
        pytest.skip("needs a filesystem in memory")
    path = write_large(folder / f"bench-{os.getpid()}.safetensors", MIB, largest_bytes=MIB)
    try:
        assert main(["bench", str(path), "--cold"]) == 2
    finally:
        path.unlink()
    assert "lies in memory itself" in capsys.readouterr().err


def test_warm_pickles_and_shards_are_measured_without_stock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pickled = write_checkpoint(tmp_path / "model.pt", {"w": torch.ones(MIB)})
    sharded = make_file_set("B", tmp_path / "shards", factor=1 / 4096)
    files = (str(pickled), str(sharded.path))
    json_file = tmp_path / "out.json"
    options = ("--warm", "--strategies=readinto", "--json", str(json_file))
    assert main(["bench", *files, *QUICK, *options]) == 0
    out = capsys.readouterr().out
    assert "model.pt, 4.00 MiB, warm" in out
    assert "model.safetensors.index.json" in out
    assert "dropped from the page cache" not in out
    for one in json.loads(json_file.read_text())["runs"]:
        assert one["contestant"] in ("readinto", "memory")
        assert one["cached_before"] > 0.99
        # One block of each file is read to find out whether the disk allows reads around the cache.
        assert one["result"]["disk_bytes"] <= 4 * 4096

"""``python -m comfy.loading doctor``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.__main__ import main
from support.command_line import SIMULATED, run_all
from support.files import evict, write_large, write_safetensors
from support.simulated_device import SimulatedDevice

MIB = 1024 * 1024


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run in this process: exit code and what was printed."""
    code = main(["doctor", *map(str, arguments)])
    return code, capsys.readouterr().out


def told_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    return json.loads(told(capsys, *arguments, "--json")[1])


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = write_large(tmp_path / "model.safetensors", 70 * MIB, largest_bytes=16 * MIB)
    evict(path)
    return path


def test_as_a_user_runs_it(model: Path) -> None:
    nothing, unified = run_all(
        [
            ("doctor", "--device", "cpu", model.parent),
            ("doctor", model, *SIMULATED),
        ]
    )
    assert (nothing[0], nothing[2]) == (0, "")
    for part in (
        "page cache",
        "recommended flags",
        "python main.py",
        "row 4",
        "larger than memory",
    ):
        assert part in nothing[1]
    assert (unified[0], unified[2]) == (0, "")
    for part in ("file-slice (row 7", "yes: one copy for both", "64.00 MiB of staging"):
        assert part in unified[1]


def test_flags_that_contradict_each_other_are_wrong_usage(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["doctor", "--load-strategy=mmap", "--disable-mmap"]) == 2
    assert "contradict each other" in capsys.readouterr().err


def test_device_that_is_not_there_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--device", "xpu:7"]) == 2
    assert "--device=xpu:7 cannot be used" in capsys.readouterr().err


def test_every_row_is_judged_and_one_is_taken(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, text = told(capsys, model, "--device", "cpu")
    assert code == 0
    lines = text.split("rows of the decision table")[1].splitlines()
    marks = {line.split()[0]: line.split()[1] for line in lines if line.strip()[:1].isdigit()}
    assert list(marks) == [str(number) for number in range(1, 18)]
    assert [row for row, mark in marks.items() if mark == "TAKEN"] == ["4"]
    assert marks["7"] == "no"


def test_named_strategy_leaves_no_row_taken(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, text = told(capsys, model, "--device", "cpu", "--load-strategy", "file-slice")
    assert "TAKEN" not in text
    assert "Leave --load-strategy=file-slice away." in text


def test_json_tells_what_the_text_tells(
    model: Path, simgpu: SimulatedDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    report = told_json(capsys, model, "--device", "simgpu:0")
    assert report["hardware"]["unified"] is True
    assert report["hardware"]["votes"][0]["says"] == "unified"
    assert report["decision"]["plan"]["strategy"] == "file-slice"
    assert report["decision"]["plan"]["row"] == 7
    assert report["decision"]["refused"] is None
    assert report["storage"]["resident_fraction"] < 0.01
    assert [row["row"] for row in report["rows"]] == list(range(1, 18))
    assert report["strategies"]["file-slice"] is None
    assert report["recommended_flags"] == []
    assert "one memory" in report["why_no_flags"]
    assert report["memory"]["device"]["free"] > 0
    assert set(report["page_cache"]) == {
        "counts",
        "drops",
        "direct_block_bytes",
        "uncached_reads",
    }


def test_cached_file_takes_another_row(
    model: Path, simgpu: SimulatedDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    model.read_bytes()
    report = told_json(capsys, model, "--device", "simgpu:0")
    assert report["decision"]["plan"]["row"] == 6
    assert report["storage"]["resident_fraction"] > 0.9


def test_discrete_card_is_told_apart(
    model: Path, simgpu: SimulatedDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    simgpu.is_unified = False
    _, text = told(capsys, model, "--device", "simgpu:0")
    assert "no: two memories" in text
    assert "its own (discrete)" in text


def test_file_that_does_not_fit_ends_with_1_and_with_advice(
    model: Path, simgpu: SimulatedDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    simgpu.capacity_bytes = 40 * MIB
    code, text = told(capsys, model, "--device", "simgpu:0")
    assert code == 1
    assert "refused" in text
    assert "No flag makes 70.00 MiB of weights fit" in text
    report = told_json(capsys, model, "--device", "simgpu:0")
    assert report["decision"]["plan"] is None
    assert report["decision"]["refused"]["error"] == "NotEnoughMemory"


def test_flags_of_the_user_change_the_answer(
    model: Path, simgpu: SimulatedDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ("--unified-memory=off", "--load-threads=3", "--load-cache=keep")
    report = told_json(capsys, model, "--device", "simgpu:0", *given)
    assert report["hardware"]["unified"] is False
    assert report["detected_unified"] is True
    assert report["decision"]["plan"]["threads"] == 3
    assert report["decision"]["plan"]["cache"] == "keep"
    assert ["--unified-memory=off"] in [one["flags"] for one in report["advice"]]


def test_environment_counts_as_flags(
    model: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COMFY_LOAD_THREADS", "5")
    report = told_json(capsys, model, "--device", "cpu")
    assert report["decision"]["plan"]["threads"] == 5


def test_imagined_files_leave_nothing_behind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = told_json(capsys, tmp_path, "--device", "cpu")
    assert report["path"] is None
    assert report["place"] == str(tmp_path)
    assert len(report["examples"]) == 4
    taken = [one["plan"] and one["plan"]["row"] for one in report["examples"]]
    assert taken[:3] == [4, 1, 3]
    assert list(tmp_path.iterdir()) == []


def test_models_folder_is_looked_at_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told_json(capsys, "--device", "cpu")["place"] == str(tmp_path)
    (tmp_path / "models").mkdir()
    assert told_json(capsys, "--device", "cpu")["place"] == str(tmp_path / "models")


def test_folder_that_cannot_be_written_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    if not os.path.isdir("/proc/self"):
        pytest.skip("needs a folder that nobody can write to")
    report = told_json(capsys, "/proc/self", "--device", "cpu")
    assert "cannot be written" in report["place_note"]
    assert report["place"] != "/proc/self"


@pytest.mark.parametrize(("name", "code"), [("none.safetensors", 2), ("broken.safetensors", 1)])
def test_file_that_cannot_be_examined(
    name: str, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_safetensors(tmp_path / "broken.safetensors", {"a": torch.ones(4)})
    os.truncate(tmp_path / "broken.safetensors", 20)
    assert main(["doctor", str(tmp_path / name), "--device", "cpu"]) == code
    assert name in capsys.readouterr().err


@pytest.mark.parametrize("target", ["no_such_module:f", "os:no_such_function", "os"])
def test_setup_that_cannot_be_called_is_told(
    target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor", "--setup", target]) == 2
    assert f"--setup={target}" in capsys.readouterr().err


def test_lowvram_asks_about_streaming(
    model: Path, simgpu: SimulatedDevice, capsys: pytest.CaptureFixture[str]
) -> None:
    simgpu.is_unified = False
    report = told_json(capsys, model, "--device", "simgpu:0", "--lowvram")
    reasons = {one["row"]: one["reasons"] for one in report["rows"]}
    assert any("streamed" in word for word in reasons[13] + reasons[12])

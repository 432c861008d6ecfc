"""``make demo-loading`` on a small checkpoint."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from support.command_line import ROOT

DEMO = ROOT / "tools" / "loading_demo.py"


def test_demo_prints_a_row_for_each_strategy_and_device(tmp_path: Path) -> None:
    command = [sys.executable, str(DEMO), "--size-mib", "64", "--folder", str(tmp_path)]
    command.append("--strategies=file-slice")
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = [
        line.split("  ") for line in done.stdout.splitlines() if " GiB" in line or " MiB" in line
    ]
    table = [[cell.strip() for cell in row if cell.strip()] for row in rows if len(row) > 6]
    assert [row[0] for row in table] == ["file-slice", "safetensors mmap, then copy"] * 2
    assert [row[1] for row in table] == ["CPU"] * 2 + ["simulated"] * 2
    peaks = {(row[0], row[1]): float(row[5]) for row in table}
    assert peaks["safetensors mmap, then copy", "CPU"] > 1.8
    assert peaks["file-slice", "CPU"] < 1.4


def test_demo_tells_that_there_is_no_space(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    demo = runpy.run_path(str(DEMO))
    assert demo["main"](["--size-mib", str(1 << 40), "--folder", str(tmp_path)]) == 1
    assert "GiB free" in capsys.readouterr().out

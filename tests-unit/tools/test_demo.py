"""``make demo`` as a user runs it: six pictures, what is in them, and what memory they took."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def test_demo_draws_six_pictures_and_tells_what_is_seen_and_the_memory(tmp_path: Path) -> None:
    words = ["--load-strategy=file-slice", f"--output-directory={tmp_path}"]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY_")}
    ended = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    )
    assert ended.returncode == 0, ended.stderr
    pictures = sorted((tmp_path / "demo").iterdir())
    assert len(pictures) == 6
    assert all(str(path) in ended.stdout for path in pictures)
    for seen in ("red circle on white", "blue star on black", "purple cross on white"):
        assert seen in ended.stdout
    lines = ended.stdout.splitlines()
    assert any("strategy" in line and "file-slice" in line for line in lines)
    assert any("weights at home on the device" in line and "MiB" in line for line in lines)

"""Tests that a process which is killed while it writes leaves whole files."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

WRITER = """
import sys
from app.json_files import write_json
number = 0
while True:
    number += 1
    write_json(sys.argv[1], {"number": number, "filler": str(number) * 200_000})
"""


@pytest.mark.parametrize("delay_s", [0.05, 0.12, 0.31])
def test_a_killed_write_leaves_the_file_before_or_after_it(tmp_path: Path, delay_s: float) -> None:
    path = tmp_path / "comfy.settings.json"
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path)], cwd=ROOT, env={**os.environ, "PYTHONPATH": "."}
    )
    try:
        end = time.monotonic() + 30
        while not path.exists() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(delay_s)
    finally:
        writer.kill()
        writer.wait()
    value = json.loads(path.read_text())
    assert value["filler"] == str(value["number"]) * 200_000
    others = [name for name in os.listdir(tmp_path) if name != path.name]
    assert all(name.startswith(".comfy.settings.json.") for name in others)

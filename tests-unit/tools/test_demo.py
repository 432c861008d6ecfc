"""``make demo`` as a user runs it: a server, six pictures, what is in them, what memory they took."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tools.demo_server import NotServing, serving

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def demo(*words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COMFY_")}
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / "demo.py"), *words],
        capture_output=True,
        text=True,
        check=False,
        env={**kept, "COLUMNS": "200", "OMP_NUM_THREADS": "1"},
    )


def servers(word: str) -> list[int]:
    """Processes that have a word in their command line."""
    found = psutil.process_iter(["cmdline"])
    return [one.pid for one in found if any(word in part for part in one.info["cmdline"] or ())]


def test_demo_draws_six_pictures_and_tells_what_is_seen_and_the_memory(tmp_path: Path) -> None:
    ended = demo("--cpu", "--load-strategy=file-slice", f"--output-directory={tmp_path}")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    pictures = sorted((tmp_path / "demo").iterdir())
    assert len(pictures) == 6
    assert all(str(path) in ended.stdout for path in pictures)
    for seen in ("red circle on white", "blue star on black", "purple cross on white"):
        assert seen in ended.stdout
    lines = ended.stdout.splitlines()
    for words in (("strategy", "file-slice"), ("weights on the host", "MiB"), ("peak", "MiB")):
        assert any(all(word in line for word in words) for line in lines), words
    assert "make run" in lines[-1]


def test_without_the_checkpoint_it_says_what_the_server_says_and_stops_it(tmp_path: Path) -> None:
    ended = demo("--cpu", f"--base-directory={tmp_path}", f"--output-directory={tmp_path}")
    assert ended.returncode == 1
    assert "The server refused the prompt" in ended.stdout
    assert "CheckpointLoaderSimple 1: " in ended.stdout
    assert "Traceback" not in ended.stderr
    assert servers(str(tmp_path)) == []


def test_a_server_that_does_not_start_is_told_with_the_end_of_its_log() -> None:
    told = r"ended with status \d+:\n[^$]*--no-such-flag"
    with pytest.raises(NotServing, match=told), serving(["--no-such-flag"]):
        pass
    assert servers("--no-such-flag") == []

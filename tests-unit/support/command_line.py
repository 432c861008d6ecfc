"""Runs ``python -m comfy.loading`` as a user does: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from support.environments import without_settings

ROOT = Path(__file__).resolve().parent.parent.parent
SIMULATED = ("--setup", "support.simulated_device:install", "--device", "simgpu:0")


def start(
    *arguments: str | Path, module: str = "comfy.loading", cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start a command; several may run at once."""
    paths = [str(ROOT), str(ROOT / "tests-unit")]
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=cwd,
        env={**without_settings(), "PYTHONPATH": os.pathsep.join(paths)},
    )


def finish(process: subprocess.Popen[str], timeout_s: float = 120.0) -> tuple[int, str, str]:
    """Wait for a command.

    Returns:
        Exit code, what it printed, and what it complained about.
    """
    out, err = process.communicate(timeout=timeout_s)
    return process.returncode, out, err


def run_all(calls: Sequence[Sequence[str | Path]]) -> list[tuple[int, str, str]]:
    """Run several commands at once."""
    started = [start(*call) for call in calls]
    return [finish(process) for process in started]

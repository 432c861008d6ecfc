"""Starts `stand_in_run` in a process of its own, and gives what it saw."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from support.environments import environment

TESTS = Path(__file__).resolve().parents[1]


def run_stand_in(
    tree: Path,
    request: Mapping[str, Any],
    flags: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
    device: str = "simgpu:0",
) -> dict[str, Any]:
    """Load a model in a stand-in tree, move it there and back, and measure.

    Args:
        tree: A stand-in for ComfyUI.
        request: See `stand_in_run`.
        flags: Its command line.
        variables: More of its environment.
        device: Where the model goes.

    Returns:
        What `stand_in_run` printed.
    """
    done = subprocess.run(
        [sys.executable, str(TESTS / "support" / "stand_in_run.py"), *flags],
        capture_output=True,
        text=True,
        check=False,
        env=environment(
            # The simulated device needs comfy.loading: a bare tree borrows this project's.
            PYTHONPATH=os.pathsep.join(map(str, (tree, TESTS, TESTS.parent))),
            STAND_IN_DEVICE=device,
            STAND_IN_REQUEST=json.dumps(request),
            # Weights that are freed go back to the system, and are not kept for the next ones.
            MALLOC_MMAP_THRESHOLD_="65536",
            **(variables or {}),
        ),
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen

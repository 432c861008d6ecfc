"""Importing is free: no device, no file, no log line, no thread, and flags without torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
LOADING = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in (ROOT / "comfy" / "loading").rglob("*.py")
)
# What these do when they are imported is not ours.
FOREIGN = "torch,numpy,psutil,safetensors.torch,tqdm,PIL.Image"
MAX_COST_S = 0.2
TRIES = 5


def _import(preloaded: str, *names: str, path: Path = ROOT) -> dict[str, Any]:
    roots = (path, ROOT, ROOT / "tests-unit")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "support.import_effects", preloaded, *names],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, roots))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return dict(json.loads(done.stdout))


def test_utils_adds_little_to_the_import_of_torch() -> None:
    seconds = []
    # The best of several: a busy machine makes imports slower, nothing makes them faster.
    while len(seconds) < TRIES and min(seconds, default=1.0) > MAX_COST_S:
        seconds.append(_import("torch", "comfy.utils")["seconds"])
    assert min(seconds) <= MAX_COST_S


@pytest.mark.parametrize(
    "name",
    [
        "comfy.options",
        "comfy.cli_args",
        "comfy.loading",
        "comfy.loading.options",
        "comfy.loading.errors",
        "folder_paths",
        "comfy.prestart",
        "utils.extra_config",
        "app.logger",
    ],
)
def test_flags_and_errors_need_no_torch(name: str) -> None:
    assert not _import("", name)["has_torch"]


def test_torch_would_be_noticed() -> None:
    assert _import("", "torch")["has_torch"]


def test_importing_everything_has_no_effect() -> None:
    names = [name for name in LOADING if not name.endswith("__main__")]
    assert len(names) > 20
    assert _import(FOREIGN, *names, "comfy.cli_args", "comfy.utils")["effects"] == {}


@pytest.mark.parametrize(
    ("code", "effects"),
    [
        ("x = 1", set()),
        ("import logging; logging.getLogger('x').debug('hello')", {"messages"}),
        ("import logging; logging.getLogger().setLevel(10)", {"level"}),
        ("import logging; logging.getLogger().addHandler(logging.NullHandler())", {"handlers"}),
        ("open('/proc/self/status').close()", {"opened"}),
        ("import os; os.open('/proc/self/status', 0)", {"opened", "descriptors"}),
        ("from threading import *; Thread(target=Event().wait, daemon=True).start()", {"threads"}),
    ],
    ids=["none", "log", "level", "handler", "file", "descriptor", "thread"],
)
def test_an_effect_would_be_noticed(tmp_path: Path, code: str, effects: set[str]) -> None:
    (tmp_path / "planted.py").write_text(code)
    assert set(_import("", "planted", path=tmp_path)["effects"]) == effects

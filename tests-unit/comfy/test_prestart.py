"""Scripts of packs run before torch is imported."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import folder_paths
from comfy import prestart
from support.packs import write_pack

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The one folder of packs."""
    kinds = {"custom_nodes": ([str(tmp_path)], set())}
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", kinds)
    return tmp_path


def _write(packs: Path, name: str, text: str) -> Path:
    return write_pack(packs, name, {"__init__.py": "1 / 0", "prestartup_script.py": text})


def test_scripts_run_and_packs_do_not(packs: Path) -> None:
    _write(packs, "pack", "from pathlib import Path\nPath(__file__).with_name('ran').touch()")
    write_pack(packs, "without", {"__init__.py": "1 / 0"})
    ((seconds, path, worked),) = prestart.execute_prestartup_scripts()
    assert (path, worked) == (str(packs / "pack"), True)
    assert seconds >= 0
    assert (packs / "pack" / "ran").exists()


def test_scripts_of_disabled_packs_do_not_run(packs: Path) -> None:
    _write(packs, "pack.disabled", "1 / 0")
    assert prestart.execute_prestartup_scripts() == []


@pytest.mark.parametrize("text", ["1 / 0", "import sys; sys.exit(1)", "def broken(:"])
def test_a_script_that_fails_is_named_and_stops_no_other(
    packs: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    caplog.set_level(logging.INFO)
    _write(packs, "bad", text)
    _write(packs, "good", "x = 1")
    done = {Path(path).name: worked for _, path, worked in prestart.execute_prestartup_scripts()}
    assert done == {"bad": False, "good": True}
    assert f"(IMPORT FAILED): {packs / 'bad'}" in caplog.text
    assert str(packs / "bad" / "prestartup_script.py") in caplog.text


def test_a_script_may_hold_data_classes(packs: Path) -> None:
    text = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "@dataclass\nclass A:\n    x: int = 1\n"
    )
    assert prestart.execute_script(str(_write(packs, "pack", text) / "prestartup_script.py"))


def test_torch_is_not_there_yet(packs: Path) -> None:
    _write(packs, "pack", "import sys\nassert 'torch' not in sys.modules")
    program = (
        "import sys, folder_paths\n"
        "from comfy.prestart import execute_prestartup_scripts\n"
        "folder_paths.folder_names_and_paths['custom_nodes'] = ([sys.argv[1]], set())\n"
        "print([worked for _, _, worked in execute_prestartup_scripts()])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(packs)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[True]"

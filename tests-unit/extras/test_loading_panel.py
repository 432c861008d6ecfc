"""The loading panel's scripts: their logic in node, and what they may not do at all."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "comfy_extras" / "web" / "loading"
TESTS = Path(__file__).parent / "loading_panel"
SCRIPTS = sorted(FOLDER.glob("*.js"))


@pytest.mark.parametrize("test", sorted(TESTS.glob("*.test.mjs")), ids=lambda path: path.name)
def test_logic_in_node(tmp_path: Path, test: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("node is not installed; the panel's logic is tested in it")
    for script in (*SCRIPTS, test):
        shutil.copy(script, tmp_path)
    # The page takes every script for a module; node has to be told.
    (tmp_path / "package.json").write_text('{"type": "module"}')
    done = subprocess.run(
        [node, "--test", test.name], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"^# pass (\d+)$", done.stdout, re.M) or re.search(
        r"pass (\d+)", done.stdout
    )
    assert passed is not None
    assert int(passed[1]) == test.read_text().count("\ntest(")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_text_never_becomes_markup(script: Path) -> None:
    forbidden = ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(")
    text = script.read_text()
    assert [word for word in forbidden if word in text] == []


@pytest.mark.parametrize("file", sorted(FOLDER.iterdir()), ids=lambda path: path.name)
def test_nothing_comes_from_elsewhere(file: Path) -> None:
    text = file.read_text().replace("http://www.w3.org/2000/svg", "")
    assert "://" not in text
    assert "url(" not in text
    assert len(text.splitlines()) <= 400


def test_imports_lead_to_scripts_that_are_there() -> None:
    found = {
        (script.name, target)
        for script in SCRIPTS
        for target in re.findall(r'from "([^"]+)"', script.read_text())
    }
    # What the page offers to packs; the rest lies beside them.
    offered = {"../../scripts/app.js", "../../scripts/api.js"}
    assert {target for name, target in found if name == "loading.js"} >= offered
    beside = {target for _, target in found if target not in offered}
    assert beside == {
        f"./{Path(one).name}" for one in beside if (FOLDER / Path(one).name).is_file()
    }


def test_only_one_script_does_anything_when_it_is_imported() -> None:
    # The page imports every script of the folder.
    acting = [one.name for one in SCRIPTS if re.search(r"^\w+(\.\w+)*\(", one.read_text(), re.M)]
    assert acting == ["loading.js"]

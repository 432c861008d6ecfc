"""``python -m comfy.loading graft``: put in, told, taken out; or refused, with nothing changed."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from comfy.loading.__main__ import main
from comfy.loading.commands import graft, graft_trees
from support.permissions import as_nobody
from support.stand_ins import FILES, GENERATIONS, contents, plant

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 150


@pytest.fixture(params=GENERATIONS)
def tree(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return plant(tmp_path / "ComfyUI", request.param)


@pytest.fixture
def one_tree(tmp_path: Path) -> Path:
    return plant(tmp_path / "ComfyUI", "copying")


def _inserted(before: dict[str, bytes], after: dict[str, bytes]) -> list[str]:
    """Lines outside comfy/loading that were not there; fails if any other line is different."""
    found = []
    for name, content in before.items():
        lines = after[name].decode().splitlines()
        new = [line for line in lines if line.endswith("# onecopy")]
        assert [line for line in lines if line not in new] == content.decode().splitlines()
        found += new
    return found


def test_few_marked_lines_are_put_in_and_none_is_changed(tree: Path) -> None:
    before = contents(tree)
    assert main(["graft", str(tree)]) == 0
    after = contents(tree)

    lines = _inserted(before, after)
    assert 10 < len(lines) <= MOST_LINES
    assert all("onecopy" in line.split("#")[0] or "return" in line for line in lines)
    changed = {name for name in before if after[name] != before[name]}
    assert changed == set(FILES)
    new = set(after) - set(before)
    assert all(name.startswith("comfy/loading/") for name in new)
    assert "comfy/loading/grafted/models.py" in new
    assert not [name for name in new if "/commands/graft" in name]


def test_the_patched_files_are_clean(tree: Path) -> None:
    assert main(["graft", str(tree)]) == 0
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--isolated",
            "--select",
            "E,W,F",
            "--ignore",
            "E501",
            *(str(tree / name) for name in FILES),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_undo_gives_back_every_byte(tree: Path) -> None:
    (tree / FILES[0]).chmod(0o640)
    before = contents(tree)
    assert main(["graft", str(tree)]) == 0
    compiled = tree / "comfy/loading/__pycache__/plan.cpython-313.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"")
    assert stat.S_IMODE((tree / FILES[0]).stat().st_mode) == 0o640

    assert main(["graft", str(tree), "--undo"]) == 0
    assert contents(tree) == before
    assert not (tree / "comfy/loading").exists()
    assert stat.S_IMODE((tree / FILES[0]).stat().st_mode) == 0o640


def test_line_ends_of_windows_are_kept(tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "tagged", line_end="\r\n")
    before = contents(tree)
    assert main(["graft", str(tree)]) == 0
    assert not re.search(rb"[^\r]\n", (tree / "comfy/utils.py").read_bytes())
    assert main(["graft", str(tree), "--undo"]) == 0
    assert contents(tree) == before


def test_a_second_graft_changes_nothing(one_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graft", str(one_tree)]) == 0
    after = contents(one_tree)
    assert main(["graft", str(one_tree)]) == 0
    assert "has this graft already" in capsys.readouterr().out
    assert contents(one_tree) == after


def test_undo_of_nothing_says_so(one_tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graft", str(one_tree), "--undo"]) == 0
    assert "nothing to undo" in capsys.readouterr().out


def test_undo_keeps_what_somebody_changed_since(
    one_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(one_tree)
    assert main(["graft", str(one_tree)]) == 0
    with (one_tree / "comfy/utils.py").open("a") as file:
        file.write("\nMINE = 1\n")
    assert main(["graft", str(one_tree), "--undo"]) == 0
    assert "comfy/utils.py has changed since" in capsys.readouterr().out
    assert contents(one_tree) == {
        **before,
        "comfy/utils.py": before["comfy/utils.py"] + b"\nMINE = 1\n",
    }


def test_undo_asks_before_it_removes_somebodys_work(
    one_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(one_tree)
    assert main(["graft", str(one_tree)]) == 0
    with (one_tree / "comfy/loading/plan.py").open("a") as file:
        file.write("\nMINE = 1\n")
    (one_tree / "comfy/loading/mine.py").write_text("")
    after = contents(one_tree)
    assert main(["graft", str(one_tree), "--undo"]) == 1
    assert "comfy/loading/plan.py changed since" in capsys.readouterr().err
    assert contents(one_tree) == after

    assert main(["graft", str(one_tree), "--undo", "--force"]) == 0
    assert contents(one_tree) == {**before, "comfy/loading/mine.py": b""}
    assert "comfy/loading/mine.py is not the graft's" in capsys.readouterr().out


def test_check_tells_the_version_and_every_anchor(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(tree)
    assert main(["graft", str(tree), "--check"]) == 0
    out = capsys.readouterr().out
    assert contents(tree) == before
    known = {one.version for one in GENERATIONS.values()}
    assert sum(f"version        {version}" in out for version in known) == 1
    for anchor in ("load_torch_file()", "ModelPatcher.unpatch_model()", "get_free_memory()"):
        assert anchor in out
    lines = (tree / "comfy/utils.py").read_text().splitlines()
    place = re.search(r"comfy/utils.py +load_torch_file\(\) +(\d+)", out)
    assert place is not None
    body = lines[: int(place.group(1)) - 1]
    assert any(line.startswith("def load_torch_file(") for line in body[-2:])


def test_check_tells_what_an_old_version_lacks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["graft", str(plant(tmp_path / "old", "loop")), "--check"]) == 0
    assert re.search(r"pin_memory\(\): .*not in this version", capsys.readouterr().out)


def test_a_grafted_copy_cannot_graft(one_tree: Path) -> None:
    assert main(["graft", str(one_tree)]) == 0
    done = subprocess.run(
        [sys.executable, "-m", "comfy.loading", "--help"],
        cwd=one_tree,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "doctor" in done.stdout
    assert "graft" not in done.stdout


# -- refusals --------------------------------------------------------------------------------------


def _replace(name: str, old: str, new: str) -> Callable[[Path], None]:
    def act(tree: Path) -> None:
        path = tree / name
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return act


MISSING = {
    "comfy/cli_args.py: a call of parser.parse_args() was not found": _replace(
        "comfy/cli_args.py", "parse_args(", "parse_those("
    ),
    "comfy/utils.py, load_torch_file(): the function was not found": _replace(
        "comfy/utils.py", "def load_torch_file", "def load_some_file"
    ),
    "comfy/model_base.py, BaseModel.load_model_weights(): a call of": _replace(
        "comfy/model_base.py", ".load_state_dict(", ".fill("
    ),
    "comfy/model_patcher.py, ModelPatcher.load(): a loop over load_completely": _replace(
        "comfy/model_patcher.py", "for x in load_completely", "for x in self._chosen()"
    ),
    "comfy/model_patcher.py, ModelPatcher.unpatch_model(): a call of self.model.to()": _replace(
        "comfy/model_patcher.py", "self.model.to(device_to)", "move(self.model, device_to)"
    ),
    "comfy/model_patcher.py, ModelPatcher.partially_unload(): a call of m.to()": _replace(
        "comfy/model_patcher.py", " m.to(device_to)", " move(m, device_to)"
    ),
    "comfy/model_management.py, get_free_memory(): the function": _replace(
        "comfy/model_management.py", "def get_free_memory", "def free_memory_of"
    ),
    "comfy/model_management.py, get_torch_device(): the function": _replace(
        "comfy/model_management.py", "def get_torch_device", "def torch_device"
    ),
    "comfy/model_management.py has a syntax error in line": _replace(
        "comfy/model_management.py", "def get_free_memory(", "def get_free_memory(("
    ),
    "comfy/model_base.py is missing": lambda tree: (tree / "comfy/model_base.py").unlink(),
    "loading is there already, and no graft made it": lambda tree: (tree / "comfy/loading").mkdir(),
    "load_torch_file(): a statement on a line of its own": _replace(
        "comfy/utils.py",
        "def load_torch_file(",
        "def load_torch_file(ckpt): return ckpt\n\n\ndef another(",
    ),
    "is not a ComfyUI: it has no comfy/cli_args.py": lambda tree: shutil.rmtree(tree / "comfy"),
}


@pytest.mark.parametrize("complaint", MISSING)
@pytest.mark.parametrize("option", [[], ["--check"], ["--diff", "made.diff"]])
def test_what_does_not_fit_is_refused_and_nothing_is_changed(
    complaint: str,
    option: list[str],
    one_tree: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    MISSING[complaint](one_tree)
    before = contents(one_tree.parent)
    monkeypatch.chdir(one_tree)
    assert main(["graft", str(one_tree), *option]) == 1
    assert complaint in capsys.readouterr().err
    assert contents(one_tree.parent) == before


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    assert main(["graft", str(tmp_path / "nowhere")]) == 2


def test_this_project_itself_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["graft", str(ROOT), "--check"]) == 1
    assert "is OneCopy itself" in capsys.readouterr().err


def test_a_graft_of_another_version_is_refused(
    one_tree: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["graft", str(one_tree)]) == 0
    after = contents(one_tree)
    newer = {**graft_trees.package_files(), "comfy/loading/newer.py": b""}
    monkeypatch.setattr(graft, "package_files", lambda: newer)
    assert main(["graft", str(one_tree)]) == 1
    assert "a graft of another version already" in capsys.readouterr().err
    assert contents(one_tree) == after
    assert main(["graft", str(one_tree), "--undo"]) == 0


def test_a_graft_that_an_update_replaced_in_part_is_told(
    one_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = contents(one_tree)
    assert main(["graft", str(one_tree)]) == 0
    (one_tree / "comfy/utils.py").write_bytes(before["comfy/utils.py"])
    assert main(["graft", str(one_tree)]) == 1
    assert "comfy/utils.py lost its lines" in capsys.readouterr().err
    assert main(["graft", str(one_tree), "--undo"]) == 0
    assert contents(one_tree) == before


def test_a_manifest_that_cannot_be_read_is_refused(
    one_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["graft", str(one_tree)]) == 0
    (one_tree / graft_trees.MANIFEST).write_text("{")
    assert main(["graft", str(one_tree), "--undo"]) == 1
    assert "grafted.json cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("blocked", [*FILES, "comfy/loading"])
def test_a_failure_half_way_changes_nothing(
    blocked: str, one_tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Where the new file is to be written there is a folder, or a file instead of a folder.
    obstacle = one_tree / f"{blocked}.onecopy-new"
    if blocked == "comfy/loading":
        obstacle.write_text("in the way")
    else:
        obstacle.mkdir()
    before = contents(one_tree)
    assert main(["graft", str(one_tree)]) == 1
    assert "cannot be changed" in capsys.readouterr().err
    assert {name: one for name, one in contents(one_tree).items() if name in before} == before
    assert not (one_tree / "comfy/loading").exists()


def test_what_a_killed_graft_left_is_not_put_in(one_tree: Path) -> None:
    before = contents(one_tree)
    left = one_tree / "comfy/loading.onecopy-new/of_another_edition.py"
    left.parent.mkdir()
    left.write_text("")
    assert main(["graft", str(one_tree)]) == 0
    assert not (one_tree / "comfy/loading/of_another_edition.py").exists()
    assert main(["graft", str(one_tree), "--undo"]) == 0
    assert contents(one_tree) == before


@pytest.mark.parametrize("moves", range(1, len(FILES) + 1))
def test_a_failure_while_files_are_moved_is_taken_back(
    moves: int, one_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = contents(one_tree)
    replace, done = os.replace, []

    def fail_once(source: object, target: object) -> None:
        done.append(target)
        if len(done) == moves:
            raise OSError(28, "No space left on device")
        replace(source, target)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "replace", fail_once)
    assert main(["graft", str(one_tree)]) == 1
    assert contents(one_tree) == before


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs permissions of POSIX")
def test_a_folder_that_may_not_be_written_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        Path(scratch).chmod(0o755)
        tree = plant(Path(scratch) / "ComfyUI", "copying")
        before = contents(tree)
        (tree / "comfy").chmod(0o555)
        try:
            with as_nobody():
                assert main(["graft", str(tree)]) == 1
        finally:
            (tree / "comfy").chmod(0o755)
        assert "cannot be changed" in capsys.readouterr().err
        assert contents(tree) == before


# -- git -------------------------------------------------------------------------------------------


def test_a_checkout_with_changes_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = plant(tmp_path / "ComfyUI", "copying", git=True)
    (tree / "models").mkdir()
    (tree / "models" / "mine.txt").write_text("not followed by git, and no reason to refuse")
    with (tree / "main.py").open("a") as file:
        file.write("# mine\n")
    before = contents(tree)
    assert main(["graft", str(tree)]) == 1
    assert "changes that are not committed: main.py" in capsys.readouterr().err
    assert contents(tree) == before

    assert main(["graft", str(tree), "--force"]) == 0
    assert main(["graft", str(tree), "--undo"]) == 0
    assert contents(tree) == before


def test_a_folder_inside_another_checkout_is_judged_by_itself(tmp_path: Path) -> None:
    outer = plant(tmp_path / "outer", "loop", git=True)
    (outer / "main.py").write_text("changed")
    inner = plant(outer / "inner", "copying")
    assert main(["graft", str(inner)]) == 0

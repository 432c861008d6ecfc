"""The graft as a diff and as a branch: what a reviewer gets is what `graft` puts in."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from comfy.loading.__main__ import main
from comfy.loading.commands.graft_trees import MANIFEST
from support.stand_ins import FILES, GENERATIONS, contents, make_checkout, plant

ROOT = Path(__file__).resolve().parents[2]


def _git(tree: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(tree), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout


def _grafted(folder: Path, generation: str, line_end: str = "\n") -> dict[str, bytes]:
    """What `graft` makes of such a tree, without its own notes."""
    tree = plant(folder, generation, line_end=line_end)
    assert main(["graft", str(tree)]) == 0
    return {name: one for name, one in contents(tree).items() if name != MANIFEST}


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
@pytest.mark.parametrize("generation", GENERATIONS)
def test_git_applies_the_diff(generation: str, line_end: str, tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", generation, line_end=line_end)
    before = contents(tree)
    assert main(["graft", str(tree), "--diff", str(tmp_path / "graft.diff")]) == 0
    assert contents(tree) == before

    subprocess.run(
        ["git", "apply", "--whitespace=nowarn", str(tmp_path / "graft.diff")], cwd=tree, check=True
    )
    assert contents(tree) == _grafted(tmp_path / "other", generation, line_end)


@pytest.mark.skipif(shutil.which("patch") is None, reason="patch is not installed")
def test_patch_applies_the_diff_and_takes_it_back(tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "tagged")
    before = contents(tree)
    diff = tmp_path / "graft.diff"
    assert main(["graft", str(tree), "--diff", str(diff)]) == 0
    subprocess.run(["patch", "-s", "-p1", "-i", str(diff)], cwd=tree, check=True)
    assert contents(tree) == _grafted(tmp_path / "other", "tagged")
    subprocess.run(["patch", "-s", "-R", "-p1", "-i", str(diff)], cwd=tree, check=True)
    assert contents(tree) == before


def test_a_last_line_without_end_stays_so_in_the_diff(tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "copying")
    path = tree / "comfy/model_base.py"
    path.write_bytes(path.read_bytes().rstrip(b"\n"))
    assert main(["graft", str(tree), "--diff", str(tmp_path / "graft.diff")]) == 0
    subprocess.run(["git", "apply", str(tmp_path / "graft.diff")], cwd=tree, check=True)
    assert path.read_bytes().endswith(b"return self")


def test_a_diff_that_cannot_be_written_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = plant(tmp_path / "ComfyUI", "copying")
    assert main(["graft", str(tree), "--diff", str(tmp_path / "no" / "folder.diff")]) == 1
    assert "cannot be written" in capsys.readouterr().err


@pytest.mark.parametrize("generation", GENERATIONS)
def test_a_branch_has_the_graft_in_reviewable_steps(generation: str, tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", generation, git=True)
    before, head = contents(tree), _git(tree, "rev-parse", "HEAD")
    assert main(["graft", str(tree), "--branch", "one-copy"]) == 0

    assert contents(tree) == before
    assert _git(tree, "rev-parse", "HEAD") == head
    assert _git(tree, "status", "--porcelain") == ""
    subjects = _git(tree, "log", "--format=%s", "main..one-copy").splitlines()
    assert len(subjects) == 8
    assert all(len(subject) <= 72 for subject in subjects)
    assert subjects[-1].startswith("loading: ")
    _git(tree, "checkout", "-q", "one-copy")
    made = contents(tree)
    del made[".gitignore"]
    assert made == _grafted(tmp_path / "other", generation)


@pytest.mark.slow
def test_every_commit_of_the_branch_runs(tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "copying", git=True)
    assert main(["graft", str(tree), "--branch", "one-copy"]) == 0
    imports = ", ".join(name.removesuffix(".py").replace("/", ".") for name in FILES)
    for commit in _git(tree, "rev-list", "--reverse", "main..one-copy").split():
        _git(tree, "checkout", "-q", commit)
        touched = _git(tree, "show", "--name-only", "--format=", commit).split()
        if not set(touched) & set(FILES):
            continue
        done = subprocess.run(
            [sys.executable, "-c", f"import {imports}"],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr


def test_a_branch_that_exists_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = plant(tmp_path / "ComfyUI", "loop", git=True)
    _git(tree, "branch", "mine")
    assert main(["graft", str(tree), "--branch", "mine"]) == 1
    assert "No branch was made" in capsys.readouterr().err
    assert _git(tree, "rev-parse", "mine") == _git(tree, "rev-parse", "main")


@pytest.mark.parametrize("name", ["no..name", "-x", ""])
def test_a_name_that_is_none_is_refused(name: str, tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "loop", git=True)
    assert main(["graft", str(tree), f"--branch={name}"]) == 1
    assert _git(tree, "branch", "--format=%(refname:short)").split() == ["main"]


def test_a_branch_needs_a_checkout(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tree = plant(tmp_path / "ComfyUI", "loop")
    assert main(["graft", str(tree), "--branch", "mine"]) == 1
    assert "not a git repository" in capsys.readouterr().err
    make_checkout(tree.parent)
    assert main(["graft", str(tree), "--branch", "mine"]) == 1
    assert f"not the top of a git checkout: {tree.parent} is" in capsys.readouterr().err


def test_a_checkout_that_git_does_not_trust_is_told_in_gits_words(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = plant(tmp_path / "ComfyUI", "loop", git=True)
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")
    assert main(["graft", str(tree), "--branch", "mine"]) == 1
    assert "safe.directory" in capsys.readouterr().err


def test_the_branch_is_made_of_what_was_committed(tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "copying", git=True)
    with (tree / "comfy/utils.py").open("a") as file:
        file.write("\nMINE = 1\n")
    assert main(["graft", str(tree), "--branch", "one-copy", "--force"]) == 0
    committed = _git(tree, "show", "one-copy:comfy/utils.py")
    assert "onecopy_files" in committed
    assert "MINE" not in committed


def test_a_file_that_git_may_run_stays_so(tmp_path: Path) -> None:
    tree = plant(tmp_path / "ComfyUI", "copying")
    os.chmod(tree / "comfy/utils.py", 0o755)
    make_checkout(tree)
    assert main(["graft", str(tree), "--branch", "one-copy"]) == 0
    assert _git(tree, "ls-tree", "one-copy", "comfy/utils.py").startswith("100755")

"""``make bench`` on a small file: the whole way, once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import load
from support.command_line import ROOT, finish, start


def test_quick_run_writes_table_json_and_plot(tmp_path: Path) -> None:
    out = tmp_path / "results"
    process = start(
        "--quick",
        "--sets=A",
        "--states=cold",
        "--only=ours: auto,drop behind",
        f"--folder={tmp_path}",
        f"--out={out}",
        module="benchmarks.load",
        cwd=ROOT,
    )
    code, text, complaint = finish(process)
    assert code == 0, complaint
    assert "ours: auto (readinto)" in text
    assert "(the machine at best)" in text
    assert "dropped from the page cache" in text
    report = json.loads((out / "load.json").read_text())
    names = {one["contestant"] for one in report["scores"]}
    assert {"ours: auto", "plain readinto, drop behind", "disk, 1 thread", "memory"} <= names
    assert all(one["same_bytes"] for one in report["scores"] if one["kind"] in ("ours", "peer"))
    assert (out / "load.md").read_text().startswith("# Loading, measured")
    assert (out / "load_A.png").read_bytes().startswith(b"\x89PNG")
    for name in report["missing"]:
        assert f"{name} is missing" in text


@pytest.mark.parametrize(
    ("flag", "told"), [("--sets=A,X", "no set X"), ("--states=cold, hot", "no state hot")]
)
def test_unknown_words_are_refused(
    capsys: pytest.CaptureFixture[str], flag: str, told: str
) -> None:
    assert load.main([flag]) == 2
    assert told in capsys.readouterr().out

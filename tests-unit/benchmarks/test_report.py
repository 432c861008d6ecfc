"""Tables, verdicts and plots of `benchmarks`, from made-up scores; and the files it makes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import files, load, peers, report
from comfy.loading.commands.contestants import Contestant
from comfy.loading.commands.runs import Target
from comfy.loading.commands.scores import Score

MIB = 1024 * 1024
TARGET = Target("/a", ("/a",), (10**9,))


def made(name: str, seconds: float | None = 1.0, **changes: Any) -> Score:
    about: dict[str, Any] = {
        "path": "/a",
        "contestant": name,
        "kind": "ours" if name.startswith("ours") else "peer",
        "device": "cpu",
        "is_private": True,
        "maps": False,
        "state": "cold",
        "runs": 1,
        "discarded": 0,
        "problem": "",
        "nbytes": 10**9,
        "seconds": seconds,
        "fastest_s": seconds,
        "slowest_s": seconds,
        "rate": 10**9 / seconds if seconds else None,
        "peak_bytes": 10**9,
        "cached_left": 0.5,
    }
    return Score(**{**about, **changes})


def remarks(*scores: Score) -> list[str]:
    (section,) = report.sections({"A": TARGET}, scores)
    return list(section.remarks)


def test_promise_about_the_disk_is_judged() -> None:
    kept = remarks(made("ours: readinto", of_disk=0.9))
    broken = remarks(made("ours: readinto", of_disk=0.5, bound="fresh memory"))
    assert kept == ["- ours: readinto: 0.90 of the disk's rate, at least 0.85? yes"]
    assert broken[0].endswith("no; bound by fresh memory")


def test_promise_about_memory_is_judged_where_files_are_warm() -> None:
    (line,) = remarks(made("ours: file-slice", state="warm", of_memory=0.7, bound="itself"))
    assert line == (
        "- ours: file-slice: 0.70 of a single memcpy loop's rate, at least 0.80? no; "
        "bound by itself"
    )


@pytest.mark.parametrize(("seconds", "verdict"), [(0.9, "no"), (0.98, "yes"), (2.0, "yes")])
def test_fastest_private_peer_is_the_rival(seconds: float, verdict: str) -> None:
    lines = remarks(
        made("ours: readinto", of_disk=1.0),
        made("slow", 5.0),
        made("fast", seconds),
        made("mapped", 0.01, is_private=False),
        made("elsewhere", 0.01, device="simgpu:0"),
        made("broken", None),
    )
    rival = next(line for line in lines if "not slower" in line)
    assert f"fast ({seconds:.2f} s)? {verdict}" in rival


def test_odd_things_are_told() -> None:
    lines = remarks(
        made("a", None, problem="it broke"),
        made("b", same_bytes=False),
        made("c", others_share=0.4),
    )
    assert "- a: it broke" in lines
    assert "- b: ITS BYTES ARE NOT THOSE OF THE OTHERS" in lines
    assert any("40%" in line for line in lines)


def test_markdown_has_every_row_with_every_column() -> None:
    scores = [made("ours: readinto", of_disk=1.0), made("x", None), made("disk", kind="disk")]
    machine = {"cpu": "CPU", "cpu_count": 2, "memory_bytes": 1 << 34, "system": "S", "torch": "T"}
    told = {"machine": machine, "rounds": 3, "size_mib": 64, "missing": ["someone"]}
    text = report.as_markdown(report.sections({"A": TARGET}, scores), told)
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len(rows) == 5
    assert {row.count("|") for row in rows} == {len(report.HEADER) + 1}
    assert "Not installed here: someone" in text


def test_plot_is_a_picture(tmp_path: Path) -> None:
    scores = [
        made("ours: readinto"),
        made("mapped", 0.1, is_private=False),
        made("broken", None),
        made("disk", kind="disk"),
        made("ours: readinto", state="warm"),
    ]
    path = tmp_path / "plot.png"
    report.plot(path, "title", scores)
    assert path.read_bytes().startswith(b"\x89PNG")


def test_files_are_made_once(tmp_path: Path) -> None:
    first = files.make_targets(["A", "P"], MIB, tmp_path)
    stamp = Path(first["A"].path).stat().st_mtime_ns
    again = files.make_targets(["A", "P"], MIB, tmp_path)
    assert again == first
    assert Path(first["A"].path).stat().st_mtime_ns == stamp
    assert first["A"].nbytes == first["P"].nbytes


def test_file_that_was_damaged_is_made_again(tmp_path: Path) -> None:
    first = files.make_targets(["C"], MIB, tmp_path)
    path = Path(first["C"].path)
    whole = path.stat().st_size
    path.write_bytes(b"cut")
    assert files.make_targets(["C"], MIB, tmp_path) == first
    assert path.stat().st_size == whole


def test_lack_of_space_is_told_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="GiB free"):
        files.make_targets(["A"], 1 << 60, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("letter", files.LETTERS)
def test_every_set_has_ours_and_others(letter: str) -> None:
    found = load.contestants(letter)
    assert {"ours: readinto", "ours: file-slice -> simgpu"} <= {one.name for one in found}
    assert any(one.kind != "ours" for one in found)
    assert len({one.name for one in found}) == len(found)


@pytest.mark.parametrize("one", peers.plain_readers(), ids=lambda one: one.name)
def test_plain_readers_load_what_is_in_the_file(one: Contestant, tmp_path: Path) -> None:
    from comfy.loading.commands.contestants import prepare_safetensors, stock  # noqa: PLC0415
    from comfy.loading.commands.one_run import Job  # noqa: PLC0415

    target = files.make_targets(["A"], MIB, tmp_path)["A"]
    job = Job(one.target, target.path, target.files, target.sizes, arguments=one.arguments)
    usual = stock("mmap", copies=True)
    other = Job(usual.target, target.path, target.files, arguments=usual.arguments)
    mine, theirs = peers.prepare_plain(job)(), prepare_safetensors(other)()
    assert mine.digest is not None
    assert theirs.digest is not None
    assert mine.digest() == theirs.digest()


def test_results_that_were_measured_can_be_read() -> None:
    for path in load.RESULTS.glob("*.json"):
        assert json.loads(path.read_text())

"""``python -m comfy.loading inspect``, and the program around the commands."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from comfy.loading.__main__ import main
from comfy.loading.errors import HeaderProblem
from support.command_line import ROOT, run_all
from support.files import evict, make_file_set, warm, write_checkpoint, write_compressed_checkpoint
from support.raw_files import RawTensor, write_raw, write_safetensors

MIB = 1024 * 1024


@pytest.fixture
def small(tmp_path: Path) -> Path:
    tensors = {
        "model.weight": torch.ones(300, 1024, dtype=torch.bfloat16),
        "model.bias": torch.ones(7),
        "scale": torch.tensor(1.0),
    }
    return write_safetensors(tmp_path / "small.safetensors", tensors, {"made": "by a test"})


def told(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    """Run in this process: exit code and what was printed."""
    code = main(["inspect", *map(str, arguments)])
    return code, capsys.readouterr().out


def told_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> Any:
    return json.loads(told(capsys, *arguments, "--json")[1])


def test_as_a_user_runs_it(small: Path) -> None:
    broken = small.with_name("broken.safetensors")
    broken.write_bytes(small.read_bytes()[:-1])
    text, invalid, missing = run_all(
        [
            ("inspect", small),
            ("inspect", broken),
            ("inspect", small.with_name("none.safetensors")),
        ]
    )
    assert (text[0], text[2]) == (0, "")
    for part in ("model.weight", "BF16", "300 x 1024", "600.00 KiB", "scalar", "by a test"):
        assert part in text[1]
    assert invalid[0] == 1
    assert "no: MetadataIncompleteBuffer" in invalid[1]
    assert missing[:2] == (2, "")
    assert "none.safetensors" in missing[2]
    assert "No such file" in missing[2]
    assert "Traceback" not in missing[2]


def test_general_help_needs_no_torch() -> None:
    program = (
        "import sys, runpy\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n    runpy.run_module('comfy.loading', run_name='__main__')\n"
        "except SystemExit as end:\n    assert end.code == 0, end.code\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    for command in ("inspect", "doctor", "bench", "exit codes"):
        assert command in done.stdout


@pytest.mark.parametrize("arguments", [[], ["explode"], ["inspect"], ["inspect", "a", "--what"]])
def test_wrong_usage_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    assert end.value.code == 2
    assert "usage:" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["inspect", "doctor", "bench"])
def test_each_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "exit codes" in text
    assert "FILE" in text


def test_reader_that_goes_away_is_no_error(small: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "comfy.loading", "inspect", str(small)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    complaint = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 141
    assert complaint == ""


def test_json_tells_where_every_tensor_is(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = told_json(capsys, small)
    assert report["valid"] is True
    assert [one["name"] for one in report["tensors"]] == ["model.weight", "model.bias", "scale"]
    assert report["format"] == "safetensors"
    assert report["metadata"] == {"made": "by a test"}
    assert report["weight_bytes"] == 300 * 1024 * 2 + 28 + 4
    raw = small.read_bytes()
    bias = next(one for one in report["tensors"] if one["name"] == "model.bias")
    piece = raw[bias["offset"] : bias["offset"] + bias["bytes"]]
    assert torch.frombuffer(bytearray(piece), dtype=torch.float32).tolist() == [1.0] * 7


def test_invalid_file_tells_the_rule_and_the_numbers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    header = b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}'
    path = write_raw(tmp_path / "lie.safetensors", header, bytes(4))
    code = main(["inspect", str(path), "--json"])
    report = json.loads(capsys.readouterr().out)
    assert code == 1
    assert report["valid"] is False
    assert report["problem"] == HeaderProblem.TENSOR_INVALID_INFO.value
    assert (report["tensor"], report["wanted"], report["got"]) == ("a", 8, 4)
    assert told(capsys, path)[0] == 1


def test_code_in_a_pickle_is_told_and_not_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return print, ("it ran",)

    path = tmp_path / "evil.pt"
    torch.save({"weight": Evil()}, path)
    code, text = told(capsys, path)
    assert code == 1
    assert "UnsafePickle" in text
    assert "it ran" not in text


def test_deviation_is_accepted_when_compat_is_given(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = b'"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
    path = write_raw(tmp_path / "odd.safetensors", b" {" + entry + b"}", b"x")
    assert told(capsys, path)[0] == 1
    assert told(capsys, path, "--load-compat")[0] == 0


def test_a_folder_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(tmp_path)]) == 1
    assert str(tmp_path) in capsys.readouterr().err


def test_page_cache_per_file_and_per_tensor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {name: torch.zeros(MIB, dtype=torch.uint8) for name in ("first", "second")}
    path = write_safetensors(tmp_path / "half.safetensors", tensors)
    evict(path)
    cold = told_json(capsys, path, "--cache")
    # Not even inspecting it brings more than its header in.
    assert cold["files"][0]["cached_bytes"] == 0
    again = told_json(capsys, path, "--cache")
    assert again["files"][0]["cached_bytes"] <= 8192
    warm(path, MIB)
    half = {
        one["name"]: one["cached_bytes"] for one in told_json(capsys, path, "--cache")["tensors"]
    }
    assert half["second"] == MIB
    assert half["first"] < MIB // 100
    code, text = told(capsys, path, "--cache")
    assert code == 0
    assert "100 %" in next(line for line in text.splitlines() if "second" in line)


def test_shards_are_listed_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_file_set("B", tmp_path, factor=1 / 65536)
    report = told_json(capsys, made.path, "--summary")
    assert report["format"] == "sharded"
    assert [Path(one["path"]).name for one in report["files"]] == [one.name for one in made.files]
    assert report["weight_bytes"] == made.nbytes
    assert "tensors" not in report
    _, text = told(capsys, made.path)
    assert "4 shards" in text
    assert made.files[2].name in text


def test_missing_shard_is_a_problem_of_the_index(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = make_file_set("B", tmp_path, factor=1 / 65536)
    made.files[1].unlink()
    code, text = told(capsys, made.path)
    assert code == 1
    assert "MissingShard" in text


@pytest.mark.parametrize("legacy", [False, True])
def test_pickles_are_described_without_their_weights(
    legacy: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tensors = {"even": torch.ones(4, 6), "turned": torch.ones(6, 4).t()}
    path = write_checkpoint(tmp_path / "model.ckpt", tensors, legacy=legacy)
    report = told_json(capsys, path)
    assert report["format"] == "pytorch"
    shapes = {one["name"]: one["shape"] for one in report["tensors"]}
    assert shapes == {"even": [4, 6], "turned": [4, 6]}
    notes = {one["name"]: one.get("note", "") for one in report["tensors"]}
    assert notes == {"even": "", "turned": "strides [1, 4]"}


def test_values_and_containers_of_pickles_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mixed.pt"
    torch.save({"step": 3, "ema": {"w": torch.ones(2)}, "list": [torch.ones(1, 2), "x"]}, path)
    report = told_json(capsys, path)
    assert {one["name"] for one in report["tensors"]} == {"ema/w", "list/0"}
    assert report["values"] == {"step": "3"}
    assert "step" in told(capsys, path)[1]


def test_compressed_tensors_have_no_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_compressed_checkpoint(tmp_path / "model.pt", {"w": torch.ones(64, 64)})
    (tensor,) = told_json(capsys, path)["tensors"]
    assert tensor["note"] == "compressed"
    assert tensor["dtype"] == "F32"
    assert "offset" not in tensor


def test_match_picks_tensors(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = told_json(capsys, small, "--match", "model.*")
    assert [one["name"] for one in report["tensors"]] == ["model.weight", "model.bias"]
    assert report["tensor_count"] == 2


def test_packed_dtypes_say_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tensors = {"w": RawTensor("F4", (2, 8), bytes(8)), "v": RawTensor("F6_E2M3", (4,), bytes(3))}
    path = write_safetensors(tmp_path / "packed.safetensors", tensors)
    rows = {one["name"]: one for one in told_json(capsys, path)["tensors"]}
    assert rows["w"]["dtype"] == "F4"
    assert rows["w"]["note"].startswith("4 bits each")
    assert rows["v"]["note"].startswith("6 bits each")


def test_long_metadata_is_cut_in_text_and_whole_in_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    story = "word " * 500
    path = write_safetensors(tmp_path / "long.safetensors", {"a": torch.ones(1)}, {"story": story})
    assert "(2,500 characters)" in told(capsys, path)[1]
    assert told_json(capsys, path)["metadata"]["story"] == story


def test_safetensors_under_another_name_is_recognised(
    small: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = small.rename(small.with_suffix(".weights"))
    assert told_json(capsys, path)["format"] == "safetensors"

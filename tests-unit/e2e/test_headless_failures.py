"""Workflows that cannot run, and runs that are stopped: clear text, status, nothing left behind."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from support.headless import EXAMPLES, Program

pytestmark = pytest.mark.e2e

EXAMPLE = EXAMPLES / "text_to_image.json"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def trouble(deed: str) -> dict[str, Any]:
    return {"1": {"class_type": "Trouble", "inputs": {"deed": deed}, "_meta": {"title": "Pack"}}}


# -- before torch is imported ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "told"),
    [("{", "is no JSON"), ("{}", "holds no workflow"), (None, "cannot be read: No such file")],
)
def test_what_is_no_workflow_is_refused_before_anything_is_loaded(
    program: Program, text: str | None, told: str
) -> None:
    path = program.folder / "w.json"
    if text is not None:
        path.write_text(text)
    ended = program.run("--run", path)
    assert (ended.status, ended.out) == (1, "")
    assert told in ended.err
    assert str(path) in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX does")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_is_ended_at_once(program: Program, number: signal.Signals) -> None:
    process = program.start("--run", EXAMPLE, "--vram-headroom=1")
    assert process.stderr is not None
    assert "--vram-headroom" in process.stderr.readline()
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (130, "", "")


# -- invalid prompts -------------------------------------------------------------------------------


@pytest.mark.slow
def test_all_faults_of_a_prompt_are_told_at_once(program: Program) -> None:
    prompt = json.loads(EXAMPLE.read_text())
    prompt["1"]["inputs"]["ckpt_name"] = "shapes_tiny.safetensors"
    prompt["2"]["inputs"]["clip"] = ["1", 0]
    prompt["4"]["inputs"]["width"] = "wide"
    prompt["5"]["inputs"] |= {"steps": 0, "sampler_name": "eulr"}
    del prompt["7"]["inputs"]["filename_prefix"]
    ended = program.run("--run", "-", "--vram-headroom=1", given=json.dumps(prompt))
    assert (ended.status, ended.out) == (1, "")
    for told in (
        (
            "Node 1 \"Checkpoint\" (CheckpointLoaderSimple), input 'ckpt_name': there is no file "
            "'shapes_tiny.safetensors' in "
        ),
        "did you mean 'shapes_tiny_sd15.safetensors'?",
        "Node 2 \"Prompt\" (CLIPTextEncode), input 'clip': it takes CLIP, but output 0 of",
        "input 'width': 'wide' cannot be read as INT.",
        "input 'steps': 0 is below 1, the least allowed.",
        "'eulr' is none of its choices; did you mean 'euler'",
        "input 'filename_prefix': it is missing.",
        "--vram-headroom has no effect here: use --reserve-vram.",
    ):
        assert told in ended.err
    assert "Traceback" not in ended.err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"8": {"class_type": "KSamplr", "inputs": {}}}, "did you mean 'KSampler'"),
        ({"4": {"class_type": "LatentUpscaleBy", "inputs": {"samples": ["5", 0]}}}, "own result"),
    ],
    ids=["unknown node", "circle"],
)
def test_a_graph_that_cannot_run_is_refused(
    program: Program, change: dict[str, Any], told: str
) -> None:
    prompt = {**json.loads(EXAMPLE.read_text()), **change}
    ended = program.run("--run", "-", given=json.dumps(prompt))
    assert (ended.status, ended.out) == (1, "")
    assert told in ended.err


# -- runs that fail or are stopped -----------------------------------------------------------------


@pytest.mark.slow
def test_what_a_pack_raises_ends_the_run_with_its_name_and_place(program: Program) -> None:
    ended = program.run(*program.with_pack(trouble("raise")))
    assert ended.status == 2
    assert 'Node 1 "Pack" (Trouble) failed: RuntimeError: the pack is in trouble' in ended.err
    assert "  deed = 'raise'" in ended.err
    assert str(Path("packs", "trouble", "__init__.py")) in ended.err
    # What packs print is no result.
    assert ended.out == ""
    assert "a pack talks" in ended.err


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX does")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("presses", [1, 2])
def test_a_node_that_hangs_is_stopped_by_one_press_and_at_once_by_two(
    program: Program, number: signal.Signals, presses: int
) -> None:
    process = program.start(*program.with_pack(trouble("hang")))
    assert process.stderr is not None
    for line in process.stderr:
        if line == "hanging\n":
            break
    started = time.monotonic()
    process.send_signal(number)
    if presses == 2:
        assert "Stopping" in process.stderr.readline()
        process.send_signal(number)
    _, err = process.communicate(timeout=30)
    took = time.monotonic() - started
    assert process.returncode == 130
    assert "Traceback" not in err
    if presses == 1:
        # At once it would be killed; cleaning up takes away the temporary folder.
        assert not (program.folder / "temp" / "temp").exists()
    else:
        assert took < 2.5


@pytest.mark.slow
def test_the_temporary_folder_is_emptied_unless_it_holds_the_only_pictures(
    program: Program,
) -> None:
    old = program.folder / "temp" / "temp" / "old.png"
    old.parent.mkdir(parents=True)
    old.touch()
    prompt = {
        "1": {
            "class_type": "EmptyImage",
            "inputs": {"width": 8, "height": 8, "batch_size": 1, "color": 0},
        },
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
    }
    ended = program.run("--run", "-", given=json.dumps(prompt))
    assert ended.status == 0
    (path,) = ended.paths
    assert path.parent == old.parent
    assert list(old.parent.iterdir()) == [path]
    prompt["2"]["class_type"] = "SaveImage"
    prompt["2"]["inputs"]["filename_prefix"] = "x"
    (path,) = program.run("--run", "-", given=json.dumps(prompt)).paths
    assert path == program.folder / "output" / "x_00001_.png"
    assert not old.parent.exists()

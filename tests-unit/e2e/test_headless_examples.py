"""The examples, each as a user runs it: the pictures show what was asked for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from support.headless import EXAMPLES, Program
from tools.shapes.reading import Reading, read

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Left, upper, right, lower edge, and what is to be seen there.
Seen = tuple[tuple[int, int, int, int], str]
WHOLE = (0, 0, 64, 64)
EXPECTED: dict[str, list[Seen]] = {
    "text_to_image": [(WHOLE, "red circle on white")],
    "text_to_image_page": [(WHOLE, "red circle on white")],
    "batch": [(WHOLE, "green square on black")] * 4,
    "image_to_image": [(WHOLE, "blue circle on white")],
    "inpaint": [(WHOLE, "yellow circle on black")],
    "hires_fix": [((0, 0, 96, 96), "orange circle on navy")],
    "advanced_sampler": [(WHOLE, "purple cross on white")],
    "custom_sampler": [(WHOLE, "green circle on white")],
    "two_prompts_areas": [],
}
HALVES = [((0, 0, 60, 64), "yellow circle on black"), ((68, 0, 128, 64), "green square on black")]


def words(seen: Reading) -> str:
    return f"{seen.colour} {seen.shape} on {seen.background}"


@pytest.fixture
def program(tmp_path: Path) -> Program:
    return Program(tmp_path)


def test_every_example_has_an_expectation() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.json")} == set(EXPECTED)


def test_every_example_is_in_the_list_for_readers() -> None:
    text = (EXAMPLES.parent / "README.md").read_text()
    assert all(f"--run examples/workflows/{name}.json" in text for name in EXPECTED)


@pytest.mark.parametrize("name", [name for name, seen in EXPECTED.items() if seen])
def test_an_example_draws_what_it_asks_for(program: Program, name: str) -> None:
    ended = program.run("--run", EXAMPLES / f"{name}.json")
    assert ended.status == 0, ended.err
    assert [path.parent for path in ended.paths] == [
        program.folder / "output" / "examples" for _ in EXPECTED[name]
    ]
    for path, (box, wanted) in zip(ended.paths, EXPECTED[name], strict=True):
        with Image.open(path) as image:
            assert image.size == box[2:]
            assert words(read(image)) == wanted


def test_the_areas_have_the_shapes_of_their_prompts(program: Program) -> None:
    (path,) = program.run("--run", EXAMPLES / "two_prompts_areas.json").paths
    with Image.open(path) as image:
        assert image.size == (128, 64)
        assert [words(read(image.crop(box))) for box, _ in HALVES] == [seen for _, seen in HALVES]


def test_inpainting_leaves_the_rest_as_it_was(program: Program) -> None:
    (path,) = program.run("--run", EXAMPLES / "inpaint.json").paths
    with Image.open(path) as image:
        pixels = np.asarray(image).copy()
    assert pixels[8:-8, 8:-8].max() > 200
    pixels[8:-8, 8:-8] = 0
    assert pixels.max() == 0


@pytest.mark.parametrize("name", ["text_to_image", "text_to_image_page"])
def test_a_picture_is_a_workflow_that_gives_the_same_bytes(program: Program, name: str) -> None:
    (first,) = program.run("--run", EXAMPLES / f"{name}.json", "--set", "Sampler.steps=4").paths
    (second,) = program.run("--run", first).paths
    assert second != first
    assert second.read_bytes() == first.read_bytes()
    with Image.open(first) as image:
        texts = image.text  # type: ignore[attr-defined]
    assert json.loads(texts["prompt"])["5"]["inputs"]["steps"] == 4
    assert ("workflow" in texts) == name.endswith("_page")


def test_settings_change_what_is_drawn_and_standard_input_is_a_workflow(program: Program) -> None:
    prompt = "Prompt.text=a large blue star on a black background"
    ended = program.run(
        *("--run", "-", "--set", prompt, "--set", "5.seed=2", "--set", "Save.filename_prefix=a/b"),
        given=(EXAMPLES / "text_to_image.json").read_text(),
    )
    (path,) = ended.paths
    assert path == program.folder / "output" / "a" / "b_00001_.png"
    assert words(read(path)) == "blue star on black"

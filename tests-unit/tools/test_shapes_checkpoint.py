"""The checkpoint that ships draws what it is asked for, the same on every load strategy."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import comfy.model_management
import folder_paths
import nodes
from comfy.loading import default_loader
from tools.shapes.reading import read
from tools.shapes.scenes import BACKGROUNDS, COLOURS, POSITIONS, SHAPES, Scene
from tools.workflows import page_workflow, run, text_to_image

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = "shapes_tiny_sd15.safetensors"
PATH = ROOT / "models" / "checkpoints" / CHECKPOINT
MIB = 1024 * 1024
PROMPTS = 60
# Of six shapes, chance would give a sixth. This checkpoint blurs small corners, and stars and squares
# can be read as circles; one that was trained for longer shall raise this to 0.9.
SHAPES_TOLD_SHARE = 0.55
CLASSES = nodes.NODE_CLASS_MAPPINGS

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    yield tmp_path
    comfy.model_management.unload_all_models()


def draw(prompt: str, seed: int, output: Path, cache: dict[str, Any], steps: int = 20) -> Path:
    graph = text_to_image(
        CHECKPOINT, prompt, seed, pixels=64, steps=steps, cfg=4.0, prefix=f"s{seed}"
    )
    with torch.inference_mode():
        (record,) = run(graph, CLASSES, cache)
    return output / record["filename"]


def test_checkpoint_is_small_half_precision_and_says_how_it_was_made() -> None:
    assert PATH.stat().st_size <= 16 * MIB
    with safe_open(str(PATH), framework="pt") as file:
        dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        facts = json.loads(file.metadata()["training"])
    assert dtypes == {"F16"}
    assert facts["program"] == "tools/train_shapes.py"


@pytest.mark.timeout(1200)
def test_pictures_have_the_colours_and_mostly_the_shapes_of_their_prompts(output: Path) -> None:
    rng = random.Random(2026)
    cache: dict[str, Any] = {}
    seen = {"colour": 0, "shape": 0, "background": 0}
    for seed in range(PROMPTS):
        scene = Scene(
            list(COLOURS)[seed % len(COLOURS)],
            SHAPES[seed % len(SHAPES)],
            rng.choice(list(BACKGROUNDS)),
            rng.choice(list(POSITIONS)),
            "",
        )
        found = read(draw(scene.prompt, seed, output, cache))
        for field in seen:
            seen[field] += getattr(found, field) == getattr(scene, field)
    assert seen["colour"] >= 0.95 * PROMPTS
    assert seen["background"] >= 0.95 * PROMPTS
    assert seen["shape"] >= SHAPES_TOLD_SHARE * PROMPTS


@pytest.mark.parametrize("strategy", ["mmap", "readinto", "file-slice"])
def test_same_seed_gives_the_same_picture_on_every_strategy(
    strategy: str, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompt = "a red star on a white background"
    pictures = []
    for name in (strategy, "file-slice"):
        loader = default_loader()
        monkeypatch.setattr(loader, "options", replace(loader.options, strategy=name))
        comfy.model_management.unload_all_models()
        with Image.open(draw(prompt, 7, output, {}, steps=4)) as image:
            pictures.append(image.tobytes())
    assert pictures[0] == pictures[1]
    with Image.open(draw(prompt, 8, output, {}, steps=4)) as image:
        assert image.tobytes() != pictures[0]


def test_graph_in_a_picture_draws_it_again(output: Path) -> None:
    first = draw("a blue ring on a black background", 3, output, {}, steps=4)
    with Image.open(first) as image:
        graph, workflow = json.loads(image.text["prompt"]), json.loads(image.text["workflow"])
        pixels = image.tobytes()
    assert workflow == page_workflow(graph, CLASSES)
    with torch.inference_mode():
        (record,) = run(graph, CLASSES, {})
    assert record["filename"] != first.name
    with Image.open(output / record["filename"]) as image:
        assert image.tobytes() == pixels


def test_page_workflow_links_outputs_to_inputs_of_their_type() -> None:
    graph = text_to_image(CHECKPOINT, "a", 1, pixels=64, steps=2, cfg=1.0, prefix="x")
    workflow = page_workflow(graph, CLASSES)
    made = {node["id"]: node for node in workflow["nodes"]}
    assert len(workflow["links"]) == 9
    for link, source, output_slot, target, input_slot, kind in workflow["links"]:
        assert made[source]["outputs"][output_slot]["type"] == kind
        assert link in made[source]["outputs"][output_slot]["links"]
        assert made[target]["inputs"][input_slot]["link"] == link
    assert made[5]["widgets_values"] == [1, "fixed", 2, 1.0, "euler", "normal", 1.0]

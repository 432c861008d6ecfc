"""What a prompt costs after another one: no weight is read again, and only what differs runs."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import execution
import folder_paths
from comfy.loading.weight_file import WeightFile
from support import managed, narrow
from support.graph_nodes import Graphs
from support.simulated_device import SimulatedDevice

pytestmark = pytest.mark.slow

NAME = "model.safetensors"
MIB = 1 << 20


@pytest.fixture
def file(
    simgpu: SimulatedDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[WeightFile]:
    """A narrow checkpoint's one open file, which counts what is read from it.

    Its weights go to the simulated unified device.
    """
    path = narrow.write_checkpoint(tmp_path / NAME)
    known = folder_paths.folder_names_and_paths["checkpoints"][1]
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "checkpoints", ([str(tmp_path)], known)
    )
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path))
    how = {"strategy": "file-slice", "staging_bytes": 1 * MIB}
    with managed.own_manager(simgpu.device, **how) as loader:
        opened = loader.files.open(path)
        yield opened


def prompt(text: str = "a red circle", seed: int = 1) -> dict[str, Any]:
    """The default graph."""
    sampler = {"seed": seed, "steps": 2, "cfg": 3.0, "denoise": 1.0}
    links = {"model": ["loader", 0], "positive": ["positive", 0], "negative": ["negative", 0]}
    size = {"width": 64, "height": 64, "batch_size": 1}
    made: dict[str, tuple[str, dict[str, Any]]] = {
        "loader": ("CheckpointLoaderSimple", {"ckpt_name": NAME}),
        "positive": ("CLIPTextEncode", {"text": text, "clip": ["loader", 1]}),
        "negative": ("CLIPTextEncode", {"text": "", "clip": ["loader", 1]}),
        "empty": ("EmptyLatentImage", size),
        "sampler": (
            "KSampler",
            {
                **sampler,
                **links,
                "sampler_name": "euler",
                "scheduler": "normal",
                "latent_image": ["empty", 0],
            },
        ),
        "decoder": ("VAEDecode", {"samples": ["sampler", 0], "vae": ["loader", 2]}),
        "save": ("SaveImage", {"filename_prefix": "x", "images": ["decoder", 0]}),
    }
    return {name: {"class_type": kind, "inputs": inputs} for name, (kind, inputs) in made.items()}


def run(graphs: Graphs, graph: dict[str, Any]) -> list[str]:
    """Validate and run; the nodes that were called."""
    sent = copy.deepcopy(graph)
    valid, error, outputs, _ = asyncio.run(execution.validate_prompt("p", sent))
    assert valid, error
    assert graphs.run(sent, *outputs)
    return graphs.ran()


@pytest.fixture(
    params=[
        (execution.CacheType.CLASSIC, {}),
        (execution.CacheType.LRU, {"lru": 10}),
        (execution.CacheType.RAM_PRESSURE, {"ram": 0.0}),
    ],
    ids=["classic", "lru", "ram"],
)
def graphs(request: pytest.FixtureRequest) -> Graphs:
    """An executor of each kind that keeps results."""
    kind, arguments = request.param
    return Graphs(kind, **arguments)


def test_first_prompt_reads_each_weight_once(graphs: Graphs, file: WeightFile) -> None:
    run(graphs, prompt())
    assert 0.9 * file.size < file.bytes_read <= file.size


def test_another_seed_reads_no_weight_and_runs_what_the_seed_changes(
    graphs: Graphs, file: WeightFile
) -> None:
    run(graphs, prompt(seed=1))
    before = file.bytes_read
    assert run(graphs, prompt(seed=2)) == ["sampler", "decoder", "save"]
    assert file.bytes_read == before


def test_another_text_runs_only_what_depends_on_it(graphs: Graphs, file: WeightFile) -> None:
    run(graphs, prompt("a red circle"))
    before = file.bytes_read
    assert run(graphs, prompt("a blue star")) == ["positive", "sampler", "decoder", "save"]
    assert file.bytes_read == before


def test_the_same_prompt_again_runs_nothing(graphs: Graphs, file: WeightFile) -> None:
    run(graphs, prompt())
    before = file.bytes_read
    assert run(graphs, prompt()) == []
    assert file.bytes_read == before


def test_without_a_cache_everything_runs_again(file: WeightFile) -> None:
    graphs = Graphs(execution.CacheType.NONE)
    assert sorted(run(graphs, prompt(seed=1))) == sorted(prompt())
    before = file.bytes_read
    assert sorted(run(graphs, prompt(seed=2))) == sorted(prompt())
    assert file.bytes_read > before

"""Nodes about loading: a strategy for one loader, memory reported, memory released."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.model_management
import comfy.utils
import execution
import folder_paths
import nodes
from comfy.loading import FileTensor, default_loader
from comfy.loading.errors import FlagConflict, UnknownStrategy
from comfy_extras import memory_recording, nodes_loading
from comfy_extras.memory_recording import Moment, Recording, Recordings, bound_of, described
from support import narrow, node_listing
from support.graph_nodes import Graphs

MIB = 1024 * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    narrow.write_checkpoint(folder / "sd15.safetensors")
    return folder


@pytest.fixture
def places(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for key in ("checkpoints", "diffusion_models"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder)], set()))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path))
    yield
    comfy.model_management.unload_all_models()


def kinds(model: Any) -> set[bool]:
    """Whether weights are in their file."""
    return {
        isinstance(one, FileTensor) and one.is_in_file
        for one in model.model.state_dict().values()
        if one.nbytes > MIB // 64
    }


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(("strategy", "in_file"), [("file-slice", True), ("readinto", False)])
def test_checkpoint_is_loaded_as_chosen(strategy: str, in_file: bool) -> None:
    node = nodes_loading.LoadStrategyCheckpoint
    model, clip, vae = node.execute("sd15.safetensors", strategy).args
    assert kinds(model) == kinds(clip.patcher) == kinds(vae.patcher) == {in_file}


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize(("strategy", "in_file"), [("file-slice", True), ("readinto", False)])
def test_diffusion_model_is_loaded_as_chosen(strategy: str, in_file: bool) -> None:
    node = nodes_loading.LoadStrategyDiffusionModel
    assert kinds(node.execute("sd15.safetensors", strategy)[0]) == {in_file}


@pytest.mark.usefixtures("places")
def test_choice_ends_with_the_load_even_if_that_fails(folder: Path) -> None:
    with pytest.raises(UnknownStrategy, match="readintoo"):
        nodes_loading.LoadStrategyCheckpoint.execute("sd15.safetensors", "readintoo")
    path = str(folder / "sd15.safetensors")
    with comfy.utils.use_load_strategy("readinto"):
        inside = comfy.utils.load_torch_file(path)
    assert not any(isinstance(one, FileTensor) for one in inside.values())
    with comfy.utils.use_load_strategy("file-slice"), comfy.utils.use_load_strategy(None):
        assert comfy.utils._strategy.get() is None


@pytest.mark.usefixtures("places")
def test_mapping_stays_forbidden_where_the_user_forbids_it(monkeypatch: pytest.MonkeyPatch) -> None:
    loader = default_loader()
    options = dataclasses.replace(loader.options, allow_mmap=False)
    monkeypatch.setattr(loader, "options", options)
    with pytest.raises(FlagConflict, match="--disable-mmap"):
        nodes_loading.LoadStrategyCheckpoint.execute("sd15.safetensors", "mmap")


@pytest.mark.usefixtures("places")
def test_strategies_of_packs_can_be_chosen() -> None:
    shown = nodes_loading.LoadStrategyCheckpoint.INPUT_TYPES()["required"]
    listed = shown["strategy"][1]["options"]
    assert listed[0] == "auto"
    assert set(comfy.utils.load_strategies()) <= set(listed)
    assert shown["ckpt_name"][1]["options"] == ["sd15.safetensors"]


# -- reports ---------------------------------------------------------------------------------------


def moments() -> list[Moment]:
    """A load of 100 MiB over a start of 200, and 50 more for a moment."""
    totals = [(0.0, 200, 0, 0), (0.5, 210, 50, 100), (1.0, 210, 140, 100), (2.0, 205, 100, 100)]
    return [Moment(at, host * MIB, device * MIB, w * MIB) for at, host, device, w in totals]


def test_report_says_start_peak_and_bound() -> None:
    staging = default_loader().options.staging_bytes // MIB
    assert bound_of(moments()) == (200 + 100 + staging + 64) * MIB
    text = described(moments())
    assert "Memory over 2.0 s, 4 samples" in text
    assert "At the start: 200.00 MiB, weights among it: 0 bytes" in text
    assert "Peak: 350.00 MiB after 1.0 s (host 210.00 MiB, device 140.00 MiB)" in text
    assert f"staging of {staging}.00 MiB" in text
    assert f"{200 + 100 + staging + 64 - 350}.00 MiB below the bound" in text


def test_weights_that_were_there_before_count_once() -> None:
    first, *others = moments()
    again = [dataclasses.replace(first, at_home=80 * MIB), *others]
    assert bound_of(again) == bound_of(moments()) - 80 * MIB


def test_report_of_a_peak_above_the_bound_says_so() -> None:
    above = [*moments(), Moment(3.0, 900 * MIB, 0, 100 * MIB)]
    assert "above the bound, for what networks compute" in described(above)


def test_recording_keeps_its_first_sample_and_does_not_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    numbers = itertools.count()
    monkeypatch.setattr(memory_recording, "measure", lambda at: Moment(next(numbers), 1, 2, 3))
    # It takes its first sample itself, and has no time for others.
    recording = Recording(interval_s=3600.0, most=10).start()
    found = [recording.moments() for _ in range(1000)][-1]
    recording.stop()
    assert 5 <= len(found) <= 10
    seconds = [one.seconds for one in found]
    assert (seconds[0], seconds[-1]) == (0, 1000)
    assert seconds == sorted(set(seconds))


def test_nodes_of_one_prompt_share_a_recording_and_the_last_one_ends_it() -> None:
    made: list[Recording] = []

    def make() -> Recording:
        made.append(Recording())
        return made[-1]

    recordings = Recordings(make)
    recordings.begin()
    recordings.begin()
    assert len(made) == 1
    assert len(recordings.collect()) >= 2
    assert made[0]._thread.is_alive()
    recordings.collect()
    assert not made[0]._thread.is_alive()
    assert len(recordings.collect()) == 1


def test_recording_of_a_prompt_that_failed_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_recording, "_TOGETHER_S", 0.0)
    made: list[Recording] = []

    def make() -> Recording:
        made.append(Recording())
        return made[-1]

    recordings = Recordings(make)
    recordings.begin()
    recordings.begin()
    assert [one._thread.is_alive() for one in made] == [False, True]
    recordings.collect()


@pytest.mark.usefixtures("places")
def test_report_sees_what_a_node_took_since_the_prompt_began(tmp_path: Path) -> None:
    node = nodes_loading.MemoryReport
    answers = {node.fingerprint_inputs(width=1, height=1) for _ in range(2)}
    assert len(answers) == 2
    taken = torch.ones(64 * MIB, dtype=torch.uint8)
    model, *_ = nodes_loading.LoadStrategyCheckpoint.execute("sd15.safetensors", "file-slice").args
    comfy.model_management.load_models_gpu([model])
    node.execute(None, 256, 256)
    given, text, picture = node.execute(taken, 640, 320).args
    assert given is taken
    lines = dict(line.split(": ", 1) for line in text.splitlines() if ": " in line)
    size = model.model_size() / MIB
    assert lines["Weights of the models in use (W)"] == f"{size:.2f} MiB"
    assert picture.shape == (1, 320, 640, 3)
    assert picture.dtype == torch.float32
    assert 0.0 <= picture.min() < 0.5 < picture.max() <= 1.0
    # The colours of memory and of the bound are there.
    near = [(picture[0] - torch.tensor(one) / 255).abs().sum(-1) < 0.05 for one in COLOURS]
    assert all(int(one.sum()) > 20 for one in near)
    assert len(list(tmp_path.rglob("*.png"))) == 2


COLOURS = [(0x9E, 0xCA, 0xE1), (0x31, 0xA3, 0x54), (0xDE, 0x2D, 0x26)]


# -- release ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("places")
@pytest.mark.parametrize("unload", [True, False])
def test_release_unloads_models_on_demand_and_hands_on_what_came(unload: bool) -> None:
    model, *_ = nodes_loading.LoadStrategyCheckpoint.execute("sd15.safetensors", "file-slice").args
    comfy.model_management.load_models_gpu([model])
    assert kinds(model) == {False}
    thing = object()
    assert nodes_loading.ReleaseMemory.execute(thing, unload, True).args == (thing,)
    assert kinds(model) == {unload}
    assert bool(comfy.model_management.current_loaded_models) is not unload


# -- in a graph ------------------------------------------------------------------------------------


def graph(strategy: str = "file-slice") -> dict[str, Any]:
    """A merge that is saved, with memory released and reported."""
    loader = {"ckpt_name": "sd15.safetensors"}
    return {
        "a": {"class_type": "CheckpointLoaderSimple", "inputs": loader},
        "b": {"class_type": "LoadStrategyCheckpoint", "inputs": {**loader, "strategy": strategy}},
        "merge": {
            "class_type": "ModelMergeSimple",
            "inputs": {"model1": ["a", 0], "model2": ["b", 0], "ratio": 0.5},
        },
        "release": {
            "class_type": "ReleaseMemory",
            "inputs": {"anything": ["merge", 0], "unload_models": True, "empty_caches": True},
        },
        "save": {
            "class_type": "ModelSave",
            "inputs": {"model": ["release", 0], "filename_prefix": "merged"},
        },
        "report": {
            "class_type": "MemoryReport",
            "inputs": {"anything": ["release", 0], "width": 256, "height": 256},
        },
    }


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, places: None) -> Graphs:
    files = ("nodes_loading", "nodes_model_merging")
    for node, (kind, _) in (pair for one in files for pair in node_listing.nodes_of(one).items()):
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node, kind)
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return Graphs()


def test_graph_merges_saves_releases_and_reports(graphs: Graphs, tmp_path: Path) -> None:
    assert graphs.run(graph())
    shown = graphs.executor.history_result["outputs"]["report"]
    assert len(shown["images"]) == 1
    (text,) = shown["text"]
    # Recorded from the start of the prompt: what was drawn before the node ran is in it.
    samples = int(text.splitlines()[0].split(", ")[1].removesuffix(" samples"))
    assert samples >= 2
    assert nodes_loading.RECORDINGS._current is None
    (path,) = (tmp_path / "output").iterdir()
    assert path.name == "merged_00001_.safetensors"


def test_second_run_reports_anew_and_saves_nothing(graphs: Graphs, tmp_path: Path) -> None:
    assert graphs.run(graph())
    assert graphs.run(graph())
    assert [node for node in graphs.ran() if node is not None] == ["report"]
    assert len(list((tmp_path / "output").iterdir())) == 1


def test_strategy_that_is_not_there_is_refused_before_anything_runs(graphs: Graphs) -> None:
    found = asyncio.run(execution.validate_prompt("p", graph("by-magic"), None))
    assert not found[0]
    assert "by-magic" in str(found[3]["b"])


def test_nodes_are_listed_under_their_names() -> None:
    listed = {node: name for node, (_, name) in node_listing.nodes_of("nodes_loading").items()}
    assert listed == {
        "LoadStrategyCheckpoint": "Load Strategy (Checkpoint)",
        "LoadStrategyDiffusionModel": "Load Strategy (Diffusion Model)",
        "MemoryReport": "Memory Report",
        "ReleaseMemory": "Release Memory",
    }

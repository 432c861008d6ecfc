"""Two checkpoints of full size merged and saved through the nodes: memory, and every value.

Nothing is at home while a merge is saved, so the bound is one output tensor, the staging, and the
slack of every bound here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import comfy.sd
import folder_paths
from comfy_extras.classic.loaders import CheckpointLoaderSimple
from comfy_extras.nodes_model_merging import CheckpointSave, CLIPMergeSimple, ModelMergeSimple
from support.cold import evict
from support.layouts import write_weights
from support.memory_cap import Measured, run_measured
from support.narrow import write_checkpoint
from support.whole_checkpoint import MIB, STAGING_BYTES, checkpoint_specs, extents

RATIO = 0.3
SLACK_BYTES = 64 * MIB
HALF_ULP = 2.0**-11
_CHUNK = 1 << 22
_NO_WEIGHT = "cond_stage_model.transformer.text_model.embeddings.position_ids"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("other") / "other.safetensors"
    yield write_weights(path, checkpoint_specs(), seed=2)
    path.unlink()


def merge_and_save(first: str, second: str, output: str) -> list[str]:
    """What a graph of five nodes does; gives the names of the files in the output folder."""
    for path in (first, second):
        folder_paths.add_model_folder_path("checkpoints", str(Path(path).parent))
    folder_paths.set_output_directory(output)
    with torch.inference_mode():
        loader = CheckpointLoaderSimple()
        model1, clip1, vae = loader.load_checkpoint(Path(first).name)
        model2, clip2, _ = loader.load_checkpoint(Path(second).name)
        (model,) = ModelMergeSimple().merge(model1, model2, RATIO)
        (clip,) = CLIPMergeSimple().merge(clip1, clip2, RATIO)
        CheckpointSave().save(model, clip, vae, "merged")
    return [path.name for path in Path(output).iterdir()]


def small_merge(folder: Path) -> dict[str, str]:
    """Arguments of a merge of narrow checkpoints."""
    first, second = (write_checkpoint(folder / f"{name}.safetensors") for name in "ab")
    output = folder / "output"
    output.mkdir()
    return {"first": str(first), "second": str(second), "output": str(output)}


@pytest.fixture(scope="module")
def merged(
    checkpoint: Path, other: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Measured, Path]]:
    folder = tmp_path_factory.mktemp("merged")
    for path in (checkpoint, other):
        evict(path)
    arguments = {"first": str(checkpoint), "second": str(other), "output": str(folder)}
    found = run_measured(
        merge_and_save,
        arguments=arguments,
        # Code and tables that come with the first merge are no weights.
        before=merge_and_save,
        before_arguments=small_merge(tmp_path_factory.mktemp("small")),
        # Where networks run on the CPU, weights may be at home on the host from the beginning.
        environment={"COMFY_LOAD_STRATEGY": "file-slice"},
        timeout_s=600.0,
    ).succeeded()
    yield found, folder / "merged_00001_.safetensors"
    for path in folder.iterdir():
        path.unlink()


def test_saving_a_merge_takes_one_output_tensor_above_what_is_at_home(
    merged: tuple[Measured, Path],
) -> None:
    found, path = merged
    assert found.result == [path.name]
    largest = max(spec.nbytes for spec in checkpoint_specs())
    assert found.peak_over_baseline_bytes <= largest + STAGING_BYTES + SLACK_BYTES


def opened(path: Path) -> Any:
    """Give what maps one tensor of a file, half precision."""
    places = extents(str(path))

    def tensor(name: str) -> np.ndarray:
        begin, end = places[name]
        return np.memmap(path, np.float16, "r", begin, ((end - begin) // 2,))

    return tensor


def test_every_value_is_that_of_the_formula(
    merged: tuple[Measured, Path], checkpoint: Path, other: Path
) -> None:
    first, second, result = (opened(path) for path in (checkpoint, other, merged[1]))
    names = {spec.name for spec in checkpoint_specs() if spec.name != _NO_WEIGHT}
    assert extents(str(merged[1])).keys() == names
    wrong = []
    for name in sorted(names):
        ratio = 1.0 if name.startswith("first_stage_model.") else RATIO
        a, b, got = first(name), second(name), result(name)
        assert got.shape == a.shape
        for begin in range(0, len(got), _CHUNK):
            part = slice(begin, begin + _CHUNK)
            exact = a[part] * np.float32(ratio) + b[part] * np.float32(1 - ratio)
            slack = np.abs(exact) * np.float32(HALF_ULP * 1.01) + np.float32(2.0**-24)
            if not np.all(np.abs(got[part] - exact) <= slack):
                wrong.append(name)
    assert wrong == []


def test_saved_merge_loads_without_a_missing_or_surplus_weight(
    merged: tuple[Measured, Path], caplog: pytest.LogCaptureFixture
) -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(merged[1]))
    assert model is not None
    assert clip is not None
    assert vae is not None
    vae.throw_exception_if_invalid()
    assert not [one.getMessage() for one in caplog.records if one.levelname == "WARNING"]

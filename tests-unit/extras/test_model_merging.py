"""Merging through the nodes: the formulas, in saved files and in loaded models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import comfy.model_management
import comfy.sd
from comfy.loading import FileTensor
from comfy_extras import nodes_model_merging as nodes
from comfy_extras.nodes_model_merging_model_specific import ModelMergeSD1
from support import narrow

Weights = Mapping[str, np.ndarray]

UNET = "model.diffusion_model."
TEXT = "cond_stage_model."
HALF_ULP = 2.0**-11


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("narrow")
    return [
        narrow.write_checkpoint(folder / f"{seed}.safetensors", "SD15", seed=seed)
        for seed in (1, 2)
    ]


@pytest.fixture(scope="module")
def weights(files: list[Path]) -> list[Weights]:
    return [load_file(path) for path in files]


@pytest.fixture
def models(files: list[Path]) -> Iterator[list[tuple[Any, ...]]]:
    yield [comfy.sd.load_checkpoint_guess_config(str(path))[:3] for path in files]
    comfy.model_management.unload_all_models()


def saved(output: Path) -> Weights:
    (path,) = output.rglob("*.safetensors")
    return load_file(path)


def check(got: Weights, wanted: Callable[[str], np.ndarray], prefix: str) -> None:
    """Compare every weight under a prefix with a formula in double precision."""
    keys = [key for key in got if key.startswith(prefix)]
    assert keys
    for key in keys:
        exact = wanted(key)
        # One rounding to half precision, and the roundings of the sum in single precision.
        slack = np.abs(exact) * HALF_ULP + 2.0**-14 * HALF_ULP + 1e-6
        assert np.all(np.abs(got[key].astype(np.float64) - exact) <= slack), key


def pair(weights: list[Weights], key: str) -> tuple[np.ndarray, np.ndarray]:
    first, second = (one[key].astype(np.float64) for one in weights)
    return first, second


@pytest.mark.parametrize(
    ("node", "arguments", "formula"),
    [
        (nodes.ModelMergeSimple, {"ratio": 0.25}, lambda a, b: 0.25 * a + 0.75 * b),
        (nodes.ModelMergeSimple, {"ratio": 1.0}, lambda a, b: a),
        (nodes.ModelMergeSimple, {"ratio": 0.0}, lambda a, b: b),
        (nodes.ModelMergeSubtract, {"multiplier": 1.5}, lambda a, b: 1.5 * (a - b)),
        (nodes.ModelMergeAdd, {}, lambda a, b: a + b),
    ],
)
def test_merged_model_is_saved_as_the_formula_says(
    node: Any,
    arguments: dict[str, Any],
    formula: Callable[[Any, Any], Any],
    models: list[Any],
    weights: list[Weights],
    output: Path,
) -> None:
    (merged,) = node().merge(model1=models[0][0], model2=models[1][0], **arguments)
    nodes.ModelSave().save(merged, "merged/m")
    got = saved(output)
    assert got.keys() == {key for key in weights[0] if key.startswith(UNET)}
    check(got, lambda key: formula(*pair(weights, key)), UNET)


@pytest.mark.parametrize(
    ("node", "arguments", "formula"),
    [
        (nodes.CLIPMergeSimple, {"ratio": 0.25}, lambda a, b: 0.25 * a + 0.75 * b),
        (nodes.CLIPMergeSubtract, {"multiplier": -2.0}, lambda a, b: -2.0 * (a - b)),
        (nodes.CLIPMergeAdd, {}, lambda a, b: a + b),
    ],
)
def test_merged_text_encoder_is_saved_as_the_formula_says(
    node: Any,
    arguments: dict[str, Any],
    formula: Callable[[Any, Any], Any],
    models: list[Any],
    weights: list[Weights],
    output: Path,
) -> None:
    (merged,) = node().merge(clip1=models[0][1], clip2=models[1][1], **arguments)
    nodes.CLIPSave().save(merged, "clip/te")
    (path,) = output.rglob("*.safetensors")
    assert path.name == "te_clip_l_00001_.safetensors"
    got = {f"{TEXT}transformer.{key}": value for key, value in load_file(path).items()}
    assert got.keys() == {key for key in weights[0] if key.startswith(TEXT)}
    check(got, lambda key: formula(*pair(weights, key)), TEXT)


def ratio_by_longest(key: str) -> float:
    name = key.removeprefix(UNET)
    for prefix, ratio in (("input", 0.2), ("middle", 0.5), ("out", 0.9)):
        if name.startswith(prefix):
            return ratio
    return 0.2


def ratio_by_part(key: str) -> float:
    name = key.removeprefix(UNET)
    for prefix, ratio in (("input_blocks.1.", 0.25), ("out.", 0.5), ("time_embed.", 0.75)):
        if name.startswith(prefix):
            return ratio
    return 1.0


def by_part() -> dict[str, float]:
    parts = dict.fromkeys(ModelMergeSD1.PARTS, 1.0)
    return {**parts, "input_blocks.1.": 0.25, "out.": 0.5, "time_embed.": 0.75}


@pytest.mark.parametrize(
    ("node", "ratios", "ratio_of"),
    [
        # The first that the node lists counts for the rest, in whatever order they come.
        (nodes.ModelMergeBlocks, {"out": 0.9, "middle": 0.5, "input": 0.2}, ratio_by_longest),
        (ModelMergeSD1, by_part(), ratio_by_part),
    ],
)
def test_each_block_is_merged_in_its_own_ratio(
    node: Any,
    ratios: dict[str, float],
    ratio_of: Callable[[str], float],
    models: list[Any],
    weights: list[Weights],
    output: Path,
) -> None:
    (merged,) = node().merge(model1=models[0][0], model2=models[1][0], **ratios)
    nodes.ModelSave().save(merged, "m")

    def formula(key: str) -> np.ndarray:
        (first, second), ratio = pair(weights, key), ratio_of(key)
        mixed: np.ndarray = ratio * first + (1 - ratio) * second
        return mixed

    check(saved(output), formula, UNET)


def test_longest_beginning_of_a_name_counts(models: list[Any]) -> None:
    ratios = {"middle": 0.5, "middle_block.1": 0.25, "middle_block": 0.75}
    (merged,) = nodes.ModelMergeBlocks().merge(models[0][0], models[1][0], **ratios)
    found = {
        key.removeprefix("diffusion_model.")[:14]: group[0][2]
        for key, group in merged.patches.items()
        if "middle_block" in key
    }
    assert found == {"middle_block.0": 0.75, "middle_block.1": 0.25, "middle_block.2": 0.75}


def test_difference_added_to_a_third_model_counts_its_own_patches(
    models: list[Any], weights: list[Weights], output: Path
) -> None:
    (first, *_), (second, *_) = models
    (difference,) = nodes.ModelMergeSubtract().merge(first, second, 0.5)
    (merged,) = nodes.ModelMergeAdd().merge(second, difference)
    nodes.ModelSave().save(merged, "m")

    def formula(key: str) -> np.ndarray:
        a, b = pair(weights, key)
        mixed: np.ndarray = b + 0.5 * (a - b)
        return mixed

    check(saved(output), formula, UNET)


def test_saved_weights_are_bit_for_bit_those_of_the_loaded_model(
    models: list[Any], output: Path
) -> None:
    (merged,) = nodes.ModelMergeSimple().merge(models[0][0], models[1][0], 0.3)
    nodes.ModelSave().save(merged, "m")
    got = saved(output)
    comfy.model_management.load_models_gpu([merged])
    loaded = merged.model.diffusion_model.state_dict()
    assert all(np.array_equal(got[UNET + key], value.numpy()) for key, value in loaded.items())


def test_whole_checkpoint_is_saved_and_loads_again(
    models: list[Any], weights: list[Weights], output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (first, clip1, vae), (second, clip2, _) = models
    (model,) = nodes.ModelMergeSimple().merge(first, second, 0.5)
    (clip,) = nodes.CLIPMergeSimple().merge(clip1, clip2, 0.5)
    assert nodes.CheckpointSave().save(model, clip, vae, "checkpoints/both") == {}
    (path,) = output.rglob("*.safetensors")
    assert path == output / "checkpoints" / "both_00001_.safetensors"
    got = load_file(path)
    assert got.keys() == weights[0].keys()
    check(got, lambda key: np.mean(pair(weights, key), axis=0), UNET)
    check(got, lambda key: np.mean(pair(weights, key), axis=0), TEXT)
    check(got, lambda key: pair(weights, key)[0], "first_stage_model.")
    caplog.clear()
    assert all(comfy.sd.load_checkpoint_guess_config(str(path))[:3])
    assert not [one for one in caplog.records if one.levelname == "WARNING"]


def in_file(model: Any) -> set[str]:
    return {
        key
        for key, value in model.model.state_dict().items()
        if isinstance(value, FileTensor) and value.is_in_file
    }


def test_saving_leaves_an_unloaded_model_as_it_was(models: list[Any], output: Path) -> None:
    (merged,) = nodes.ModelMergeSimple().merge(models[0][0], models[1][0], 0.5)
    before = (in_file(merged), dict(merged.patches), merged.patches_uuid)
    tensors = {key: id(value) for key, value in merged.model.named_parameters()}
    nodes.ModelSave().save(merged, "m")
    assert (in_file(merged), merged.patches, merged.patches_uuid) == before
    assert {key: id(value) for key, value in merged.model.named_parameters()} == tensors
    assert merged.loaded_size() == 0


def test_saving_leaves_a_loaded_model_patched_as_it_was(
    models: list[Any], weights: list[Weights], output: Path
) -> None:
    (first, *_), (second, *_) = models
    (loaded,) = nodes.ModelMergeSimple().merge(first, second, 0.25)
    comfy.model_management.load_models_gpu([loaded])
    before = {key: value.clone() for key, value in loaded.model.state_dict().items()}
    nodes.ModelSave().save(first, "unpatched")
    got = saved(output)
    assert all(np.array_equal(got[key], weights[0][key]) for key in got)
    after = loaded.model.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_weights_of_another_family_are_left_out_with_a_warning(
    models: list[Any], tmp_path: Path, output: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "inpaint.sft"
    narrow.write_checkpoint(other, "SD15-inpaint", seed=3)
    inpaint = comfy.sd.load_checkpoint_guess_config(str(other))[0]
    (merged,) = nodes.ModelMergeSimple().merge(models[0][0], inpaint, 0.5)
    nodes.ModelSave().save(merged, "m")
    assert "input_blocks.0.0.weight: a patch" in caplog.text
    assert saved(output)[f"{UNET}input_blocks.0.0.weight"].shape[1] == 4

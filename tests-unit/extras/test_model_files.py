"""Saved models: names, what is written into the head of a file, and what becomes of a failure."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import comfy.sd
import comfy.utils
from comfy import model_sampling, progress
from comfy.cli_args import args
from comfy.interrupts import InterruptProcessingException
from comfy.loading.errors import WeightSaveFailed
from comfy.model_base import ModelType
from comfy_extras import model_files
from comfy_extras import nodes_model_merging as nodes
from support import narrow

PROMPT = {"1": {"class_type": "CheckpointSave", "inputs": {}}}
WORKFLOW = {"workflow": {"nodes": [1]}}


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrow.write_checkpoint(tmp_path_factory.mktemp("in") / "xl.safetensors", "SDXL")


@pytest.fixture(scope="module")
def sd15(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return narrow.write_checkpoint(tmp_path_factory.mktemp("in") / "sd15.safetensors", "SD15")


def loaded(path: Path) -> tuple[Any, Any, Any]:
    return comfy.sd.load_checkpoint_guess_config(str(path))[:3]


def head(path: Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        found: dict[str, str] = file.metadata() or {}
        return found


def same(first: Path, second: Path) -> bool:
    one, other = load_file(first), load_file(second)
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def test_sdxl_is_saved_with_all_its_names_and_says_what_it_is(sdxl: Path, output: Path) -> None:
    nodes.CheckpointSave().save(*loaded(sdxl), "a/xl", prompt=PROMPT, extra_pnginfo=WORKFLOW)
    path = output / "a" / "xl_00001_.safetensors"
    assert same(path, sdxl)
    assert head(path) == {
        "modelspec.architecture": "stable-diffusion-xl-v1-base",
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.implementation": "sgm",
        "modelspec.title": "xl 1",
        "modelspec.predict_key": "epsilon",
        "prompt": json.dumps(PROMPT),
        "workflow": json.dumps(WORKFLOW["workflow"]),
    }


def test_next_file_has_the_next_number(sd15: Path, output: Path) -> None:
    model = loaded(sd15)[0]
    for _ in range(2):
        nodes.ModelSave().save(model, "m")
    assert sorted(path.name for path in output.iterdir()) == [
        "m_00001_.safetensors",
        "m_00002_.safetensors",
    ]
    assert head(output / "m_00002_.safetensors") == {"modelspec.predict_key": "epsilon"}


def test_graph_stays_out_of_files_if_the_user_wants_so(
    sd15: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(args, "disable_metadata", True)
    nodes.VAESave().save(loaded(sd15)[2], "v", PROMPT, WORKFLOW)
    assert head(output / "v_00001_.safetensors") == {}


def test_autoencoder_is_saved_under_its_own_names(sd15: Path, output: Path) -> None:
    nodes.VAESave().save(loaded(sd15)[2], "v", PROMPT, WORKFLOW)
    path, prefix = output / "v_00001_.safetensors", "first_stage_model."
    wanted = {key: one for key, one in load_file(sd15).items() if key.startswith(prefix)}
    got = load_file(path)
    assert {prefix + key for key in got} == wanted.keys()
    assert all(torch.equal(got[key.removeprefix(prefix)], one) for key, one in wanted.items())
    assert head(path).keys() == {"prompt", "workflow"}


def test_text_encoders_are_saved_apart_and_load_together(sdxl: Path, output: Path) -> None:
    clip = loaded(sdxl)[1]
    nodes.CLIPSave().save(clip, "te", PROMPT)
    paths = [output / f"te_{name}_00001_.safetensors" for name in ("clip_l", "clip_g")]
    assert sorted(output.iterdir()) == sorted(paths)
    assert all(head(path) == {"format": "pt", "prompt": json.dumps(PROMPT)} for path in paths)
    again = comfy.sd.load_clip([str(path) for path in paths])
    wanted, got = clip.cond_stage_model.state_dict(), again.cond_stage_model.state_dict()
    assert wanted.keys() == got.keys()
    assert all(torch.equal(wanted[key], got[key]) for key in wanted)


def _sampling(levels: type, prediction: type, **numbers: float) -> Any:
    made = type("Sampling", (levels, prediction), {})(None)
    if numbers:
        made.set_parameters(**numbers)
    return made


def _zero_snr() -> Any:
    kind = type("Sampling", (model_sampling.ModelSamplingDiscrete, model_sampling.V_PREDICTION), {})
    return kind(None, zsnr=True)


@pytest.mark.parametrize(
    ("sampling", "key", "marks", "kind"),
    [
        (
            _sampling(model_sampling.ModelSamplingDiscrete, model_sampling.V_PREDICTION),
            "v",
            {"v_pred"},
            ModelType.V_PREDICTION,
        ),
        (_zero_snr(), "v", {"v_pred", "ztsnr"}, ModelType.V_PREDICTION),
        (
            _sampling(
                model_sampling.ModelSamplingContinuousEDM,
                model_sampling.V_PREDICTION,
                sigma_min=0.004,
                sigma_max=99.0,
                sigma_data=1.0,
            ),
            "v",
            {"edm_vpred.sigma_max", "edm_vpred.sigma_min"},
            ModelType.V_PREDICTION_EDM,
        ),
        (
            _sampling(model_sampling.ModelSamplingDiscrete, model_sampling.X0),
            None,
            set(),
            ModelType.EPS,
        ),
    ],
    ids=["v", "v, zero snr", "v, EDM", "x0"],
)
def test_what_a_network_predicts_survives_saving(
    sampling: Any, key: str | None, marks: set[str], kind: ModelType, sdxl: Path, output: Path
) -> None:
    model = loaded(sdxl)[0].clone()
    model.add_object_patch("model_sampling", sampling)
    model_files.save_checkpoint(model, filename_prefix="m")
    path = output / "m_00001_.safetensors"
    assert head(path).get("modelspec.predict_key") == key
    assert {one for one in load_file(path) if not one.startswith("model.")} == marks
    again = loaded(path)[0].model
    assert again.model_type == kind
    if "ztsnr" in marks:
        assert again.model_sampling.zsnr
    if kind == ModelType.V_PREDICTION_EDM:
        assert float(again.model_sampling.sigma_max) == pytest.approx(99.0)


def test_full_disk_is_told_and_leaves_nothing_behind(
    sd15: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts, written = loaded(sd15), []

    def write(fd: int, data: memoryview) -> int:
        written.append(len(data))
        if len(written) > 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(fd, data)

    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", write)
        with pytest.raises(WeightSaveFailed, match=r"m_00001_\.safetensors.*Free some space"):
            nodes.CheckpointSave().save(*parts, "m")
    assert list(output.iterdir()) == []
    nodes.CheckpointSave().save(*parts, "m")
    assert same(output / "m_00001_.safetensors", sd15)


def test_stop_button_ends_a_save_and_leaves_nothing_behind(
    sd15: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[int, int]] = []

    def hook(value: int, total: int, preview: Any, node_id: Any = None) -> None:
        told.append((value, total))
        if len(told) == 3:
            raise InterruptProcessingException

    monkeypatch.setattr(progress, "HOOK_INTERVAL_S", 0.0)
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    parts = loaded(sd15)
    told.clear()
    with pytest.raises(InterruptProcessingException):
        nodes.CheckpointSave().save(*parts, "m")
    assert 0 < told[0][0] < told[1][0] < told[2][0] < told[2][1] <= sd15.stat().st_size
    assert list(output.iterdir()) == []

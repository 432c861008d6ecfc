"""Latents go to files with the graph in them, and come back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch

import folder_paths
from comfy.cli_args import args
from comfy_extras.classic.latent_files import LoadLatent, SaveLatent

SAMPLES = torch.randn((2, 4, 8, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    for name in ("output", "input", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    yield tmp_path


@pytest.mark.parametrize("samples", [SAMPLES, SAMPLES.transpose(2, 3), SAMPLES.half()])
def test_saved_latent_is_read_back_to_the_last_bit(samples: torch.Tensor) -> None:
    (record,) = SaveLatent().save({"samples": samples}, "latents/x")["ui"]["latents"]
    assert record == {"filename": "x_00001_.latent", "subfolder": "latents", "type": "output"}
    (loaded,) = LoadLatent().load("latents/x_00001_.latent [output]")
    assert torch.equal(loaded["samples"], samples.float())
    assert type(loaded["samples"]) is torch.Tensor


def test_file_is_what_other_programs_expect(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, workflow = {"1": {"class_type": "SaveLatent"}}, {"nodes": []}
    SaveLatent().save({"samples": SAMPLES}, "x", graph, {"workflow": workflow})
    monkeypatch.setattr(args, "disable_metadata", True)
    SaveLatent().save({"samples": SAMPLES}, "x", graph, {"workflow": workflow})
    with safetensors.safe_open(folders / "output" / "x_00001_.latent", "pt") as file:
        assert set(file.keys()) == {"latent_tensor", "latent_format_version_0"}
        assert file.get_tensor("latent_format_version_0").numel() == 0
        found = {key: json.loads(text) for key, text in file.metadata().items()}
        assert found == {"prompt": graph, "workflow": workflow}
    with safetensors.safe_open(folders / "output" / "x_00002_.latent", "pt") as file:
        assert not file.metadata()


def test_file_without_the_marker_holds_scaled_latents(folders: Path) -> None:
    safetensors.torch.save_file({"latent_tensor": SAMPLES}, folders / "input" / "old.latent")
    (loaded,) = LoadLatent().load("old.latent")
    assert torch.allclose(loaded["samples"], SAMPLES / 0.18215)


def test_file_of_something_else_is_told(folders: Path) -> None:
    safetensors.torch.save_file({"weight": SAMPLES}, folders / "input" / "lora.latent")
    with pytest.raises(ValueError, match=r"lora\.latent holds no latent.*SaveLatent"):
        LoadLatent().load("lora.latent")


def test_latents_at_the_top_of_the_input_folder_are_listed(folders: Path) -> None:
    for name in ("b.latent", "a.latent", "c.png"):
        (folders / "input" / name).write_bytes(b"")
    assert LoadLatent.INPUT_TYPES()["required"]["latent"][0] == ["a.latent", "b.latent"]
    assert LoadLatent.VALIDATE_INPUTS("a.latent") is True
    told = LoadLatent.VALIDATE_INPUTS("d.latent")
    assert str(told).startswith("there is no latent file 'd.latent'")


def test_replaced_file_has_another_hash(folders: Path) -> None:
    hashes = set()
    for content in (b"1", b"2"):
        (folders / "input" / "a.latent").write_bytes(content)
        hashes.add(LoadLatent.IS_CHANGED("a.latent"))
    assert len(hashes) == 2

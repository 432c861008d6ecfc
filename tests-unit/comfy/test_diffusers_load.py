"""Pipelines in folders give the models that a checkpoint with the same weights gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
from comfy import diffusers_load
from comfy.checkpoints import weights_of_network, weights_of_text_encoders, weights_of_vae
from comfy_extras.classic.old_loaders import CheckpointLoader, DiffusersLoader
from support import narrow

UNET, VAE = (f"{part}/diffusion_pytorch_model" for part in ("unet", "vae"))


def write(path: Path, state: dict[str, torch.Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: tensor.clone() for key, tensor in state.items()}, path)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrow checkpoint, and a pipeline with the same weights."""
    folder = tmp_path_factory.mktemp("models")
    checkpoint = narrow.write_checkpoint(folder / "whole.safetensors")
    whole, *_ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
    assert whole is not None
    to_own = comfy.utils.unet_to_diffusers(whole.model.model_config.unet_config)
    network = whole.model.diffusion_model.state_dict()
    state = comfy.utils.load_torch_file(str(checkpoint))

    def part(prefix: str) -> dict[str, torch.Tensor]:
        return {k.removeprefix(prefix): t for k, t in state.items() if k.startswith(prefix)}

    pipeline = folder / "diffusers" / "pets" / "cat"
    unet = {name: network[own] for name, own in to_own.items() if own in network}
    write(pipeline / f"{UNET}.fp16.safetensors", unet)
    write(pipeline / f"{VAE}.safetensors", part("first_stage_model."))
    text = part("cond_stage_model.transformer.")
    write(pipeline / "text_encoder" / "model.safetensors", text)
    (pipeline / diffusers_load.MARK).write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def places(models: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for key, path in (("diffusers", models / "diffusers"), ("checkpoints", models)):
        monkeypatch.setitem(
            folder_paths.folder_names_and_paths, key, ([str(path)], {".safetensors"})
        )
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    yield
    comfy.model_management.unload_all_models()


def weights(model: Any, clip: Any, vae: Any) -> dict[str, torch.Tensor]:
    parts = weights_of_network(model), weights_of_text_encoders(clip), weights_of_vae(vae)
    return {key: tensor for part in parts for key, tensor in part.items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_pipeline_is_listed_and_gives_the_weights_of_the_checkpoint(models: Path) -> None:
    assert DiffusersLoader.INPUT_TYPES()["required"]["model_path"] == (["pets/cat"],)
    whole = comfy.sd.load_checkpoint_guess_config(str(models / "whole.safetensors"))[:3]
    assert same(weights(*DiffusersLoader().load_checkpoint("pets/cat")), weights(*whole))


def test_link_back_up_shows_no_pipeline_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pets" / "cat").mkdir(parents=True)
    (tmp_path / "pets" / "cat" / diffusers_load.MARK).write_text("{}")
    (tmp_path / "pets" / "all").symlink_to(tmp_path)
    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusers", ([str(tmp_path)], {"folder"})
    )
    assert DiffusersLoader.INPUT_TYPES()["required"]["model_path"] == (["pets/cat"],)


def test_only_what_is_asked_for_is_made(models: Path) -> None:
    path = str(models / "diffusers" / "pets" / "cat")
    model, clip, vae = diffusers_load.load_diffusers(path, output_vae=False, output_clip=False)
    assert model is not None
    assert (clip, vae) == (None, None)


@pytest.mark.parametrize("part", ["unet", "vae", "text_encoder"])
def test_part_without_weights_is_named(models: Path, tmp_path: Path, part: str) -> None:
    for one in {"unet", "vae", "text_encoder"} - {part}:
        (tmp_path / one).symlink_to(models / "diffusers" / "pets" / "cat" / one)
    with pytest.raises(FileNotFoundError, match=rf"{part} holds no weights.*\.fp16\.safetensors"):
        diffusers_load.load_diffusers(str(tmp_path))


def test_pipeline_that_is_gone_is_named_with_the_folders(models: Path) -> None:
    with pytest.raises(FileNotFoundError, match=rf"pipeline pets/dog .*{models}/diffusers"):
        DiffusersLoader().load_checkpoint("pets/dog")


def test_checkpoint_with_a_configuration_is_seen_for_what_it_is(models: Path) -> None:
    assert CheckpointLoader.VALIDATE_INPUTS("v1-inference.yaml") is True
    loaded = CheckpointLoader().load_checkpoint("v1-inference.yaml", "whole.safetensors")
    whole = comfy.sd.load_checkpoint_guess_config(str(models / "whole.safetensors"))[:3]
    assert same(weights(*loaded), weights(*whole))

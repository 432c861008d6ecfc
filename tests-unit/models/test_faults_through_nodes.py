"""Faults between a file and its picture, met through the nodes as a graph does.

Each is one error or warning that names what is wrong; nothing is left behind, and the next
picture is the one that would have come without the fault, bit for bit.
"""

from __future__ import annotations

import gc
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import comfy.loading.default
import comfy.model_management
import folder_paths
import nodes
from comfy.loading.errors import NotEnoughMemory, WeightFileChanged
from support import layouts, managed, narrow
from support.simulated_device import SimulatedDevice

MIB = 1 << 20
NAME = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of all models, with a narrow checkpoint."""
    for kind in ("checkpoints", "vae", "loras"):
        known = folder_paths.folder_names_and_paths[kind][1]
        monkeypatch.setitem(folder_paths.folder_names_and_paths, kind, ([str(tmp_path)], known))
    narrow.write_checkpoint(tmp_path / NAME, seed=1)
    return tmp_path


@pytest.fixture(autouse=True)
def device(simgpu: SimulatedDevice) -> Iterator[SimulatedDevice]:
    """Everything runs on the simulated unified device, with little staging."""
    with managed.small_manager(simgpu.device, strategy="file-slice"):
        yield simgpu
        simgpu.reset()


def load(name: str = NAME) -> Any:
    return nodes.CheckpointLoaderSimple().load_checkpoint(name)


def encode(clip: Any, text: str) -> Any:
    return nodes.CLIPTextEncode().encode(clip, text)[0]


def prompts(loaded: Any) -> tuple[Any, Any]:
    return encode(loaded[1], "a red circle"), encode(loaded[1], "blurry")


def sample(loaded: Any, both: Any, latent: Any = None) -> Any:
    """A latent from the results of a loader node and its prompts."""
    empty = nodes.EmptyLatentImage().generate(32, 32, 1)[0] if latent is None else latent
    return nodes.KSampler().sample(loaded[0], 1, 2, 3.0, "euler", "normal", *both, empty)[0]


def draw(loaded: Any, both: Any = None) -> torch.Tensor:
    """A picture, [1, 32, 32, 3]."""
    with torch.inference_mode():
        latent = sample(loaded, both or prompts(loaded))
        (picture,) = nodes.VAEDecode().decode(loaded[2], latent)
    assert torch.isfinite(picture).all()
    assert picture.std() > 0
    return picture.clone()


def replace(folder: Path, seed: int) -> None:
    """Another checkpoint takes the place of the one that is there."""
    os.replace(narrow.write_checkpoint(folder / "new.tmp", seed=seed), folder / NAME)


# -- a file replaced between two prompts -----------------------------------------------------------


def test_replaced_file_is_refused_by_name_and_loading_it_again_draws_what_is_in_it(
    folder: Path, device: SimulatedDevice
) -> None:
    narrow.write_checkpoint(folder / "undisturbed.safetensors", seed=2)
    wanted = draw(load("undisturbed.safetensors"))
    kept = load()
    first = draw(kept)
    comfy.model_management.unload_all_models()
    replace(folder, seed=2)
    with pytest.raises(WeightFileChanged, match=NAME) as caught:
        draw(kept)
    assert caught.value.path == str(folder / NAME)
    again = draw(load())
    assert torch.equal(again, wanted)
    assert not torch.equal(again, first)


def test_what_is_at_home_on_the_device_outlives_its_file(folder: Path) -> None:
    kept = load()
    first = draw(kept)
    replace(folder, seed=2)
    assert torch.equal(draw(kept), first)
    draw(load())
    comfy.model_management.unload_all_models()
    with pytest.raises(WeightFileChanged, match=NAME):
        draw(kept)


# -- a full device ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def drawn() -> list[torch.Tensor]:
    """The picture, once it has been drawn."""
    return []


@pytest.fixture
def undisturbed(folder: Path, device: SimulatedDevice, drawn: list[torch.Tensor]) -> torch.Tensor:
    """What a device with room draws; it is empty again afterwards."""
    if not drawn:
        drawn.append(draw(load()))
        comfy.model_management.unload_all_models()
        device.reset()
    return drawn[0]


def test_device_without_room_is_one_error_with_numbers_until_it_has_room(
    undisturbed: torch.Tensor, device: SimulatedDevice
) -> None:
    loaded = load()
    gc.collect()
    before = device.allocated_bytes
    device.capacity_bytes = before + 1000
    with pytest.raises(NotEnoughMemory) as caught:
        draw(loaded)
    assert caught.value.need > caught.value.available
    assert re.search(r"needs [\d,]+ (bytes|.iB) .* are free", str(caught.value))
    assert comfy.model_management.current_loaded_models == []
    assert device.allocated_bytes == before
    device.capacity_bytes = None
    assert torch.equal(draw(loaded), undisturbed)


@pytest.mark.parametrize("nth", [7, 30, 60])
def test_device_full_half_way_is_tried_again_and_draws_the_same(
    undisturbed: torch.Tensor,
    device: SimulatedDevice,
    caplog: pytest.LogCaptureFixture,
    nth: int,
) -> None:
    loaded = load()
    both = prompts(loaded)
    device.fail_allocation(nth)
    with caplog.at_level(logging.WARNING):
        picture = draw(loaded, both)
    assert "simgpu:0 is full" in caplog.text
    assert torch.equal(picture, undisturbed)


def test_vae_loader_says_what_a_checkpoint_is(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="looks like a checkpoint: load it with Checkpoint"):
        nodes.VAELoader().load_vae(NAME)


# -- files and latents that are not as they should be ----------------------------------------------


def test_checkpoint_without_its_vae_names_the_node_to_load_one_and_draws_with_that(
    undisturbed: torch.Tensor, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = folder / "bare.safetensors"
    narrow.write_checkpoint(path, seed=1, without=("first_stage_model.",))
    with caplog.at_level(logging.WARNING):
        model, clip, vae = load(path.name)
    assert "bare.safetensors holds no VAE: load one with VAELoader" in caplog.text
    with pytest.raises(RuntimeError, match=r"(?s)bare\.safetensors.*VAE"):
        draw((model, clip, vae))
    part = "first_stage_model."
    state = load_file(folder / NAME)
    vae_only = {k.removeprefix(part): v for k, v in state.items() if k.startswith(part)}
    save_file(vae_only, folder / "vae.safetensors")
    (other,) = nodes.VAELoader().load_vae("vae.safetensors")
    assert torch.equal(draw((model, clip, other)), undisturbed)


def test_lora_of_another_family_is_named_and_changes_nothing(
    undisturbed: torch.Tensor, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    published = layouts.layout("lora_flux_kohya_r16").tensors.values()
    specs = [spec for spec in published if "double_blocks_0_" in spec.name]
    layouts.write_weights(folder / "flux.safetensors", specs)
    model, clip, vae = load()
    with caplog.at_level(logging.WARNING):
        patched = nodes.LoraLoader().load_lora(model, clip, "flux.safetensors", 1.0, 1.0)
    assert "lora_unet_double_blocks_0_img_attn_proj" in caplog.text
    assert torch.equal(draw((*patched, vae)), undisturbed)


def test_nan_in_a_latent_is_told_and_the_next_picture_is_sound(
    undisturbed: torch.Tensor, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = load()
    (latent,) = nodes.EmptyLatentImage().generate(32, 32, 1)
    broken = {**latent, "samples": latent["samples"].clone()}
    broken["samples"][0, 0, 3, 3] = float("nan")
    with caplog.at_level(logging.WARNING):
        made = sample(loaded, prompts(loaded), broken)
    assert "NaN first at step 1 of 2" in caplog.text
    with torch.inference_mode():
        nodes.VAEDecode().decode(loaded[2], made)
    assert torch.equal(draw(loaded), undisturbed)

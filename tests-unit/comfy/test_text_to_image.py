"""From a prompt to a picture with narrow checkpoints, on the CPU and on a simulated device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import comfy.loading
import comfy.model_management
import comfy.sample
import comfy.sd
from support import managed, narrow
from support.simulated_device import SimulatedDevice


@pytest.fixture(autouse=True)
def _own_models() -> Iterator[None]:
    with managed.file_slices():
        yield
    comfy.model_management.set_run_device(None)


@torch.inference_mode()
def _draw(path: Path, device: torch.device | str) -> torch.Tensor:
    comfy.model_management.set_run_device(device)
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    assert model is not None
    assert clip is not None
    assert vae is not None
    positive = clip.encode_from_tokens_scheduled(clip.tokenize("a red (circle:1.2)"))
    negative = clip.encode_from_tokens_scheduled(clip.tokenize(""))
    latent = torch.zeros(1, 4, 8, 8)
    noise = comfy.sample.prepare_noise(latent, 7)
    samples = comfy.sample.sample(
        model,
        noise,
        2,
        3.0,
        "euler",
        "normal",
        positive,
        negative,
        latent,
        seed=7,
        disable_pbar=True,
    )
    return vae.decode(samples / samples.std())


@pytest.mark.parametrize("family", ["SD15", "SD15-inpaint", "SD20", "SDXL", "SDXLRefiner"])
def test_picture_is_finite_and_not_flat(family: str, tmp_path: Path) -> None:
    picture = _draw(narrow.write_checkpoint(tmp_path / "m.safetensors", family), "cpu")
    assert picture.shape == (1, 64, 64, 3)
    assert torch.isfinite(picture).all()
    assert picture.std() > 0.01


@pytest.mark.parametrize("family", ["SD15", "SDXL"])
def test_simulated_device_draws_what_the_cpu_draws(
    family: str, tmp_path: Path, simgpu: SimulatedDevice
) -> None:
    path = narrow.write_checkpoint(tmp_path / "m.safetensors", family)
    on_cpu = _draw(path, "cpu")
    comfy.model_management.unload_all_models()
    on_device = _draw(path, simgpu.device)
    assert simgpu.counters.uploaded_bytes > 0
    assert torch.allclose(on_cpu, on_device, atol=1e-4)

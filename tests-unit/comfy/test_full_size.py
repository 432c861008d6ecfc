"""SD 1.5 at full size, weights made up: text, one step of the network, a picture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import comfy.loading
import comfy.model_management
import comfy.sd
from support import layouts, managed


@pytest.mark.slow
@torch.inference_mode()
def test_all_parts_of_sd15_answer_with_finite_numbers(tmp_path: Path) -> None:
    specs = list(layouts.layout("sd15_checkpoint_fp16").tensors.values())
    path = layouts.write_weights(tmp_path / "sd15.safetensors", specs)
    with managed.file_slices():
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
        assert model is not None
        assert clip is not None
        assert vae is not None
        text = clip.encode("a cat")
        comfy.model_management.load_models_gpu([model])
        latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
        denoised = model.model.apply_model(latent, torch.tensor([5.0]), c_crossattn=text)
        picture = vae.decode(latent)
    assert (text.shape, denoised.shape) == ((1, 77, 768), (1, 4, 16, 16))
    assert picture.shape == (1, 128, 128, 3)
    for result in (text, denoised, picture):
        assert torch.isfinite(result).all()
        assert result.std() > 0

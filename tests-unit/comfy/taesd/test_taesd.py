"""TAESD: equals diffusers', knows its published files, says which file is wrong."""

from __future__ import annotations

from pathlib import Path

import diffusers
import pytest
import safetensors.torch
import torch

import comfy.utils
from comfy.taesd import taesd
from comfy.taesd.taesd import TAESD
from support import layouts
from support.networks import relative_difference, with_random_weights


def reference(channels: int = 4) -> diffusers.AutoencoderTiny:
    return with_random_weights(diffusers.AutoencoderTiny(latent_channels=channels))


def bare(sd: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    """Indices as in the published files; diffusers does not count the decoder's first layer."""
    shift = 1 if part == "decoder" else 0
    names = [key.removeprefix(f"{part}.layers.") for key in sd if key.startswith(part)]
    parts = {name: name.partition(".") for name in names}
    return {
        f"{int(index) + shift}.{rest}": sd[f"{part}.layers.{name}"]
        for name, (index, _, rest) in parts.items()
    }


def saved(folder: Path, network: diffusers.AutoencoderTiny) -> dict[str, str]:
    paths = {}
    for part in ("encoder", "decoder"):
        path = folder / f"taesd_{part}.safetensors"
        safetensors.torch.save_file(bare(network.state_dict(), part), path)
        paths[part] = str(path)
    return paths


def picture() -> torch.Tensor:
    return torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("channels", [4, 16])
def test_it_computes_what_diffusers_computes(channels: int, tmp_path: Path) -> None:
    theirs = reference(channels)
    paths = saved(tmp_path, theirs)
    ours = TAESD(paths["encoder"], paths["decoder"], latent_channels=channels)
    z = torch.randn(2, channels, 2, 3, generator=torch.Generator().manual_seed(2)) * 3
    with torch.no_grad():
        assert relative_difference(ours.encode(picture()), theirs.encode(picture()).latents) <= 1e-4
        assert relative_difference(ours.decode(z), theirs.decode(z).sample) <= 1e-4


def test_latents_are_scaled_and_shifted_between_the_model_and_the_file() -> None:
    network = with_random_weights(TAESD())
    network.vae_scale.data.fill_(1.0)
    network.vae_shift.data.fill_(0.0)
    x, z = picture(), torch.randn(2, 4, 2, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        plain_latent, plain_image = network.encode(x), network.decode(z)
        network.vae_scale.data.fill_(0.25)
        network.vae_shift.data.fill_(0.5)
        assert relative_difference(network.encode(x), plain_latent / 0.25 + 0.5) <= 1e-6
        assert relative_difference(network.decode(z / 0.25 + 0.5), plain_image) <= 1e-4


def test_by_default_latents_are_the_diffusion_models() -> None:
    network = TAESD()
    assert (network.vae_scale.item(), network.vae_shift.item()) == (1.0, 0.0)


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_all_keys_and_shapes_of_published_files_are_known(part: str) -> None:
    sd = layouts.layout(f"taesd_{part}").state_dict()
    assert len(sd) == 67
    network = getattr(taesd, part.capitalize())()
    result = network.load_state_dict(sd, assign=True)
    assert result.missing_keys == result.unexpected_keys == []


def test_files_are_loaded_by_the_function_that_packs_replace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = saved(tmp_path, reference())
    loaded = []
    original = comfy.utils.load_torch_file

    def spy(path: str, **kwargs: object) -> object:
        loaded.append(path)
        return original(path, **kwargs)

    monkeypatch.setattr(comfy.utils, "load_torch_file", spy)
    TAESD(None, paths["decoder"])
    assert loaded == [paths["decoder"]]
    TAESD(paths["encoder"])
    assert loaded[1:] == [paths["encoder"]]


def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    paths = saved(tmp_path, reference())
    with pytest.raises(ValueError, match=r"taesd_encoder\.safetensors does not hold"):
        TAESD(None, paths["encoder"])
    with pytest.raises(ValueError, match=r"taesd_decoder\.safetensors does not hold"):
        TAESD(None, paths["decoder"], latent_channels=16)

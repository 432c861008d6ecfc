"""The VAE object: pictures to latents and back, whole or in tiles, and state dicts that are none."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import torch

import comfy.model_management
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.state_loading import IncompleteModel
from comfy.vae import VAE
from comfy.vae_runs import mean_of_tilings, whole_or_tiled
from support import layouts, narrow
from support.layouts import synthetic
from support.raw_files import Spec


@pytest.fixture(autouse=True)
def _nothing_stays_loaded() -> Iterator[None]:
    yield
    comfy.model_management.unload_all_models()


def _weights() -> dict[str, torch.Tensor]:
    generator = layouts.np.random.default_rng(3)
    return {
        key: synthetic(Spec(key, "F32", tuple(tensor.shape)), generator)
        for key, tensor in narrow.vae_on_meta("").items()
    }


@pytest.fixture
def vae() -> VAE:
    return VAE(sd=_weights())


def _network() -> AutoencoderKL:
    network = AutoencoderKL(4, narrow.NARROW_VAE)
    network.load_state_dict(_weights())
    return network


@torch.no_grad()
def test_pictures_are_what_the_network_decodes_between_0_and_1(vae: VAE) -> None:
    latents = torch.randn(2, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    got = vae.decode(latents)
    wanted = ((_network().decode(latents) + 1) / 2).clamp(0, 1).movedim(1, -1)
    assert got.shape == (2, 32, 48, 3)
    assert got.dtype == torch.float32
    assert torch.allclose(got, wanted, atol=1e-5)


@torch.no_grad()
def test_latents_are_what_the_network_encodes_of_minus_1_to_1(vae: VAE) -> None:
    pixels = torch.rand(2, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    got = vae.encode(pixels)
    wanted = _network().encode(pixels.movedim(-1, 1) * 2 - 1)
    assert got.shape == (2, 4, 4, 6)
    assert torch.allclose(got, wanted, atol=1e-4 * float(wanted.abs().max()))


@pytest.mark.parametrize(
    ("size", "first"), [((33, 50), (0, 1)), ((32, 48), (0, 0)), ((39, 55), (3, 3))]
)
def test_pictures_are_cut_evenly_to_whole_positions(
    vae: VAE, size: tuple[int, int], first: tuple[int, int]
) -> None:
    rows, columns = torch.meshgrid(*(torch.arange(n) for n in size), indexing="ij")
    pixels = torch.stack([rows, columns, rows], dim=-1)[None].float()
    cut = vae.vae_encode_crop_pixels(pixels)
    assert cut.shape == (1, 32, 48, 3)
    assert (int(cut[0, 0, 0, 0]), int(cut[0, 0, 0, 1])) == first


def test_tiles_of_a_constant_picture_are_constant(vae: VAE) -> None:
    samples = torch.ones(1, 4, 20, 36)

    def repeated(part: torch.Tensor) -> torch.Tensor:
        return part[:, :3].repeat_interleave(8, -1).repeat_interleave(8, -2)

    mean = mean_of_tilings(samples, repeated, (16, 16, 4), upscale_amount=8, out_channels=3)
    assert mean.shape == (1, 3, 160, 288)
    assert torch.allclose(mean, torch.ones(1), atol=1e-5)


def test_what_fits_into_a_tile_is_decoded_as_a_whole(vae: VAE) -> None:
    latents = torch.randn(1, 4, 4, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(vae.decode_tiled(latents, 8, 8, 2), vae.decode(latents))


def test_tiles_have_the_size_of_the_whole(vae: VAE) -> None:
    assert vae.decode_tiled(torch.zeros(1, 4, 10, 20), 8, 8, 2).shape == (1, 80, 160, 3)
    assert vae.encode_tiled(torch.zeros(1, 80, 160, 3), 64, 64, 16).shape == (1, 4, 10, 20)


def _run(free: int, fails_above: int) -> tuple[torch.Tensor, list[Any]]:
    """Run with a network of one byte per element, on a device that fails above a size."""
    calls: list[Any] = []

    def on_batch(part: torch.Tensor) -> torch.Tensor:
        calls.append(("whole", part.shape[0]))
        if part.shape[-1] > fails_above:
            raise comfy.model_management.OOM_EXCEPTION("full")
        return part + 1

    def in_tiles(side: int) -> torch.Tensor:
        calls.append(side)
        if side > fails_above:
            raise comfy.model_management.OOM_EXCEPTION("full")
        return samples + 1

    samples = torch.zeros(3, 1, 100, 100)
    result = whole_or_tiled(
        samples, lambda h, w: h * w, free, on_batch, in_tiles, (128, 64, 32, 16)
    )
    return result, calls


@pytest.mark.parametrize(
    ("free", "fails_above", "calls"),
    [
        (30_000, 1000, [("whole", 3)]),
        (20_000, 1000, [("whole", 2), ("whole", 1)]),
        (9_999, 1000, [64]),
        (4_000, 1000, [32]),
        (10, 1000, [16]),
        (30_000, 64, [("whole", 3), 64]),
        (30_000, 32, [("whole", 3), 64, 32]),
    ],
)
def test_run_is_as_whole_as_the_free_memory_allows(
    free: int, fails_above: int, calls: list[Any]
) -> None:
    result, made = _run(free, fails_above)
    assert made == calls
    assert torch.equal(result, torch.ones(3, 1, 100, 100))


def test_device_too_small_for_any_tile_says_so() -> None:
    with pytest.raises(comfy.model_management.OOM_EXCEPTION, match="full"):
        _run(30_000, 8)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("clip_l_fp16", "looks like a text encoder"),
        ("qwen_image_vae_wan21_bf16", "Wan or Qwen autoencoder .* not supported yet"),
        ("ae_flux2_fp32", "Flux 2's autoencoder .* not supported yet"),
    ],
)
def test_state_dict_that_is_no_vae_makes_an_invalid_one_that_says_why(
    name: str, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        vae = VAE(sd=layouts.layout(name).state_dict())
    assert vae.first_stage_model is None
    with pytest.raises(RuntimeError, match=f"The VAE is invalid: .*{told}"):
        vae.encode(torch.zeros(1, 8, 8, 3))


@pytest.mark.parametrize(
    "key", ["encoder.conv_in.weight", "decoder.conv_in.weight", "post_quant_conv.weight"]
)
def test_vae_with_a_tensor_of_an_impossible_shape_is_damaged(key: str) -> None:
    with pytest.raises(IncompleteModel, match=r"x\.safetensors: VAE is damaged"):
        VAE(sd={**narrow.vae_on_meta(""), key: torch.zeros(())}, origin="x.safetensors")


def test_incomplete_vae_names_what_is_missing() -> None:
    weights = _weights()
    del weights["decoder.conv_in.bias"]
    with pytest.raises(IncompleteModel, match=r"decoder\.conv_in\.bias"):
        VAE(sd=weights, origin="x.safetensors")


@pytest.mark.parametrize(
    ("name", "channels"), [("vae_ft_mse_840000_fp32", 4), ("ae_flux_fp32", 16)]
)
def test_published_vae_is_recognised(name: str, channels: int) -> None:
    vae = VAE(sd=layouts.layout(name).state_dict())
    vae.throw_exception_if_invalid()
    assert (vae.latent_channels, vae.downscale_ratio) == (channels, 8)


def test_taesd_is_a_vae() -> None:
    generator = layouts.np.random.default_rng(0)
    sd = {
        f"{part}.{key}": synthetic(spec, generator)
        for part in ("taesd_encoder", "taesd_decoder")
        for key, spec in layouts.layout(part).tensors.items()
    }
    sd["vae_scale"], sd["vae_shift"] = torch.tensor(0.18215), torch.tensor(0.0)
    vae = VAE(sd=sd)
    assert vae.decode(torch.zeros(1, 4, 2, 3)).shape == (1, 16, 24, 3)
    assert vae.encode(torch.zeros(1, 16, 24, 3)).shape == (1, 4, 2, 3)

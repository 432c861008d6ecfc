"""Noise from seeds, and latents made to fit a model."""

from __future__ import annotations

import pytest
import torch

import comfy.sample
from comfy import latent_formats

SHAPE = (3, 4, 5, 6)


class Model:
    """Knows a latent format and nothing else."""

    def __init__(self, latent_format: object) -> None:
        self.latent_format = latent_format

    def get_model_object(self, name: str) -> object:
        return getattr(self, name)


def drawn(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", [0, 7, 2**63 + 5, 2**64 - 1])
def test_noise_is_that_of_the_seed(seed: int) -> None:
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), seed)
    assert torch.equal(noise, drawn(seed, *SHAPE))
    assert torch.equal(noise, comfy.sample.prepare_noise(torch.ones(SHAPE), seed))


def test_global_generator_is_seeded() -> None:
    comfy.sample.prepare_noise(torch.zeros(SHAPE), 5)
    assert torch.initial_seed() == 5


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_noise_has_the_latents_dtype(dtype: torch.dtype) -> None:
    assert comfy.sample.prepare_noise(torch.zeros(SHAPE, dtype=dtype), 1).dtype == dtype


def test_rows_of_a_batch_keep_the_noise_of_their_index() -> None:
    noise = comfy.sample.prepare_noise(torch.zeros(SHAPE), 3, [4, 0, 4])
    all_rows = torch.Generator().manual_seed(3)
    rows = [torch.randn(1, 4, 5, 6, generator=all_rows) for _ in range(5)]
    assert torch.equal(noise, torch.cat([rows[4], rows[0], rows[4]]))


@pytest.mark.parametrize(
    ("latent", "latent_format", "shape"),
    [
        (torch.zeros(2, 4, 8, 8), latent_formats.SD15(), (2, 4, 8, 8)),
        (torch.zeros(2, 4, 8, 8), latent_formats.Flux(), (2, 16, 8, 8)),
        (torch.ones(2, 4, 8, 8), latent_formats.Flux(), (2, 4, 8, 8)),
        (torch.zeros(2, 4, 8, 8), latent_formats.Wan21(), (2, 16, 1, 8, 8)),
    ],
    ids=["same", "more channels", "not empty", "film"],
)
def test_empty_latent_gets_the_models_channels(
    latent: torch.Tensor, latent_format: object, shape: tuple[int, ...]
) -> None:
    assert comfy.sample.fix_empty_latent_channels(Model(latent_format), latent).shape == shape


def test_deprecated_preparation_hands_back_what_it_got() -> None:
    assert comfy.sample.prepare_sampling(1, (1, 2), 3, 4, 5) == (1, 3, 4, 5, [])
    comfy.sample.cleanup_additional_models([object()])

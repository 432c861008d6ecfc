"""Latent formats: there and back, with the families' numbers."""

from __future__ import annotations

import pytest
import torch

from comfy import latent_formats

FORMATS = [
    kind
    for kind in vars(latent_formats).values()
    if isinstance(kind, type)
    and issubclass(kind, latent_formats.LatentFormat)
    and not kind.__name__.startswith("_")
]


@pytest.mark.parametrize("kind", FORMATS)
def test_out_undoes_in(kind: type[latent_formats.LatentFormat]) -> None:
    form = kind()
    latent = torch.randn(2, form.latent_channels, *[3] * form.latent_dimensions).double()
    assert torch.allclose(form.process_out(form.process_in(latent)), latent)


@pytest.mark.parametrize(
    ("kind", "channels", "scaled"),
    [
        (latent_formats.SD15, 4, 0.18215 * 2),
        (latent_formats.SDXL, 4, 0.13025 * 2),
        (latent_formats.SD3, 16, (2 - 0.0609) * 1.5305),
        (latent_formats.Flux, 16, (2 - 0.1159) * 0.3611),
        (latent_formats.Flux2, 128, 2.0),
        (latent_formats.SD_X4, 4, 0.08333 * 2),
        (latent_formats.SC_B, 4, 2 / 0.43),
        (latent_formats.HunyuanVideo, 16, 0.476986 * 2),
        (latent_formats.SDXL_Playground_2_5, 4, (2 + 1.6574) * 0.5 / 8.4927),
        (latent_formats.Wan21, 16, (2 + 0.7571) / 2.8184),
    ],
)
def test_numbers_are_those_of_the_family(
    kind: type[latent_formats.LatentFormat], channels: int, scaled: float
) -> None:
    form = kind()
    latent = torch.full((1, channels, *[2] * form.latent_dimensions), 2.0)
    assert form.latent_channels == channels
    assert form.process_in(latent)[0, 0].flatten()[0].item() == pytest.approx(scaled, rel=1e-5)


@pytest.mark.parametrize("kind", FORMATS)
def test_colours_fit_the_channels(kind: type[latent_formats.LatentFormat]) -> None:
    factors = kind.latent_rgb_factors
    if factors is not None:
        assert len(factors) == kind.latent_channels
        assert {len(row) for row in factors} == {3}

"""Patches of a UNet, on a narrow one that samples: what changes nothing, and what changes as told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

import nodes
from comfy_extras import (
    nodes_attention_multiply,
    nodes_differential_diffusion,
    nodes_freelunch,
    nodes_hypertile,
    nodes_model_downscale,
    nodes_pag,
    nodes_perpneg,
    nodes_rope,
    nodes_sag,
    nodes_slg,
    nodes_tomesd,
)
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.guidance.spectrum import scale_frequencies

GENERATOR = torch.Generator().manual_seed(6)


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


@pytest.fixture(scope="module")
def plain(sd15: Any) -> Any:
    return sd15.sample(sd15.model)


NOTHING = {
    "FreeU": lambda m: nodes_freelunch.FreeU.execute(m, 1.0, 1.0, 1.0, 1.0),
    "FreeU_V2": lambda m: nodes_freelunch.FreeU_V2.execute(m, 1.0, 1.0, 1.0, 1.0),
    "PAG": lambda m: nodes_pag.PerturbedAttentionGuidance.execute(m, 0.0),
    "SAG": lambda m: nodes_sag.SelfAttentionGuidance.execute(m, 0.0, 2.0),
    "ToMe": lambda m: nodes_tomesd.TomePatchModel.execute(m, 0.0),
    "HyperTile": lambda m: nodes_hypertile.HyperTile.execute(m, 2048, 2, 0, False),
    "downscale": lambda m: nodes_model_downscale.PatchModelAddDownscale.execute(
        m, 1, 1.0, 0.0, 1.0, True, "bicubic", "bicubic"
    ),
    "downscale later": lambda m: nodes_model_downscale.PatchModelAddDownscale.execute(
        m, 1, 2.0, 1.0, 1.0, True, "bicubic", "bicubic"
    ),
    "ROPE": lambda m: nodes_rope.ScaleROPE.execute(m, 2.0, 1.0, 2.0, 1.0, 1.0, 0.0),
    "attention": lambda m: nodes_attention_multiply.UNetSelfAttentionMultiply.execute(
        m, 1, 1, 1, 1
    ),
    "frames": lambda m: nodes_attention_multiply.UNetTemporalAttentionMultiply.execute(
        m, 1.0, 5.0, 1.0, 5.0
    ),
    "no layers": lambda m: nodes_slg.SkipLayerGuidanceDiT.execute(m, 3.0, 0.0, 1.0, "", ""),
}

SOMETHING = {
    "FreeU": lambda m: nodes_freelunch.FreeU.execute(m, 1.3, 1.4, 0.5, 0.2),
    "FreeU_V2": lambda m: nodes_freelunch.FreeU_V2.execute(m, 1.3, 1.4, 0.5, 0.2),
    "PAG": lambda m: nodes_pag.PerturbedAttentionGuidance.execute(m, 3.0),
    "SAG": lambda m: nodes_sag.SelfAttentionGuidance.execute(m, 0.7, 2.0),
    "ToMe": lambda m: nodes_tomesd.TomePatchModel.execute(m, 0.5),
    "HyperTile": lambda m: nodes_hypertile.HyperTile.execute(m, 32, 1, 0, False),
    "downscale": lambda m: nodes_model_downscale.PatchModelAddDownscale.execute(
        m, 1, 2.0, 0.0, 1.0, True, "bicubic", "bicubic"
    ),
    "downscale before skip": lambda m: nodes_model_downscale.PatchModelAddDownscale.execute(
        m, 1, 2.0, 0.0, 1.0, False, "area", "bilinear"
    ),
    "self": lambda m: nodes_attention_multiply.UNetSelfAttentionMultiply.execute(m, 1, 1, 2, 1),
    "cross": lambda m: nodes_attention_multiply.UNetCrossAttentionMultiply.execute(m, 1, 1, 2, 1),
    "structural": lambda m: nodes_attention_multiply.UNetTemporalAttentionMultiply.execute(
        m, 2.0, 1.0, 1.0, 1.0
    ),
}


@pytest.mark.parametrize("name", NOTHING)
def test_patch_that_asks_for_nothing_changes_nothing(sd15: Any, plain: Any, name: str) -> None:
    assert _same(sd15.sample(NOTHING[name](sd15.model)[0]), plain)


@pytest.mark.parametrize("name", SOMETHING)
def test_patch_changes_a_clone_and_the_same_way_each_time(sd15: Any, plain: Any, name: str) -> None:
    patched = SOMETHING[name](sd15.model)[0]
    made = sd15.sample(patched)
    assert made.isfinite().all()
    assert not _same(made, plain)
    assert torch.equal(sd15.sample(patched), made)
    assert _same(sd15.sample(sd15.model), plain)


def test_perturbed_pass_is_added_by_its_scale(sd15: Any) -> None:
    one, two, plain = (
        sd15.estimate(nodes_pag.PerturbedAttentionGuidance.execute(sd15.model, s)[0])
        for s in (1.0, 2.0, 0.0)
    )
    assert _same(two - plain, (one - plain) * 2)


def test_perp_neg_guider_is_its_formula(sd15: Any) -> None:
    empty = sd15.encode("")
    prompts = (sd15.positive, sd15.negative, empty)
    guider = nodes_perpneg.PerpNegGuider.execute(sd15.model, *prompts, 4.0, 1.5)[0]
    alone = [
        sd15.estimate(sd15.model, custom.BasicGuider.execute(sd15.model, prompt)[0])
        for prompt in prompts
    ]
    made = sd15.estimate(sd15.model, guider)
    assert _same(made, nodes_perpneg.perp_neg(*alone, 1.5, 4.0))
    patched = nodes_perpneg.PerpNeg.execute(sd15.model, empty, 1.5)[0]
    older = custom.CFGGuider.execute(patched, sd15.positive, sd15.negative, 4.0)[0]
    assert _same(sd15.estimate(patched, older), made)


@pytest.mark.parametrize(("scale_q", "scale_k"), [(0.5, 2.0), (4.0, 0.25)])
def test_queries_and_keys_multiply_to_the_same_scores(
    sd15: Any, plain: Any, scale_q: float, scale_k: float
) -> None:
    multiply = nodes_attention_multiply.UNetCrossAttentionMultiply.execute
    assert _same(sd15.sample(multiply(sd15.model, scale_q, scale_k, 1, 1)[0]), plain)
    values = multiply(sd15.model, 1, 1, 2, 1)[0]
    assert not _same(sd15.sample(values), plain)


def test_text_encoder_is_multiplied_in_a_clone(sd15: Any) -> None:
    multiply = nodes_attention_multiply.CLIPAttentionMultiply.execute
    tokens = sd15.clip.tokenize("a red circle")
    plain = sd15.clip.encode_from_tokens(tokens)
    # Without output of attention only its bias is left; both are multiplied.
    other = multiply(sd15.clip, 1, 1, 3, 1)[0].encode_from_tokens(tokens)
    assert not torch.allclose(other, plain)
    # Biases of queries and keys are multiplied, too, so that scores stay.
    same = multiply(sd15.clip, 2, 0.5, 1, 1)[0].encode_from_tokens(tokens)
    torch.testing.assert_close(same, plain, rtol=1e-3, atol=1e-3)
    assert torch.equal(sd15.clip.encode_from_tokens(tokens), plain)


# -- FreeU ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(1, 2, 8, 8), (1, 2, 7, 9)])
def test_low_frequencies_are_a_box_round_the_centre(shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    shifted = torch.fft.fftshift(torch.fft.fft2(x), dim=(-2, -1))
    rows, columns = shape[2] // 2, shape[3] // 2
    shifted[..., rows - 1 : rows + 1, columns - 1 : columns + 1] *= 0.3
    wanted = torch.fft.ifft2(torch.fft.ifftshift(shifted, dim=(-2, -1))).real
    torch.testing.assert_close(scale_frequencies(x, 1, 0.3), wanted)


def test_backbone_is_scaled_in_the_first_half_of_its_channels() -> None:
    h = torch.rand((2, 6, 4, 4), generator=torch.Generator().manual_seed(0))
    even = nodes_freelunch.evenly(h, 1.5)
    assert torch.equal(even[:, :3], h[:, :3] * 1.5)
    assert torch.equal(even[:, 3:], h[:, 3:])
    shaped = nodes_freelunch.by_structure(h, 1.5)
    for row in range(2):
        mean = h[row].mean(0)
        height = (mean - mean.min()) / (mean.max() - mean.min())
        torch.testing.assert_close(shaped[row, :3], h[row, :3] * (1 + 0.5 * height))
    assert torch.equal(shaped[:, 3:], h[:, 3:])
    assert nodes_freelunch.by_structure(torch.ones(1, 2, 2, 2), 2.0).isfinite().all()


def test_free_u_looks_at_blocks_by_their_channels(sd15: Any) -> None:
    patched = nodes_freelunch.FreeU.execute(sd15.model, 2.0, 3.0, 1.0, 1.0)[0]
    (patch,) = patched.model_options["transformer_options"]["patches"]["output_block_patch"]
    for channels, factor in ((128, 2.0), (64, 3.0), (32, 1.0)):
        h, skip = torch.ones(1, channels, 4, 4), torch.ones(1, channels, 4, 4)
        made, _ = patch(h, skip, {})
        assert float(made[0, 0, 0, 0]) == factor


# -- self-attention guidance ---------------------------------------------------------------------


def test_blur_is_a_gauss_with_mirrored_edges() -> None:
    x = torch.randn((1, 2, 12, 12), generator=torch.Generator().manual_seed(0))
    places = torch.arange(-4.0, 5.0)
    weights = torch.exp(-(places**2) / (2 * 1.5**2))
    kernel = torch.outer(weights, weights) / weights.sum() ** 2
    padded = functional.pad(x, (4, 4, 4, 4), mode="reflect")
    wanted = torch.stack(
        [functional.conv2d(one[None, None], kernel[None, None])[0, 0] for one in padded[0]]
    )
    torch.testing.assert_close(nodes_sag.blurred(x, 1.5)[0], wanted)
    assert nodes_sag.blurred(x, 0.0) is x
    assert nodes_sag.blurred(x[..., :3, :3], 2.0).shape == (1, 2, 3, 3)


def test_places_are_weighed_by_how_much_they_are_looked_at() -> None:
    seen = nodes_sag.SeenPlaces()
    q, k, v = (torch.randn((2, 6, 8), generator=GENERATOR) for _ in range(3))
    extra = {"n_heads": 2, "cond_or_uncond": [1, 0], "activations_shape": [2, 8, 2, 3]}
    out = seen(q, k, v, extra)
    heads = [one.reshape(2, 6, 2, 4).transpose(1, 2) for one in (q, k, v)]
    scores = torch.softmax(heads[0] @ heads[1].transpose(-1, -2) / 2.0, -1)
    torch.testing.assert_close(out, (scores @ heads[2]).transpose(1, 2).reshape(2, 6, 8))
    assert seen.weights is not None
    torch.testing.assert_close(seen.weights, scores[:1].mean(1).sum(1).reshape(1, 1, 2, 3))


# -- masks ---------------------------------------------------------------------------------------


class _Guider:
    def __init__(self, model: Any) -> None:
        self.inner_model = model.model


@pytest.mark.parametrize("strength", [1.0, 0.4, 0.0])
def test_mask_opens_when_the_time_left_is_below_it(sd15: Any, strength: float) -> None:
    patched = nodes_differential_diffusion.DifferentialDiffusion.execute(sd15.model, strength)[0]
    function = patched.model_options["denoise_mask_function"]
    sampling = sd15.model.model.model_sampling
    sigmas = torch.cat([sampling.sigmas[[999, 500, 200]], torch.zeros(1)])
    mask = torch.linspace(0, 1, 11).reshape(1, 1, 1, 11)
    extra = {"model": _Guider(sd15.model), "sigmas": sigmas}
    for sigma, left in zip(sigmas[:3], (1.0, 500 / 999, 200 / 999), strict=True):
        made = function(sigma.reshape(1), mask, extra_options=extra)
        opened = (mask >= left).float()
        torch.testing.assert_close(made, strength * opened + (1 - strength) * mask)


def test_grey_mask_keeps_what_is_black_and_changes_what_is_white(sd15: Any) -> None:
    patched = nodes_differential_diffusion.DifferentialDiffusion.execute(sd15.model)[0]
    given = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(2))
    mask = torch.ones(1, 1, 8, 8)
    mask[..., :4] = 0.0
    mask[..., 4:6] = 0.5
    latent = {"samples": given, "noise_mask": mask}
    prompts = (sd15.positive, sd15.negative)
    made = nodes.KSampler().sample(patched, 1, 4, 3.0, "euler", "normal", *prompts, latent)[0][
        "samples"
    ]
    torch.testing.assert_close(made[..., :4], given[..., :4], rtol=1e-4, atol=1e-4)
    moved = (made - given).abs().mean((0, 1, 2))
    assert moved[6:].min() > moved[:4].max()

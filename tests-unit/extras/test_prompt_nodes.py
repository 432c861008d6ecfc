"""Prompts for several encoders, what models are told besides, and empty latents."""

from __future__ import annotations

from typing import Any

import numpy
import pytest
import torch
from diffusers.pipelines.flux import pipeline_flux_kontext
from diffusers.pipelines.flux2 import pipeline_flux2
from diffusers.schedulers.scheduling_utils import AysSchedules

from comfy_extras import (
    nodes_align_your_steps,
    nodes_chroma_radiance,
    nodes_clip_sdxl,
    nodes_cond,
    nodes_edit_model,
    nodes_flux,
    nodes_ip2p,
    nodes_pixart,
    nodes_sd3,
)

LONG = "a red circle over a blue square, " * 20


class EncoderOfThree:
    """Tokens of three encoders as numbers of words; encoding returns what it was given."""

    def tokenize(self, text: str) -> dict[str, list[Any]]:
        chunks = [text[i : i + 20] for i in range(0, len(text), 20)] or [""]
        return {"l": list(chunks), "g": list(chunks), "t5xxl": [text]}

    def encode_from_tokens_scheduled(self, tokens: Any, add_dict: Any = None) -> Any:
        return [[tokens, dict(add_dict or {})]]


@pytest.mark.parametrize(
    ("text_g", "text_l"), [("a circle", "a square"), (LONG, "a square"), ("", LONG)]
)
def test_sdxl_takes_a_text_for_each_encoder(sdxl: Any, text_g: str, text_l: str) -> None:
    sizes = {"width": 640, "height": 512, "crop_w": 8, "crop_h": 16}
    sizes |= {"target_width": 1024, "target_height": 960}
    make = nodes_clip_sdxl.CLIPTextEncodeSDXL.execute
    ((cond, options),) = make(sdxl.clip, **sizes, text_g=text_g, text_l=text_l)[0]
    plain = sdxl.encode(text_g)[0][0], sdxl.encode(text_l)[0][0]
    width_l, chunk = 64, 77
    of_g, of_l = plain[0][..., width_l:], plain[1][..., :width_l]
    torch.testing.assert_close(cond[:, : of_g.shape[1], width_l:], of_g)
    torch.testing.assert_close(cond[:, : of_l.shape[1], :width_l], of_l)
    empty = sdxl.encode("")[0][0]
    if of_g.shape[1] > of_l.shape[1]:
        torch.testing.assert_close(cond[:, -chunk:, :width_l], empty[..., :width_l])
    if of_l.shape[1] > of_g.shape[1]:
        torch.testing.assert_close(cond[:, -chunk:, width_l:], empty[..., width_l:])
    assert {key: options[key] for key in sizes} == sizes
    assert "pooled_output" in options


def test_refiner_is_told_how_beautiful_the_picture_is(sd15: Any) -> None:
    make = nodes_clip_sdxl.CLIPTextEncodeSDXLRefiner.execute
    ((cond, options),) = make(sd15.clip, ascore=2.5, width=640, height=512, text="a circle")[0]
    assert torch.equal(cond, sd15.encode("a circle")[0][0])
    assert options["aesthetic_score"] == 2.5
    assert (options["width"], options["height"]) == (640, 512)


def test_pixart_is_told_the_size(sd15: Any) -> None:
    make = nodes_pixart.CLIPTextEncodePixArtAlpha.execute
    ((cond, options),) = make(sd15.clip, 640, 512, "a circle")[0]
    assert torch.equal(cond, sd15.encode("a circle")[0][0])
    assert (options["width"], options["height"]) == (640, 512)


def test_encoder_that_is_not_there_is_named(sd15: Any) -> None:
    with pytest.raises(ValueError, match=r"CLIPTextEncodeFlux.*'t5xxl'.*\['l'\]"):
        nodes_flux.CLIPTextEncodeFlux.execute(sd15.clip, "a", "b", 3.5)


def test_flux_takes_a_text_for_each_encoder() -> None:
    ((tokens, options),) = nodes_flux.CLIPTextEncodeFlux.execute(EncoderOfThree(), "a", "b", 2.0)[0]
    assert tokens["l"] == ["a"]
    assert tokens["t5xxl"] == ["b"]
    assert options == {"guidance": 2.0}


@pytest.mark.parametrize(
    ("texts", "padding", "wanted"),
    [
        (("a", "b", "c"), "none", (["a"], ["b"], ["c"])),
        (("a", "", ""), "none", (["a"], [""], [])),
        (("", "", "c"), "none", ([], [], ["c"])),
        (("a", "", ""), "empty_prompt", (["a"], [""], [""])),
        (("a" * 30, "b", "c"), "none", (["a" * 20, "a" * 10], ["b", ""], ["c"])),
    ],
)
def test_sd3_takes_a_text_for_each_encoder(texts: Any, padding: str, wanted: Any) -> None:
    ((tokens, _),) = nodes_sd3.CLIPTextEncodeSD3.execute(EncoderOfThree(), *texts, padding)[0]
    assert (tokens["l"], tokens["g"], tokens["t5xxl"]) == wanted


def test_control_nets_get_a_prompt_of_their_own(sd15: Any) -> None:
    make = nodes_cond.CLIPTextEncodeControlnet.execute
    ((cond, options),) = make(sd15.clip, sd15.positive, "a square")[0]
    wanted, pooled = sd15.clip.encode_from_tokens(
        sd15.clip.tokenize("a square"), return_pooled=True
    )
    assert cond is sd15.positive[0][0]
    assert torch.equal(options["cross_attn_controlnet"], wanted)
    assert torch.equal(options["pooled_output_controlnet"], pooled)
    assert "cross_attn_controlnet" not in sd15.positive[0][1]


def test_tokenizer_options_are_those_of_a_clone(sd15: Any) -> None:
    changed = nodes_cond.T5TokenizerOptions.execute(sd15.clip, 3, 7)[0]
    assert changed.tokenizer_options["t5xxl_min_padding"] == 3
    assert changed.tokenizer_options["umt5xxl_min_length"] == 7
    assert len(changed.tokenizer_options) == 10
    assert "t5xxl_min_padding" not in sd15.clip.tokenizer_options


def test_guidance_is_set_and_switched_off() -> None:
    given = [[torch.zeros(1, 1, 4), {"unknown": "kept"}]]
    set_to = nodes_flux.FluxGuidance.execute(given, 2.5)[0]
    off = nodes_flux.FluxDisableGuidance.execute(set_to)[0]
    assert set_to[0][1] == {"unknown": "kept", "guidance": 2.5}
    assert off[0][1] == {"unknown": "kept", "guidance": None}
    assert given[0][1] == {"unknown": "kept"}


@pytest.mark.parametrize(
    ("method", "told"), [("offset", "offset"), ("index", "index"), ("uxo/uno", "uxo")]
)
def test_method_of_references_is_set(method: str, told: str) -> None:
    make = nodes_flux.FluxKontextMultiReferenceLatentMethod.execute
    made = make([[torch.zeros(1), {}]], method)[0]
    assert made[0][1] == {"reference_latents_method": told}


def test_references_follow_one_another() -> None:
    first, second = ({"samples": torch.full((1,), float(n))} for n in (1, 2))
    add = nodes_edit_model.ReferenceLatent.execute
    once = add([[torch.zeros(1), {}]], first)[0]
    twice = add(once, second)[0]
    assert [float(one) for one in twice[0][1]["reference_latents"]] == [1.0, 2.0]
    assert len(once[0][1]["reference_latents"]) == 1
    assert add(once)[0] is once


def test_sizes_of_kontext_are_those_that_were_published() -> None:
    published = pipeline_flux_kontext.PREFERRED_KONTEXT_RESOLUTIONS
    assert published == nodes_flux.KONTEXT_SIZES


@pytest.mark.parametrize(
    ("side", "wanted"), [((30, 40), (880, 1184)), ((50, 50), (1024, 1024)), ((10, 90), (672, 1568))]
)
def test_picture_gets_the_size_nearest_in_aspect(
    side: tuple[int, int], wanted: tuple[int, int]
) -> None:
    picture = torch.rand(1, *side, 3)
    made = nodes_flux.FluxKontextImageScale.execute(picture)[0]
    assert made.shape == (1, *wanted, 3)


@pytest.mark.parametrize(
    ("steps", "width", "height"), [(20, 1024, 1024), (8, 512, 768), (50, 2048, 1024)]
)
def test_levels_of_flux_2_are_shifted_as_in_diffusers(steps: int, width: int, height: int) -> None:
    made = nodes_flux.Flux2Scheduler.execute(steps, width, height)[0]
    mu = pipeline_flux2.compute_empirical_mu(width * height // 256, steps)
    times = numpy.linspace(1.0, 1 / steps, steps)
    shifted = numpy.exp(mu) / (numpy.exp(mu) + 1 / times - 1)
    torch.testing.assert_close(made[:-1], torch.from_numpy(shifted).float())
    assert made[-1] == 0


PUBLISHED = {"SD1": "StableDiffusion", "SDXL": "StableDiffusionXL", "SVD": "StableDiffusionVideo"}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_aligned_levels_are_those_that_were_published(kind: str) -> None:
    wanted = torch.tensor(AysSchedules[f"{PUBLISHED[kind]}Sigmas"])
    make = nodes_align_your_steps.AlignYourStepsScheduler.execute
    torch.testing.assert_close(make(kind, 10, 1.0)[0], wanted)
    torch.testing.assert_close(make(kind, 10, 0.4)[0], wanted[-5:])
    assert make(kind, 10, 0.0)[0].numel() == 0
    between = make(kind, 20, 1.0)[0]
    torch.testing.assert_close(between[:-1:2], wanted[:-1])
    torch.testing.assert_close(between[1], (wanted[0] * wanted[1]).sqrt())


@pytest.mark.parametrize(
    ("node", "shape"),
    [
        (nodes_sd3.EmptySD3LatentImage, (2, 16, 64, 80)),
        (nodes_flux.EmptyFlux2LatentImage, (2, 128, 32, 40)),
        (nodes_chroma_radiance.EmptyChromaRadianceLatentImage, (2, 3, 512, 640)),
    ],
)
def test_empty_latent_has_the_models_channels(node: Any, shape: tuple[int, ...]) -> None:
    samples = node.execute(640, 512, 2)[0]["samples"]
    assert samples.shape == shape
    assert not samples.any()


def test_both_prompts_are_given_the_picture_to_edit(sd15: Any) -> None:
    picture = torch.rand((1, 67, 84, 3), generator=torch.Generator().manual_seed(0))
    make = nodes_ip2p.InstructPixToPixConditioning.execute
    positive, negative, latent = make(sd15.positive, sd15.negative, picture, sd15.vae).result
    wanted = sd15.vae.encode(picture[:, 1:65, 2:82])
    for one in (positive, negative):
        torch.testing.assert_close(one[0][1]["concat_latent_image"], wanted)
    assert latent["samples"].shape == wanted.shape
    assert not latent["samples"].any()

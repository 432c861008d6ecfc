"""Pictures as conditions: noised as diffusers does it, in checkpoints, and seen by the network."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from diffusers import DDPMScheduler
from diffusers.models.embeddings import get_timestep_embedding
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import (
    StableUnCLIPImageNormalizer,
)

import comfy.clip_model
import comfy.clip_vision
import comfy.loading
import comfy.model_management
import comfy.sample
import comfy.sd
import comfy.utils
from comfy import model_base, model_detection, supported_models, unclip
from comfy.loading import FileTensor
from comfy.model_base import ModelType
from support import layouts, managed, narrow
from support.networks import relative_difference
from support.raw_files import Spec

WIDTH = 12
PREFIX = "embedder.model.visual."


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _scheduler() -> Any:
    """diffusers' noise."""
    return DDPMScheduler(beta_schedule="squaredcos_cap_v2")


def _statistics() -> tuple[torch.Tensor, torch.Tensor]:
    return _random(1, WIDTH, seed=1), 0.5 + _random(1, WIDTH, seed=4).abs()


def _seen(embeds: torch.Tensor, strength: float = 1.0, augmentation: float = 0.0) -> dict[str, Any]:
    """An entry of ``unclip_conditioning``."""
    output = comfy.clip_vision.Output()
    output.image_embeds = embeds
    return {
        "clip_vision_output": output,
        "strength": strength,
        "noise_augmentation": augmentation,
    }


# -- noise ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 1, 50, 350, 998, 999])
def test_embeddings_are_noised_as_in_diffusers(level: int) -> None:
    mean, std = _statistics()
    embeds, noise = _random(3, WIDTH, seed=2), _random(3, WIDTH, seed=3)
    normalizer = StableUnCLIPImageNormalizer(WIDTH)
    normalizer.load_state_dict({"mean": mean, "std": std})
    scheduler = _scheduler()
    with torch.no_grad():
        scaled = normalizer.scale(embeds)
        noised = scheduler.add_noise(scaled, noise, torch.tensor([level] * 3))
        wanted = normalizer.unscale(noised)
    got = unclip.NoiseAugmentation(WIDTH, mean, std).noised(embeds, level, noise)
    torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)


def test_every_level_keeps_as_much_as_in_diffusers() -> None:
    wanted = _scheduler().alphas_cumprod
    torch.testing.assert_close(unclip.kept_shares(), wanted, atol=0, rtol=1e-3)


@pytest.mark.parametrize(("share", "level"), [(0.0, 0), (0.05, 50), (0.3, 300), (1.0, 999)])
def test_level_is_appended_as_sinusoids(share: float, level: int) -> None:
    augment = unclip.NoiseAugmentation(WIDTH)
    vector = unclip.unclip_vector(augment, [_seen(_random(1, WIDTH), 1.0, share)], 3)
    wanted = get_timestep_embedding(
        torch.tensor([level]), WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    torch.testing.assert_close(vector[:, WIDTH:], wanted, atol=1e-4, rtol=1e-4)


# -- several pictures ----------------------------------------------------------------------------


def test_without_pictures_the_vector_is_zero() -> None:
    vector = unclip.unclip_vector(unclip.NoiseAugmentation(WIDTH), [], 1)
    assert torch.equal(vector, torch.zeros(1, 2 * WIDTH))


def test_strength_multiplies_the_whole_vector_of_one_picture() -> None:
    augment, embeds = unclip.NoiseAugmentation(WIDTH), _random(1, WIDTH)
    one, half = (
        unclip.unclip_vector(augment, [_seen(embeds, strength, 0.2)], 5) for strength in (1.0, 0.5)
    )
    torch.testing.assert_close(half, one * 0.5)


@pytest.mark.parametrize("as_batch", [True, False])
def test_several_pictures_are_added_and_their_sum_is_noised(as_batch: bool) -> None:
    mean, std = _statistics()
    augment = unclip.NoiseAugmentation(WIDTH, mean, std)
    embeds = _random(2, WIDTH)
    entries = [_seen(embeds)] if as_batch else [_seen(one[None]) for one in embeds]
    draws = 200
    made = torch.cat(
        [
            unclip.unclip_vector(augment, entries, seed, merge_augmentation=0.3)
            for seed in range(draws)
        ]
    )
    kept = _scheduler().alphas_cumprod[300]
    around = (embeds.sum(dim=0) - mean) * kept.sqrt() + mean
    tolerance = 5 * float(std.max()) * (1 / draws) ** 0.5
    torch.testing.assert_close(made[:, :WIDTH].mean(0)[None], around, atol=tolerance, rtol=0)
    spread = made[:, :WIDTH].std(0) / std[0]
    assert float(spread.mean()) == pytest.approx(float((1 - kept).sqrt()), rel=0.1)
    level = get_timestep_embedding(
        torch.tensor([300]), WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0
    )
    torch.testing.assert_close(made[:1, WIDTH:], level, atol=1e-4, rtol=1e-4)


def test_each_picture_has_noise_of_its_own() -> None:
    augment, embeds = unclip.NoiseAugmentation(WIDTH), torch.zeros(1, WIDTH)
    opposite = [_seen(embeds, 1.0, 1.0), _seen(embeds, -1.0, 1.0)]
    vector = unclip.unclip_vector(augment, opposite, 5, merge_augmentation=0.0)
    assert float(vector[:, :WIDTH].abs().max()) > 0.5


def test_seed_decides_the_noise_which_is_not_the_latents() -> None:
    augment, entry = unclip.NoiseAugmentation(WIDTH), _seen(torch.zeros(1, WIDTH), 1.0, 1.0)
    first, again, other = (unclip.unclip_vector(augment, [entry], seed) for seed in (7, 7, 8))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    latent = comfy.sample.prepare_noise(torch.zeros(1, WIDTH), 7)
    assert float((first[:, :WIDTH] - latent).abs().max()) > 0.5


def test_picture_of_another_encoder_is_refused() -> None:
    augment = unclip.NoiseAugmentation(WIDTH)
    with pytest.raises(ValueError, match=r"embedded to 12 numbers, this one has 16: encode it"):
        unclip.unclip_vector(augment, [_seen(torch.zeros(1, 16))], 0)


# -- checkpoints ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _file_slices() -> Iterator[None]:
    with managed.file_slices():
        yield


@pytest.mark.parametrize(("adm", "family"), [(1536, "SD21UnclipL"), (2048, "SD21UnclipH")])
def test_published_widths_tell_the_encoder(adm: int, family: str) -> None:
    numbers = {**supported_models.SD20.unet_config, "adm_in_channels": adm, "in_channels": 4}
    config = model_detection.model_config_from_unet_config(numbers, {})
    assert type(config).__name__ == family
    assert config is not None
    assert config.model_type({}) is ModelType.V_PREDICTION


def _published(embedded: int, width: int, layers: int) -> list[Spec]:
    """SD 2.1 with a vector and a picture encoder, all of published sizes, as open_clip names it."""
    specs = list(layouts.layout("sd21_v_checkpoint_fp16").tensors.values())
    shapes: dict[str, tuple[int, ...]] = {
        "model.diffusion_model.label_emb.0.0.weight": (1280, 2 * embedded),
        "model.diffusion_model.label_emb.0.0.bias": (1280,),
        "model.diffusion_model.label_emb.0.2.weight": (1280, 1280),
        "model.diffusion_model.label_emb.0.2.bias": (1280,),
        f"{PREFIX}class_embedding": (width,),
        f"{PREFIX}positional_embedding": (257, width),
        f"{PREFIX}conv1.weight": (width, 3, 14, 14),
        f"{PREFIX}proj": (width, embedded),
    }
    inside = {
        "attn.in_proj_": (3 * width, width),
        "attn.out_proj.": (width, width),
        "mlp.c_fc.": (4 * width, width),
        "mlp.c_proj.": (width, 4 * width),
        "ln_1.": (width,),
        "ln_2.": (width,),
    }
    named: dict[str, tuple[int, ...]] = {
        f"{PREFIX}{norm}.": (width,) for norm in ("ln_pre", "ln_post")
    }
    for layer in range(layers):
        block = f"{PREFIX}transformer.resblocks.{layer}."
        named |= {block + name: shape for name, shape in inside.items()}
    shapes |= {f"{name}weight": shape for name, shape in named.items()}
    shapes |= {f"{name}bias": shape[:1] for name, shape in named.items()}
    return specs + [Spec(key, "F16", shape) for key, shape in shapes.items()]


@pytest.mark.parametrize(
    ("family", "sizes", "act"),
    [("SD21UnclipL", (768, 1024, 24), "quick_gelu"), ("SD21UnclipH", (1024, 1280, 32), "gelu")],
)
def test_checkpoint_of_published_size_loads_whole(
    family: str,
    sizes: tuple[int, int, int],
    act: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    statistics = [
        Spec(f"noise_augmentor.data_{name}", "F32", (1, sizes[0])) for name in ("mean", "std")
    ]
    path = tmp_path / "unclip.safetensors"
    layouts.write_sparse(path, _published(*sizes) + statistics)
    model, clip, vae, vision = comfy.sd.load_checkpoint_guess_config(
        str(path), output_clipvision=True
    )
    assert caplog.records == []
    assert model is not None
    assert clip is not None
    assert vae is not None
    assert type(model.model.model_config).__name__ == family
    layer = vision.model.vision_model.encoder.layers[-1]
    assert layer.self_attn.heads == 16
    assert layer.mlp.activation is comfy.clip_model.ACTIVATIONS[act]
    assert vision.image_size == 224
    assert vision.model.visual_projection.weight.shape == sizes[:2]
    parts = [model.model.diffusion_model, clip.cond_stage_model, vision.model]
    assert not any(one.device.type == "meta" for part in parts for one in part.parameters())


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    return narrow.write_checkpoint(tmp_path / "unclip.safetensors", "SD21UnclipH", "F32")


def test_checkpoint_gives_its_picture_encoder_unread(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        model, _, _, vision = comfy.sd.load_checkpoint_guess_config(
            str(checkpoint), output_clipvision=True
        )
    assert caplog.records == []
    assert model is not None
    assert isinstance(model.model, model_base.SD21UNCLIP)
    weights = list(vision.model.parameters())
    assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights)
    in_file = safetensors.torch.load_file(checkpoint)
    fused = in_file[f"{PREFIX}transformer.resblocks.1.attn.in_proj_weight"]
    second = vision.model.vision_model.encoder.layers[1]
    assert torch.equal(second.self_attn.v_proj.weight.cpu(), fused.chunk(3)[2])
    assert torch.equal(vision.model.visual_projection.weight.cpu(), in_file[f"{PREFIX}proj"].t())
    assert vision.image_size == 56


@pytest.mark.parametrize("asked", [True, False])
def test_what_publishers_left_in_the_file_is_no_surplus(
    checkpoint: Path, asked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    state = comfy.utils.load_torch_file(checkpoint)
    for key in ("token_embedding.weight", "positional_embedding", "ln_final.bias", "logit_scale"):
        state[f"embedder.model.{key}"] = torch.zeros(1)
    state["noise_augmentor.betas"] = torch.zeros(1000)
    state["noise_augmentor.sqrt_one_minus_alphas_cumprod"] = torch.zeros(1000)
    with caplog.at_level(logging.WARNING):
        comfy.sd.load_state_dict_guess_config(state, output_clipvision=asked)
    assert caplog.records == []


def test_encoder_under_the_names_of_transformers_is_found(
    checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    state = comfy.utils.load_torch_file(checkpoint)
    for key in [key for key in state if key.startswith(PREFIX)]:
        del state[key]
    shapes = narrow.vision_on_meta(32)
    own = {key: _random(*like.shape, seed=seed) for seed, (key, like) in enumerate(shapes.items())}
    state.update({PREFIX + key: tensor for key, tensor in own.items()})
    loaded = comfy.sd.load_state_dict_guess_config(state, output_clipvision=True)
    assert loaded is not None
    assert caplog.records == []
    got = loaded[3].get_sd()
    assert got.keys() == own.keys()
    assert all(torch.equal(got[key], own[key]) for key in own)


def test_checkpoint_without_a_picture_encoder_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = narrow.write_checkpoint(tmp_path / "sd15.safetensors")
    *_, vision = comfy.sd.load_checkpoint_guess_config(str(path), output_clipvision=True)
    assert vision is None
    assert "sd15.safetensors holds no CLIP vision encoder: load one with" in caplog.text


@pytest.mark.parametrize(("family", "is_told"), [("SD21UnclipL", True), ("SD21UnclipH", False)])
def test_statistics_are_missed_where_the_model_was_trained_with_some(
    family: str, is_told: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = narrow.write_checkpoint(
        tmp_path / "bare.safetensors", family, without=("noise_augmentor.",)
    )
    comfy.sd.load_checkpoint_guess_config(str(path))
    assert ("bare.safetensors: no statistics of pictures' embeddings" in caplog.text) is is_told


@pytest.mark.parametrize("rank", [1, 2])
def test_statistics_are_those_of_the_file(rank: int, checkpoint: Path) -> None:
    state = comfy.utils.load_torch_file(checkpoint)
    shape = (1,) * (rank - 1) + (32,)
    state["noise_augmentor.data_mean"] = torch.full(shape, 100.0)
    state["noise_augmentor.data_std"] = torch.full(shape, 0.5)
    loaded = comfy.sd.load_state_dict_guess_config(state)
    assert loaded is not None
    assert loaded[0] is not None
    # Of the last level hardly anything is left but noise.
    entries = [_seen(torch.zeros(1, 32), 1.0, 1.0)]
    vector = loaded[0].model.encode_adm(unclip_conditioning=entries, seed=3)
    assert float(vector[:, :32].mean()) == pytest.approx(100.0, abs=0.4)
    assert float(vector[:, :32].std()) == pytest.approx(0.5, rel=0.4)


# -- sampling ------------------------------------------------------------------------------------


class Painter:
    """A narrow checkpoint, its prompts, and two pictures that its encoder saw."""

    def __init__(self, path: Path) -> None:
        self.model, clip, _, vision = comfy.sd.load_checkpoint_guess_config(
            str(path), output_clipvision=True
        )
        assert clip is not None
        self.text = clip.encode_from_tokens_scheduled(clip.tokenize("a cat"))
        pictures = torch.rand(2, 56, 56, 3, generator=torch.Generator().manual_seed(0))
        self.embeds = [vision.encode_image(one[None]).image_embeds for one in pictures]

    def paint(self, *entries: dict[str, Any], seed: int = 3) -> torch.Tensor:
        latent = torch.zeros(1, 4, 8, 8)
        positive = [[self.text[0][0], {"unclip_conditioning": list(entries)}]]
        return comfy.sample.sample(
            self.model,
            comfy.sample.prepare_noise(latent, 1),
            2,
            2.0,
            "euler",
            "normal",
            positive,
            self.text,
            latent,
            seed=seed,
            disable_pbar=True,
        )


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Painter:
    path = tmp_path_factory.mktemp("unclip") / "unclip.safetensors"
    return Painter(narrow.write_checkpoint(path, "SD21UnclipH", "F32"))


@torch.inference_mode()
def test_result_is_reproduced_by_its_seed(painter: Painter) -> None:
    entry = _seen(painter.embeds[0], 1.0, 0.5)
    first, again, other = (painter.paint(entry, seed=seed) for seed in (3, 3, 4))
    assert torch.isfinite(first).all()
    assert torch.equal(first, again)
    assert relative_difference(other, first) > 1e-4


@pytest.mark.parametrize("changed", ["picture", "strength", "noise", "second picture", "none"])
@torch.inference_mode()
def test_result_depends_on(painter: Painter, changed: str) -> None:
    first, second = painter.embeds
    entries = {
        "picture": [_seen(second)],
        "strength": [_seen(first, 0.5)],
        "noise": [_seen(first, 1.0, 0.4)],
        "second picture": [_seen(first), _seen(second)],
        "none": [],
    }
    result, other = painter.paint(_seen(first)), painter.paint(*entries[changed])
    assert relative_difference(other, result) > 1e-4

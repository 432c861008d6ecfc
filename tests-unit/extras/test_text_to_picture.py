"""Graphs of the classic nodes, from a narrow checkpoint to a latent and a picture."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import folder_paths
import nodes
from support import lora_files, narrow

PICTURE = torch.rand((1, 64, 64, 3), generator=torch.Generator().manual_seed(0))
LEFT = torch.zeros(1, 64, 64)
LEFT[:, :, :32] = 1.0


@pytest.fixture(scope="module", autouse=True)
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model folder with a checkpoint, one for inpainting, and a LoRA of attention and text."""
    top = tmp_path_factory.mktemp("models")
    narrow.write_checkpoint(top / "narrow.safetensors", encoding="F32")
    narrow.write_checkpoint(top / "inpaint.safetensors", "SD15-inpaint", encoding="F32")
    modules = {
        "lora_unet_middle_block_1_transformer_blocks_0_attn1_to_q": (64, 64),
        "lora_te_text_model_encoder_layers_0_mlp_fc1": (128, 64),
    }
    state: dict[str, torch.Tensor] = {}
    for name, shape in modules.items():
        state |= lora_files.module(name, lora_files.lora(shape), alpha=2.0)
    safetensors.torch.save_file(state, top / "lora.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("checkpoints", "loras"):
            known = folder_paths.folder_names_and_paths[kind][1]
            patch.setitem(folder_paths.folder_names_and_paths, kind, ([str(top)], known))
        yield top


class Loaded:
    """A checkpoint and its prompts."""

    def __init__(self, name: str) -> None:
        self.model, self.clip, self.vae = nodes.CheckpointLoaderSimple().load_checkpoint(name)
        self.positive = self.encode("a red circle")
        self.negative = self.encode("blurry")

    def encode(self, text: str) -> Any:
        return nodes.CLIPTextEncode().encode(self.clip, text)[0]

    def sample(self, latent: Any, denoise: float = 1.0, **changed: Any) -> Any:
        run = {
            "model": self.model,
            "seed": 1,
            "steps": 4,
            "cfg": 3.0,
            "sampler_name": "euler",
            "scheduler": "normal",
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": latent,
            "denoise": denoise,
        }
        return nodes.KSampler().sample(**{**run, **changed})[0]


@pytest.fixture(scope="module")
def loaded(folders: Path) -> Loaded:
    return Loaded("narrow.safetensors")


@pytest.fixture(scope="module")
def encoded(loaded: Loaded) -> Any:
    return nodes.VAEEncode().encode(loaded.vae, PICTURE)[0]


def _empty(width: int = 64, height: int = 64, count: int = 1) -> Any:
    return nodes.EmptyLatentImage().generate(width, height, count)[0]


def _distance(one: Any, other: Any) -> float:
    return float((one["samples"] - other["samples"]).abs().mean())


def _same(one: Any, other: Any) -> bool:
    return torch.equal(one["samples"], other["samples"])


def test_seed_and_prompt_make_the_picture(loaded: Loaded) -> None:
    latent = {**_empty(96, 64), "unknown": "kept"}
    made = loaded.sample(latent)
    (picture,) = nodes.VAEDecode().decode(loaded.vae, made)
    assert picture.shape == (1, 64, 96, 3)
    assert picture.isfinite().all()
    assert picture.std() > 0
    assert made["unknown"] == "kept"
    assert not latent["samples"].any()
    assert _same(loaded.sample(latent), made)
    assert not _same(loaded.sample(latent, seed=2), made)
    assert not _same(loaded.sample(latent, positive=loaded.encode("a blue square")), made)
    assert not _same(loaded.sample(latent, cfg=1.0), made)


def test_rows_of_a_batch_differ_and_one_taken_out_is_made_again(loaded: Loaded) -> None:
    batch = _empty(count=2)
    made = loaded.sample(batch)["samples"]
    assert not torch.equal(made[0], made[1])
    (second,) = nodes.LatentFromBatch().frombatch(batch, 1, 1)
    alone = loaded.sample(second)["samples"][0]
    torch.testing.assert_close(alone, made[1], rtol=1e-3, atol=1e-3 * float(made.abs().max()))


def test_less_denoising_stays_closer_to_the_picture(loaded: Loaded, encoded: Any) -> None:
    light, heavy = (loaded.sample(encoded, denoise) for denoise in (0.1, 1.0))
    assert 0 < _distance(light, encoded) < _distance(heavy, encoded)
    assert _same(loaded.sample(encoded, 0.0), encoded)


def test_upscaled_latent_is_denoised_at_its_new_size(loaded: Loaded) -> None:
    made = loaded.sample(_empty())
    (larger,) = nodes.LatentUpscaleBy().upscale(made, "bislerp", 1.5)
    refined = loaded.sample(larger, 0.4)
    assert refined["samples"].shape == (1, 4, 12, 12)
    (picture,) = nodes.VAEDecode().decode(loaded.vae, refined)
    assert picture.shape == (1, 96, 96, 3)
    assert 0 < _distance(refined, larger) < _distance(loaded.sample(larger), larger)


@pytest.mark.parametrize("sampler_name", ["euler", "heun", "dpm_2"])
def test_two_halves_are_the_whole(loaded: Loaded, sampler_name: str) -> None:
    run = {"model": loaded.model, "noise_seed": 1, "steps": 4, "cfg": 3.0, "scheduler": "normal"}
    run |= {"positive": loaded.positive, "negative": loaded.negative, "sampler_name": sampler_name}
    part = nodes.KSamplerAdvanced().sample
    (half,) = part(
        **run,
        add_noise="enable",
        latent_image=_empty(),
        start_at_step=0,
        end_at_step=2,
        return_with_leftover_noise="enable",
    )
    rest = {"add_noise": "disable", "start_at_step": 2, "end_at_step": 10000}
    (made,) = part(**run, **rest, latent_image=half, return_with_leftover_noise="disable")
    whole = loaded.sample(_empty(), sampler_name=sampler_name)
    torch.testing.assert_close(made["samples"], whole["samples"], rtol=1e-3, atol=1e-2)
    assert _distance(half, whole) > 0.1


def test_run_that_ends_early_removes_its_noise_unless_it_is_to_be_left(loaded: Loaded) -> None:
    run = {"model": loaded.model, "noise_seed": 1, "steps": 4, "cfg": 3.0, "scheduler": "normal"}
    run |= {"positive": loaded.positive, "negative": loaded.negative, "sampler_name": "euler"}
    run |= {"add_noise": "enable", "start_at_step": 0, "end_at_step": 2, "latent_image": _empty()}
    (left,) = nodes.KSamplerAdvanced().sample(**run, return_with_leftover_noise="enable")
    (clean,) = nodes.KSamplerAdvanced().sample(**run, return_with_leftover_noise="disable")
    assert not _same(left, clean)


def test_only_the_masked_part_is_painted(loaded: Loaded, encoded: Any) -> None:
    (masked,) = nodes.SetLatentNoiseMask().set_mask(encoded, LEFT)
    made = loaded.sample(masked)["samples"]
    given = encoded["samples"]
    torch.testing.assert_close(made[..., 4:], given[..., 4:], rtol=1e-4, atol=1e-4)
    assert (made[..., :4] - given[..., :4]).abs().mean() > 0.1


def test_picture_under_the_mask_does_not_matter(loaded: Loaded) -> None:
    other = PICTURE.clone()
    other[:, :, :32] = PICTURE[:, :, :32].flip(1)
    encode = nodes.VAEEncodeForInpaint().encode
    (one,), (two,) = (encode(loaded.vae, picture, LEFT) for picture in (PICTURE, other))
    assert _same(one, two)
    made = loaded.sample(one)["samples"]
    torch.testing.assert_close(made[..., 5:], one["samples"][..., 5:], rtol=1e-4, atol=1e-4)


def test_inpaint_model_paints_what_the_mask_covers(folders: Path) -> None:
    loaded = Loaded("inpaint.safetensors")
    prompts = (loaded.positive, loaded.negative)
    encode = nodes.InpaintModelConditioning().encode
    positive, negative, latent = encode(*prompts, PICTURE, loaded.vae, LEFT)
    made = loaded.sample(latent, positive=positive, negative=negative)
    given = latent["samples"]
    torch.testing.assert_close(made["samples"][..., 4:], given[..., 4:], rtol=1e-4, atol=1e-4)
    assert _distance(made, latent) > 0.1
    brighter = encode(*prompts, PICTURE.sqrt(), loaded.vae, LEFT)
    again = loaded.sample(latent, positive=brighter[0], negative=brighter[1])
    assert not _same(again, made)


def test_lora_changes_the_picture_until_it_is_removed(loaded: Loaded) -> None:
    before = loaded.sample(_empty())
    load = nodes.LoraLoader().load_lora
    model, clip = load(loaded.model, loaded.clip, "lora.safetensors", 1.0, 1.0)
    changed = loaded.sample(_empty(), model=model)
    assert not _same(changed, before)
    (prompt,) = nodes.CLIPTextEncode().encode(clip, "a red circle")
    assert not torch.equal(prompt[0][0], loaded.positive[0][0])
    assert not _same(loaded.sample(_empty(), model=model, positive=prompt), changed)
    assert _same(loaded.sample(_empty()), before)
    assert torch.equal(loaded.encode("a red circle")[0][0], loaded.positive[0][0])
    unchanged = load(loaded.model, loaded.clip, "lora.safetensors", 0.0, 0.0)
    assert unchanged == (loaded.model, loaded.clip)


def test_lora_for_the_text_alone_leaves_the_model_as_it_is(loaded: Loaded) -> None:
    before = loaded.sample(_empty())
    load = nodes.LoraLoader().load_lora
    model, clip = load(loaded.model, loaded.clip, "lora.safetensors", 0.0, 1.0)
    assert _same(loaded.sample(_empty(), model=model), before)
    (prompt,) = nodes.CLIPTextEncode().encode(clip, "a red circle")
    assert not torch.equal(prompt[0][0], loaded.positive[0][0])


def test_earlier_layer_of_the_text_encoder_says_something_else(loaded: Loaded) -> None:
    (earlier,) = nodes.CLIPSetLastLayer().set_last_layer(loaded.clip, -2)
    (prompt,) = nodes.CLIPTextEncode().encode(earlier, "a red circle")
    assert not torch.equal(prompt[0][0], loaded.positive[0][0])
    assert torch.equal(loaded.encode("a red circle")[0][0], loaded.positive[0][0])


def test_prompt_that_is_limited_to_an_area_leaves_the_rest_to_the_other(loaded: Loaded) -> None:
    other = loaded.encode("a blue square")
    (left,) = nodes.ConditioningSetMask().append(other, LEFT, "default", 1.0)
    (both,) = nodes.ConditioningCombine().combine(loaded.positive, left)
    run = {"steps": 1, "sampler_name": "euler"}
    plain = loaded.sample(_empty(), **run)["samples"]
    made = loaded.sample(_empty(), positive=both, **run)["samples"]
    torch.testing.assert_close(made[..., 4:], plain[..., 4:], rtol=1e-3, atol=1e-2)
    assert not torch.allclose(made[..., :4], plain[..., :4], rtol=1e-3, atol=1e-2)

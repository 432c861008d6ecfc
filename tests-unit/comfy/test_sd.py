"""Models out of files: published layouts of full size, narrow ones, and files that are no model."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import comfy.loading
import comfy.model_management
import comfy.sd
import comfy.utils
from comfy.file_kinds import UndetectedModel
from comfy.loading import FileTensor
from comfy.state_loading import IncompleteModel
from support import layouts, managed, narrow
from support.cold import bytes_read

V_WITNESS = "model.diffusion_model.output_blocks.11.1.transformer_blocks.0.norm1.bias"
UNCLIP = ["SD21UnclipL", "SD21UnclipH"]
FAMILIES = ["SD15", "SD15-inpaint", "SD20", *UNCLIP, "SDXL", "SDXLRefiner"]
CHECKPOINTS = [
    name
    for name in layouts.names()
    if layouts.layout(name).family in {"SD15", "SD20", "SDXL", "SDXLRefiner"}
]


@pytest.fixture(autouse=True)
def _file_slices() -> Iterator[None]:
    with managed.file_slices():
        yield


def _sparse(path: Path, name: str) -> Path:
    one = layouts.layout(name)
    half = torch.full((160,), 0.2)
    values = {V_WITNESS: torch.cat([half, -half])} if one.family == "SD20" else {}
    return layouts.write_sparse(path, one.tensors.values(), values=values)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_published_checkpoint_loads_whole_and_unread(
    name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = _sparse(tmp_path / "model.safetensors", name)
    before = bytes_read()
    with caplog.at_level(logging.WARNING):
        model, clip, vae, vision = comfy.sd.load_checkpoint_guess_config(str(path))
    # The header, a projection that is turned, and code that Python loads on first use.
    assert bytes_read() - before < path.stat().st_size // 50
    assert caplog.records == []
    assert vision is None
    assert model is not None
    assert clip is not None
    assert vae is not None
    vae.throw_exception_if_invalid()
    for module in (model.model.diffusion_model, clip.cond_stage_model, vae.first_stage_model):
        assert not any(p.device.type == "meta" for p in module.parameters())
    weights = model.model.diffusion_model.parameters()
    assert all(isinstance(p, FileTensor) and p.is_in_file for p in weights)
    assert type(model.model.model_config).__name__ == layouts.layout(name).family


@pytest.fixture
def sd15(tmp_path: Path) -> Path:
    return narrow.write_checkpoint(tmp_path / "narrow.safetensors")


@pytest.mark.parametrize("family", FAMILIES)
def test_narrow_checkpoint_loads_without_a_warning(
    family: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = narrow.write_checkpoint(tmp_path / "narrow.safetensors", family)
    with caplog.at_level(logging.WARNING):
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    assert caplog.records == []
    assert model is not None
    assert clip is not None
    assert vae is not None
    assert type(model.model.model_config).__name__ == family.partition("-")[0]


def test_only_what_is_asked_for_is_made(sd15: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        loaded = comfy.sd.load_checkpoint_guess_config(
            str(sd15), output_vae=False, output_clip=False, output_model=False
        )
    assert loaded == (None, None, None, None)
    assert caplog.records == []


# -- dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_get_the_dtype_that_is_asked_for_and_noise_levels_keep_theirs(
    sd15: Path, dtype: torch.dtype
) -> None:
    model, *_ = comfy.sd.load_checkpoint_guess_config(str(sd15), model_options={"dtype": dtype})
    assert model is not None
    levels = model.model.model_sampling.sigmas.clone()
    comfy.model_management.load_models_gpu([model])
    assert {p.dtype for p in model.model.diffusion_model.parameters()} == {dtype}
    assert torch.equal(model.model.model_sampling.sigmas, levels)
    assert model.model.get_dtype() == dtype


def test_weights_stay_as_in_the_file_and_are_computed_in_what_the_device_does_well(
    sd15: Path,
) -> None:
    model, *_ = comfy.sd.load_checkpoint_guess_config(str(sd15))
    assert model is not None
    assert model.model.get_dtype() == torch.float16
    assert model.model.get_dtype_inference() == torch.float32


# -- faults --------------------------------------------------------------------------------------


def test_missing_vae_is_told_when_loading_and_when_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = narrow.write_checkpoint(tmp_path / "novae.safetensors", without=("first_stage_model.",))
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    assert "novae.safetensors holds no VAE" in caplog.text
    assert model is not None
    assert clip is not None
    assert vae is not None
    with pytest.raises(RuntimeError, match=r"novae\.safetensors holds none.*VAELoader"):
        vae.decode(torch.zeros(1, 4, 8, 8))


def test_missing_text_encoder_is_told_and_is_none(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = narrow.write_checkpoint(tmp_path / "noclip.safetensors", without=("cond_stage_model.",))
    _, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path))
    assert "noclip.safetensors holds no text encoder" in caplog.text
    assert clip is None
    assert vae is not None


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ("lora_sd15_kohya_r16", "looks like a LoRA: load it with LoraLoader"),
        ("vae_ft_mse_840000_fp32", "looks like a VAE: load it with VAELoader"),
        ("clip_l_fp16", "looks like a text encoder: load it with CLIPLoader"),
        ("controlnet_sd15_canny_fp16", "looks like a ControlNet"),
        (
            "flux1_dev_fp8_checkpoint",
            "not supported yet: Flux .found 'model.diffusion_model.double",
        ),
        ("flux1_schnell_bf16", "not supported yet: Flux .found 'double_blocks"),
    ],
)
def test_what_is_no_checkpoint_is_refused_by_name(layout: str, told: str, tmp_path: Path) -> None:
    path = layouts.write_sparse(
        tmp_path / "other.safetensors", layouts.layout(layout).tensors.values()
    )
    with pytest.raises(RuntimeError, match=rf"other\.safetensors.*{told}"):
        comfy.sd.load_checkpoint_guess_config(str(path))


def test_incomplete_network_is_refused_by_name(tmp_path: Path) -> None:
    lost = "model.diffusion_model.middle_block.0.in_layers.2."
    path = narrow.write_checkpoint(tmp_path / "cut.safetensors", without=(lost,))
    with pytest.raises(IncompleteModel, match=r"cut\.safetensors.*middle_block\.0\.in_layers\.2"):
        comfy.sd.load_checkpoint_guess_config(str(path))


def test_tensors_of_no_use_are_named(sd15: Path, caplog: pytest.LogCaptureFixture) -> None:
    sd = comfy.utils.load_torch_file(sd15)
    sd["stray.weight"] = torch.zeros(1)
    sd["model.diffusion_model.extra.weight"] = torch.zeros(1)
    sd["alphas_cumprod"] = torch.zeros(1000)
    comfy.sd.load_state_dict_guess_config(sd)
    assert "'stray.weight'" in caplog.text
    assert "'extra.weight'" in caplog.text
    assert "alphas_cumprod" not in caplog.text


# -- parts ---------------------------------------------------------------------------------------


def test_bare_diffusion_model_comes_alone(sd15: Path) -> None:
    sd = {
        key.removeprefix(narrow.UNET_PREFIX): tensor
        for key, tensor in comfy.utils.load_torch_file(sd15).items()
        if key.startswith(narrow.UNET_PREFIX)
    }
    loaded = comfy.sd.load_state_dict_guess_config(sd)
    assert loaded is not None
    model, clip, vae, vision = loaded
    assert model is not None
    assert clip is None
    assert vision is None
    assert vae is not None
    with pytest.raises(RuntimeError, match="VAE is invalid"):
        vae.throw_exception_if_invalid()


@pytest.mark.parametrize("names", ["prefixed", "bare", "diffusers"])
def test_diffusion_model_loads_by_every_school_of_names(sd15: Path, names: str) -> None:
    whole, *_ = comfy.sd.load_checkpoint_guess_config(str(sd15))
    assert whole is not None
    wanted = whole.model.diffusion_model.state_dict()
    state: dict[str, Any] = dict(wanted)
    if names == "prefixed":
        state = {narrow.UNET_PREFIX + key: tensor for key, tensor in wanted.items()}
    elif names == "diffusers":
        to_own = comfy.utils.unet_to_diffusers(whole.model.model_config.unet_config)
        to_diffusers = {own: other for other, own in to_own.items()}
        state = {to_diffusers[key]: tensor for key, tensor in wanted.items()}
    model = comfy.sd.load_diffusion_model_state_dict(state)
    assert model is not None
    got = model.model.diffusion_model.state_dict()
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def test_text_encoders_of_two_files_are_joined_in_any_order(tmp_path: Path) -> None:
    paths = []
    for width, projection in ((128, 128), (64, None)):
        state = narrow.clip_on_meta(width, "", projection)
        specs = [layouts.Spec(key, "F16", tuple(t.shape)) for key, t in state.items()]
        paths.append(str(layouts.write_weights(tmp_path / f"{width}.safetensors", specs)))
    clip = comfy.sd.load_clip(paths)
    cond, pooled = clip.encode_from_tokens(clip.tokenize("a cat"), return_pooled=True)
    assert cond.shape == (1, 77, 64 + 128)
    assert pooled.shape == (1, 128)


@pytest.mark.parametrize(
    ("layout", "told"),
    [
        ("t5xxl_fp16", "not supported yet: the text encoder T5_XXL"),
        ("qwen_3_4b_bf16", "not supported yet: the text encoder QWEN3"),
        ("lora_sd15_kohya_r16", "is not a text encoder but looks like a LoRA"),
    ],
)
def test_what_is_no_text_encoder_is_refused_by_name(layout: str, told: str, tmp_path: Path) -> None:
    specs = layouts.layout(layout).tensors.values()
    path = layouts.write_sparse(tmp_path / "te.safetensors", specs)
    with pytest.raises(UndetectedModel, match=rf"te\.safetensors.*{told}"):
        comfy.sd.load_clip([str(path)])


# -- saving, LoRAs -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_saved_checkpoint_has_the_bytes_of_the_first(family: str, tmp_path: Path) -> None:
    first = narrow.write_checkpoint(tmp_path / "first.safetensors", family)
    model, clip, vae, vision = comfy.sd.load_checkpoint_guess_config(
        str(first), output_clipvision=family in UNCLIP
    )
    assert model is not None
    comfy.sd.save_checkpoint(tmp_path / "second.safetensors", model, clip, vae, vision)
    wanted = safetensors.torch.load_file(first)
    got = safetensors.torch.load_file(tmp_path / "second.safetensors")
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[key], wanted[key]) for key in wanted)


def _lora(width: int) -> dict[str, torch.Tensor]:
    base = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    return {
        f"{base}.lora_up.weight": torch.ones(width, 4),
        f"{base}.lora_down.weight": torch.full((4, width), 0.5),
        f"{base}.alpha": torch.tensor(4.0),
    }


def test_saved_checkpoint_holds_its_lora(sd15: Path, tmp_path: Path) -> None:
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(sd15))
    patched, _ = comfy.sd.load_lora_for_models(model, clip, _lora(32), 0.5, 1.0)
    assert patched is not None
    comfy.sd.save_checkpoint(tmp_path / "second.safetensors", patched, clip, vae)
    key = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    before, after = (
        safetensors.torch.load_file(path)[key].float()
        for path in (sd15, tmp_path / "second.safetensors")
    )
    assert torch.allclose(after - before, torch.ones(32, 32), atol=2e-3)


def test_lora_of_another_family_changes_nothing_and_is_told(
    sd15: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model, clip, *_ = comfy.sd.load_checkpoint_guess_config(str(sd15))
    other = {
        "lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": torch.ones(8, 2),
        "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight": torch.ones(2, 8),
    }
    patched, _ = comfy.sd.load_lora_for_models(model, clip, other, 1.0, 1.0)
    assert patched is not None
    assert patched.patches == {}
    assert "double_blocks_0_img_attn_qkv" in caplog.text


def _with_impossible_shape(place: str, path: Path) -> str:
    state = safetensors.torch.load_file(path)
    (key,) = [key for key in state if key.endswith(place)]
    state[key] = torch.zeros(0)
    damaged = path.with_name("odd.safetensors")
    safetensors.torch.save_file(state, damaged)
    return str(damaged)


@pytest.mark.parametrize(
    "place", ["diffusion_model.input_blocks.1.0.out_layers.3.weight", "token_embedding.weight"]
)
def test_checkpoint_with_a_tensor_of_an_impossible_shape_is_refused_by_name(
    place: str, tmp_path: Path
) -> None:
    path = tmp_path / "model.safetensors"
    narrow.write_checkpoint(path, encoding="F32")
    damaged = _with_impossible_shape(place, path)
    with pytest.raises(RuntimeError, match=r"odd\.safetensors: .* is damaged"):
        comfy.sd.load_checkpoint_guess_config(damaged)

"""The picture encoder computes what transformers' computes with the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import save_file

import comfy.clip_vision
import comfy.loading.default
import comfy.model_management
import folder_paths
from comfy.loading import FileTensor
from comfy.state_loading import IncompleteModel
from comfy_extras.classic import vision
from support import managed
from support.networks import relative_difference, with_random_weights
from support.simulated_device import SimulatedDevice

WIDTH, LAYERS, SIDE, PATCH, PROJECTION = 128, 3, 56, 14, 32


def reference(width: int = WIDTH, act: str = "quick_gelu", heads: int = 2) -> Any:
    """transformers' network."""
    config = transformers.CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=LAYERS,
        num_attention_heads=heads,
        image_size=SIDE,
        patch_size=PATCH,
        projection_dim=PROJECTION,
        hidden_act=act,
    )
    return with_random_weights(transformers.CLIPVisionModelWithProjection(config))


def state_of(theirs: Any) -> dict[str, torch.Tensor]:
    return {
        key: one.clone() for key, one in theirs.state_dict().items() if "position_ids" not in key
    }


def to_open_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Names and forms of open_clip."""
    renamed = {}
    layer = "vision_model.encoder.layers"
    names = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for number in range(LAYERS):
        block = f"visual.transformer.resblocks.{number}"
        for kind in ("weight", "bias"):
            for theirs, ours in names.items():
                renamed[f"{block}.{ours}.{kind}"] = state[f"{layer}.{number}.{theirs}.{kind}"]
            parts = [state[f"{layer}.{number}.self_attn.{p}_proj.{kind}"] for p in "qkv"]
            renamed[f"{block}.attn.in_proj_{kind}"] = torch.cat(parts)
    for kind in ("weight", "bias"):
        renamed[f"visual.ln_pre.{kind}"] = state[f"vision_model.pre_layrnorm.{kind}"]
        renamed[f"visual.ln_post.{kind}"] = state[f"vision_model.post_layernorm.{kind}"]
    embeddings = "vision_model.embeddings"
    renamed["visual.class_embedding"] = state[f"{embeddings}.class_embedding"]
    renamed["visual.conv1.weight"] = state[f"{embeddings}.patch_embedding.weight"]
    renamed["visual.positional_embedding"] = state[f"{embeddings}.position_embedding.weight"]
    renamed["visual.proj"] = state["visual_projection.weight"].t().contiguous()
    return renamed


def test_nodes_load_by_name_and_encode(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = folder_paths.folder_names_and_paths["clip_vision"][1]
    place = ([str(tmp_path)], known)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "clip_vision", place)
    save_file(state_of(reference()), tmp_path / "v.safetensors")
    (model,) = vision.CLIPVisionLoader().load_clip("v.safetensors")
    wide = torch.cat([images, 1 - images], dim=2)
    encode = vision.CLIPVisionEncode().encode
    cut, squeezed = (encode(model, wide, crop)[0].image_embeds for crop in ("center", "none"))
    assert cut.shape == (2, PROJECTION)
    assert torch.equal(cut, model.encode_image(wide).image_embeds)
    assert relative_difference(squeezed, cut) > 1e-3


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(2, SIDE, SIDE, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("names", ["transformers", "open_clip"])
def test_it_finds_what_transformers_finds(names: str, images: torch.Tensor, tmp_path: Path) -> None:
    theirs = reference()
    state = state_of(theirs)
    save_file(to_open_clip(state) if names == "open_clip" else state, tmp_path / "v.safetensors")
    found = comfy.clip_vision.load(str(tmp_path / "v.safetensors")).encode_image(images)
    pixels = comfy.clip_vision.clip_preprocess(images, SIDE)
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels, output_hidden_states=True)
    assert relative_difference(found["image_embeds"], wanted.image_embeds) <= 1e-4
    assert relative_difference(found.last_hidden_state, wanted.last_hidden_state) <= 1e-4
    assert relative_difference(found.penultimate_hidden_states, wanted.hidden_states[-2]) <= 1e-4


def test_wide_ones_have_sixteen_heads_and_the_exact_gelu(images: torch.Tensor) -> None:
    theirs = reference(1280, "gelu", 16)
    ours = comfy.clip_vision.load_clipvision_from_sd(state_of(theirs))
    assert ours is not None
    pixels = comfy.clip_vision.clip_preprocess(images, SIDE)
    with torch.no_grad():
        wanted = theirs(pixel_values=pixels).image_embeds
    assert relative_difference(ours.encode_image(images).image_embeds, wanted) <= 1e-4


def test_pictures_are_cut_around_their_centre_or_squeezed() -> None:
    image = torch.zeros(1, 60, 120, 3)
    image[:, :, 30:90] = 1.0
    one = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    cut = comfy.clip_vision.clip_preprocess(image, 60, crop=True, **one)
    squeezed = comfy.clip_vision.clip_preprocess(image, 60, crop=False, **one)
    assert cut.shape == squeezed.shape == (1, 3, 60, 60)
    assert cut.min() == 1.0
    assert float(squeezed.mean()) == pytest.approx(0.5, abs=0.01)
    assert squeezed[..., :12].max() == 0.0


def test_channels_are_normalized_as_published() -> None:
    grey = torch.full((1, 8, 8, 4), 128 / 255)
    found = comfy.clip_vision.clip_preprocess(grey, 8)
    published = zip(comfy.clip_vision.MEAN, comfy.clip_vision.STD, strict=True)
    wanted = [(128 / 255 - mean) / std for mean, std in published]
    torch.testing.assert_close(found[0, :, 0, 0], torch.tensor(wanted))


def test_weights_stay_in_their_file_until_a_picture_comes(
    images: torch.Tensor, tmp_path: Path, simgpu: SimulatedDevice
) -> None:
    with managed.own_manager(simgpu.device, strategy="file-slice"):
        theirs = reference()
        save_file(state_of(theirs), tmp_path / "v.safetensors")
        model = comfy.clip_vision.load(str(tmp_path / "v.safetensors"))
        weights = model.model.parameters
        assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights())
        found = model.encode_image(images)
        assert all(one.device == simgpu.device for one in weights())
        pixels = comfy.clip_vision.clip_preprocess(images, SIDE)
        with torch.no_grad():
            wanted = theirs(pixel_values=pixels).image_embeds
        assert relative_difference(found.image_embeds, wanted) <= 1e-3
        comfy.model_management.unload_all_models()
        assert all(isinstance(one, FileTensor) and one.is_in_file for one in weights())


def test_siglip_is_told_by_name(tmp_path: Path) -> None:
    key = "vision_model.embeddings.patch_embedding.bias"
    save_file({key: torch.zeros(4)}, tmp_path / "siglip.safetensors")
    with pytest.raises(RuntimeError, match=r"siglip\.safetensors: not supported yet: .* SigLIP"):
        comfy.clip_vision.load(str(tmp_path / "siglip.safetensors"))


def test_what_is_no_picture_encoder_is_refused_by_what_it_is(tmp_path: Path) -> None:
    save_file({"decoder.conv_in.weight": torch.zeros(4)}, tmp_path / "vae.safetensors")
    with pytest.raises(
        RuntimeError, match="is not a picture encoder of CLIP's but looks like a VAE"
    ):
        comfy.clip_vision.load(str(tmp_path / "vae.safetensors"))


@pytest.mark.parametrize("shape", [(), (0, 0, 0, 0)])
def test_picture_encoder_with_a_tensor_of_an_impossible_shape_is_damaged(
    shape: tuple[int, ...], tmp_path: Path
) -> None:
    key = "vision_model.embeddings.patch_embedding.weight"
    save_file({**state_of(reference()), key: torch.zeros(shape)}, tmp_path / "odd.safetensors")
    with pytest.raises(
        IncompleteModel, match=r"odd\.safetensors: CLIP vision (is damaged|does not)"
    ):
        comfy.clip_vision.load(str(tmp_path / "odd.safetensors"))


def test_picture_encoder_of_open_clip_whose_fused_matrix_cannot_be_cut_is_damaged(
    tmp_path: Path,
) -> None:
    key = "visual.transformer.resblocks.0.attn.in_proj_weight"
    state = {**to_open_clip(state_of(reference())), key: torch.zeros(2)}
    save_file(state, tmp_path / "odd.safetensors")
    with pytest.raises(IncompleteModel, match=r"odd\.safetensors: CLIP vision is damaged"):
        comfy.clip_vision.load(str(tmp_path / "odd.safetensors"))

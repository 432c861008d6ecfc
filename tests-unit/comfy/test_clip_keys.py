from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import comfy.loading
from comfy import clip_keys, clip_model
from comfy.clip_keys import (
    checkpoint_text_encoders,
    clip_config_from_state_dict,
    clip_text_keys,
    encoder_configs,
    encoder_name,
)
from comfy.loading import FileTensor
from comfy.sd1_clip import SD1ClipModel
from comfy.sdxl_clip import SDXLClipModel, SDXLRefinerClipModel
from comfy.text_encoders.sd2_clip import SD2ClipModel
from support import layouts

CHECKPOINTS: dict[str, tuple[Any, dict[str, str]]] = {
    "sd15_checkpoint_fp16": (SD1ClipModel, {"cond_stage_model.": "clip_l"}),
    "sd15_checkpoint_fp32_emaonly": (SD1ClipModel, {"cond_stage_model.": "clip_l"}),
    "sd15_inpaint_checkpoint_fp16": (SD1ClipModel, {"cond_stage_model.": "clip_l"}),
    "sd21_v_checkpoint_fp16": (SD2ClipModel, {"cond_stage_model.model.": "clip_h"}),
    "sd21_v_checkpoint_fp32": (SD2ClipModel, {"cond_stage_model.": "clip_h"}),
    "sdxl_base_checkpoint_fp16": (
        SDXLClipModel,
        {"conditioner.embedders.0.": "clip_l", "conditioner.embedders.1.": "clip_g"},
    ),
    "sdxl_refiner_checkpoint_fp16": (SDXLRefinerClipModel, {"conditioner.embedders.0.": "clip_g"}),
}
FULL_SIZE = {
    "clip_l": clip_model.CLIP_L,
    "clip_h": clip_model.CLIP_H,
    "clip_g": clip_model.CLIP_G,
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_published_checkpoints_fill_their_text_encoders(name: str) -> None:
    model, prefixes = CHECKPOINTS[name]
    sd = checkpoint_text_encoders(layouts.layout(name).state_dict(), prefixes)
    configs = encoder_configs(sd)
    assert configs == {encoder: FULL_SIZE[encoder] for encoder in prefixes.values()}
    options = {f"{encoder}_config": config for encoder, config in configs.items()}
    built = model(device="meta", model_options=options)
    result = built.load_state_dict(sd, strict=False, assign=True)
    assert result.missing_keys == []
    assert result.unexpected_keys == []


@pytest.mark.parametrize(
    ("name", "encoder"), [("clip_l_fp16", "clip_l"), ("clip_g_fp16", "clip_g")]
)
def test_files_of_one_encoder_are_known_by_their_width(name: str, encoder: str) -> None:
    sd = clip_text_keys(layouts.layout(name).state_dict())
    config = clip_config_from_state_dict(sd)
    assert config == FULL_SIZE[encoder]
    assert encoder_name(config) == encoder
    result = SDXLClipModel(device="meta").load_sd(sd)
    assert result.missing_keys == result.unexpected_keys == []


def test_width_of_h_is_h() -> None:
    assert encoder_name(clip_model.CLIP_H) == "clip_h"


def narrow(width: int = 64, layers: int = 2) -> dict[str, torch.Tensor]:
    config = {
        **clip_model.CLIP_L,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": 1,
        "vocab_size": 11,
    }
    network = SD1ClipModel("meta", model_options={"clip_l_config": config})
    return dict(network.clip_l.transformer.state_dict())


@pytest.mark.parametrize("wrapper", ["", "transformer.", "cond_stage_model.transformer."])
@pytest.mark.parametrize("inner", ["text_model.", ""])
def test_wrappers_and_the_models_name_may_be_there_or_not(wrapper: str, inner: str) -> None:
    plain = narrow()
    sd = {wrapper + key.replace("text_model.", inner): tensor for key, tensor in plain.items()}
    sd[f"{wrapper}{inner}embeddings.position_ids"] = torch.arange(77)[None]
    prefix = "cond_stage_model." if wrapper.startswith("cond") else ""
    assert clip_text_keys(sd, prefix) == plain


def test_other_parts_of_a_checkpoint_are_ignored_and_it_is_left_as_it_is() -> None:
    sd = {"te.logit_scale": torch.zeros(()), "unet.x": torch.zeros(1)}
    before = dict(sd)
    assert clip_text_keys(sd, "te.") == {}
    assert sd == before


@pytest.mark.parametrize(("width", "heads"), [(32, 1), (64, 1), (192, 3)])
def test_heads_come_from_the_width(width: int, heads: int) -> None:
    config = clip_config_from_state_dict(narrow(width, layers=3))
    assert config == {
        **clip_model.CLIP_L,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "vocab_size": 11,
    }


@pytest.mark.parametrize(
    ("width", "given", "found"),
    [(768, None, "quick_gelu"), (1024, None, "gelu"), (64, "gelu", "gelu")],
)
def test_activation_comes_from_the_width_unless_given(
    width: int, given: str | None, found: str
) -> None:
    config = clip_config_from_state_dict(narrow(width), hidden_act=given)
    assert config is not None
    assert config["hidden_act"] == found


@pytest.mark.parametrize(("name", "activation"), clip_keys.ACTIVATION_OF.items())
def test_activation_of_narrow_encoders_comes_from_their_name(name: str, activation: str) -> None:
    sd = {f"{name}.transformer.{key}": tensor for key, tensor in narrow().items()}
    assert encoder_configs(sd)[name]["hidden_act"] == activation


@pytest.mark.parametrize("sd", [{}, {"text_model.x": torch.zeros(1)}])
def test_what_is_no_text_encoder_has_no_configuration(sd: dict[str, torch.Tensor]) -> None:
    assert clip_config_from_state_dict(sd) is None


def test_converting_open_clip_names_reads_no_byte(tmp_path: Path) -> None:
    width = 64
    layer = "model.transformer.resblocks.0."
    source = {
        "model.text_projection": torch.randn(width, 32),
        "model.token_embedding.weight": torch.randn(11, width),
        "model.positional_embedding": torch.randn(77, width),
        f"{layer}attn.in_proj_weight": torch.randn(3 * width, width),
        f"{layer}attn.in_proj_bias": torch.randn(3 * width),
        f"{layer}mlp.c_fc.weight": torch.randn(2 * width, width),
    }
    path = tmp_path / "clip.safetensors"
    comfy.loading.save_state_dict(source, path)
    named = clip_text_keys(comfy.loading.load(str(path), strategy="file-slice").state_dict)
    assert all(isinstance(t, FileTensor) and t.is_in_file for t in named.values())
    assert torch.equal(named["text_projection.weight"], source["model.text_projection"].t())
    assert named["text_projection.weight"].is_in_file
    k_proj = named["text_model.encoder.layers.0.self_attn.k_proj.weight"]
    assert torch.equal(k_proj, source[f"{layer}attn.in_proj_weight"][width : 2 * width])
    assert k_proj.file_slice is not None
    assert all(t.is_in_file for t in named.values())

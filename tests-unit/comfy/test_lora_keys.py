"""Every published LoRA file names weights of its model, in whichever school it was written."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import comfy.lora
from support import layouts
from support.lora_files import lora, module

UNETS = {
    "sd15": ("sd15_checkpoint_fp16", ("clip_l",)),
    "sdxl": ("sdxl_base_checkpoint_fp16", ("clip_l", "clip_g")),
    "flux": ("flux1_dev_bf16", ("clip_l",)),
    "chroma": ("chroma1_hd_bf16", ()),
}
_KIND = {"flux": {"image_model": "flux"}, "chroma": {"image_model": "chroma"}}


def stand_in(state_dict: dict[str, torch.Tensor], config: Any = None) -> Any:
    """What naming needs of a model: its keys and the numbers of its network."""
    return SimpleNamespace(
        state_dict=lambda: state_dict, model_config=SimpleNamespace(unet_config=config)
    )


def weights(family: str) -> dict[str, torch.Tensor]:
    """The diffusion model's weights as a `BaseModel` names them."""
    state_dict = layouts.layout(UNETS[family][0]).state_dict()
    prefix = "model.diffusion_model."
    inside = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    if not inside:
        return {f"diffusion_model.{key}": tensor for key, tensor in state_dict.items()}
    return {key.removeprefix("model."): tensor for key, tensor in inside.items()}


def clip_weights(*towers: str) -> dict[str, torch.Tensor]:
    """The weights of text encoders as a CLIP names them."""
    return {
        f"{tower}.transformer.{key}": tensor
        for tower in towers
        for key, tensor in layouts.layout(f"{tower}_fp16").state_dict().items()
    }


def config_of(family: str) -> dict[str, Any]:
    config = layouts.layout(UNETS[family][0]).config
    return {**(config or {}), **_KIND.get(family, {})}


def names(family: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """All names for a family, and all its weights."""
    unet, clip = weights(family), clip_weights(*UNETS[family][1])
    named = comfy.lora.model_lora_keys_unet(stand_in(unet, config_of(family)), {})
    return comfy.lora.model_lora_keys_clip(stand_in(clip), named), {**unet, **clip}


def published(name: str) -> dict[str, torch.Tensor]:
    """A LoRA file with its alphas, and shapes for the rest."""
    state_dict = layouts.layout(name).state_dict()
    return {k: t if t.dim() else torch.tensor(16.0) for k, t in state_dict.items()}


FILES = {
    "lora_sd15_kohya_r16": ("sd15", 264),
    "lora_sd15_lcm_r64": ("sd15", 278),
    "lora_sdxl_kohya_r16": ("sdxl", 986),
    "lora_sdxl_diffusers_names_r16": ("sdxl", 986),
    "lora_flux_kohya_r16": ("flux", 304),
    "lora_flux_peft_diffusers_r16": ("flux", 342),
    "lora_flux_peft_diffusers_all_r64": ("flux", 504),
    "lora_chroma_kohya_r16": ("chroma", 228),
    "lora_chroma_peft_diffusion_model_r16": ("chroma", 228),
}


@pytest.mark.parametrize("file", FILES)
def test_published_file_maps_whole_and_fits(file: str, caplog: pytest.LogCaptureFixture) -> None:
    family, count = FILES[file]
    named, model = names(family)
    patches = comfy.lora.load_lora(published(file), named)
    assert caplog.messages == []
    assert len(patches) == count
    for target, adapter in patches.items():
        key, rows = (target, None) if isinstance(target, str) else target[:2]
        weight = model[key] if rows is None else model[key].narrow(*rows)
        assert adapter.misfit(weight) is None, target


def test_both_namings_of_the_same_sdxl_lora_reach_the_same_weights() -> None:
    named, _ = names("sdxl")
    reached = [
        set(comfy.lora.load_lora(published(file), named))
        for file in ("lora_sdxl_kohya_r16", "lora_sdxl_diffusers_names_r16")
    ]
    assert reached[0] == reached[1]


def test_flux_lora_on_chroma_leaves_the_modulation_unused(
    caplog: pytest.LogCaptureFixture,
) -> None:
    named, _ = names("chroma")
    patches = comfy.lora.load_lora(published("lora_flux_kohya_r16"), named)
    assert len(patches) == 304 - 76
    (message,) = caplog.messages
    assert "228 of 912 keys" in message
    assert "lora_unet_double_blocks_0_img_mod_lin, " in message
    assert message.endswith("and 70 more modules")


QUERY = "input_blocks.1.1.transformer_blocks.0.attn1.to_q"
OUT = "middle_block.1.transformer_blocks.0.attn2.to_out.0"
MIDDLE_OUT = "mid_block.attentions.0.transformer_blocks.0.attn2"
DOWN_QUERY = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
LAYER = "text_model.encoder.layers.3"

UNET_NAMES = [
    (f"diffusion_model.{QUERY}", QUERY),
    ("lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q", QUERY),
    ("lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", QUERY),
    ("lycoris_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q", QUERY),
    (f"unet.{DOWN_QUERY}.to_q", QUERY),
    (f"{DOWN_QUERY}.to_q", QUERY),
    (f"base_model.model.{DOWN_QUERY}.to_q", QUERY),
    (f"unet.{DOWN_QUERY}.processor.to_q", QUERY),
    (f"{DOWN_QUERY}.processor.to_q", QUERY),
    (f"unet.{MIDDLE_OUT}.to_out.0", OUT),
    (f"unet.{MIDDLE_OUT}.processor.to_out", OUT),
    ("lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_out_0", OUT),
    ("lora_unet_down_blocks_0_downsamplers_0_conv", "input_blocks.3.0.op"),
    ("lora_unet_up_blocks_1_resnets_0_conv_shortcut", "output_blocks.3.0.skip_connection"),
    ("unet.time_embedding.linear_1", "time_embed.0"),
]


@pytest.mark.parametrize(("name", "native"), UNET_NAMES)
def test_unet_module_is_known_by_this_name(name: str, native: str) -> None:
    model = stand_in(weights("sd15"), config_of("sd15"))
    assert comfy.lora.model_lora_keys_unet(model)[name] == f"diffusion_model.{native}.weight"


CLIP_NAMES = [
    (("clip_l",), "lora_te_text_model_encoder_layers_3_mlp_fc1", "clip_l"),
    (("clip_l",), "lora_te1_text_model_encoder_layers_3_mlp_fc1", "clip_l"),
    (("clip_l",), f"text_encoder.{LAYER}.mlp.fc1", "clip_l"),
    (("clip_l",), f"text_encoders.clip_l.transformer.{LAYER}.mlp.fc1", "clip_l"),
    (("clip_l", "clip_g"), "lora_te1_text_model_encoder_layers_3_mlp_fc1", "clip_l"),
    (("clip_l", "clip_g"), "lora_te2_text_model_encoder_layers_3_mlp_fc1", "clip_g"),
    (("clip_l", "clip_g"), f"text_encoder.{LAYER}.mlp.fc1", "clip_l"),
    (("clip_l", "clip_g"), f"text_encoder_2.{LAYER}.mlp.fc1", "clip_g"),
    (("clip_g",), "lora_te_text_model_encoder_layers_3_mlp_fc1", "clip_g"),
    (("clip_g",), f"text_encoder.{LAYER}.mlp.fc1", "clip_g"),
]


@pytest.mark.parametrize(("towers", "name", "tower"), CLIP_NAMES)
def test_module_of_a_clip_is_known_by_this_name(
    towers: tuple[str, ...], name: str, tower: str
) -> None:
    named = comfy.lora.model_lora_keys_clip(stand_in(clip_weights(*towers)))
    assert named[name] == f"{tower}.transformer.{LAYER}.mlp.fc1.weight"


def test_open_clip_h_is_the_first_encoder() -> None:
    key = f"clip_h.transformer.{LAYER}.mlp.fc1.weight"
    named = comfy.lora.model_lora_keys_clip(stand_in({key: torch.empty(0)}))
    assert named["lora_te_text_model_encoder_layers_3_mlp_fc1"] == key
    assert named[f"text_encoder.{LAYER}.mlp.fc1"] == key


@pytest.mark.parametrize(
    ("clips", "wanted"),
    [((), {"te1"}), (("clip_l",), {"te2", "te3"}), (("clip_l", "clip_g"), {"te3"})],
)
def test_t5_is_counted_after_the_clips(clips: tuple[str, ...], wanted: set[str]) -> None:
    key = "t5xxl.transformer.encoder.block.0.layer.0.SelfAttention.q.weight"
    keys = {f"{clip}.transformer.text_model.x.weight": torch.empty(0) for clip in clips}
    named = comfy.lora.model_lora_keys_clip(stand_in({**keys, key: torch.empty(0)}))
    suffix = "_encoder_block_0_layer_0_SelfAttention_q"
    found = {n[5:8] for n, target in named.items() if target == key and n.startswith("lora_te")}
    assert found == wanted
    assert all(named[f"lora_{number}{suffix}"] == key for number in wanted)


def test_weights_that_the_model_lacks_have_no_name() -> None:
    named, model = names("sd15")
    keys = {target if isinstance(target, str) else target[0] for target in named.values()}
    assert keys <= model.keys()
    assert "lora_unet_add_embedding_linear_1" not in named


def test_maps_are_extended_where_given_and_new_where_not() -> None:
    model, clip = stand_in(weights("sd15"), config_of("sd15")), stand_in(clip_weights("clip_l"))
    own = {"mine": "kept"}
    assert comfy.lora.model_lora_keys_unet(model, own) is own
    assert comfy.lora.model_lora_keys_clip(clip, own) is own
    assert own["mine"] == "kept"
    fresh = comfy.lora.model_lora_keys_unet(model)
    fresh["dirt"] = "x"
    assert "dirt" not in comfy.lora.model_lora_keys_unet(model)
    assert "dirt" not in comfy.lora.model_lora_keys_clip(clip)


def test_parameters_that_are_no_module_s_weight_keep_their_key() -> None:
    key = "diffusion_model.double_blocks.0.img_attn.norm.query_norm.scale"
    named = comfy.lora.model_lora_keys_unet(stand_in({key: torch.empty(4)}, {}))
    assert named == {key: key}


def test_lora_for_another_family_says_so_once(caplog: pytest.LogCaptureFixture) -> None:
    named, _ = names("sd15")
    assert comfy.lora.load_lora(published("lora_flux_kohya_r16"), named) == {}
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "none of its 912 keys" in record.getMessage()
    assert "another family" in record.getMessage()


def test_rows_of_a_fused_weight_are_patched_alone() -> None:
    named, _ = names("flux")
    name = "transformer.transformer_blocks.2.attn.to_k"
    (target,) = comfy.lora.load_lora(module(name, lora((3072, 3072))), named)
    assert target == ("diffusion_model.double_blocks.2.img_attn.qkv.weight", (0, 3072, 3072))

"""What a state dict is, from published layouts, narrow models and things that are no model."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import comfy.utils
from comfy import file_kinds, model_base, model_detection, supported_models
from comfy.model_base import ModelType
from comfy.unet_detection import count_blocks
from support import layouts
from support.narrow import NARROW_SD15, NARROW_SD20, NARROW_SDXL, unet_on_meta

PREFIX = "model.diffusion_model."
CHECKPOINTS = [
    name
    for name in layouts.names()
    if layouts.layout(name).family in {"SD15", "SD20", "SDXL", "SDXLRefiner"}
]
UNSUPPORTED = [
    ("flux1_dev_bf16", "", "Flux"),
    ("flux1_dev_fp8_checkpoint", PREFIX, "Flux"),
    ("flux2_dev_bf16", "", "Flux 2"),
    ("chroma1_hd_bf16", "", "Chroma"),
    ("sd35_medium_checkpoint_bf16", PREFIX, "Stable Diffusion 3"),
    ("z_image_turbo_bf16", "", "Z-Image"),
    ("qwen_image_bf16", "", "Qwen-Image"),
    ("wan21_t2v_1_3b_fp32", "", "Wan"),
    ("controlnet_sd15_canny_fp16", "control_model.", "ControlNet"),
]
NO_MODELS = [
    ("lora_sd15_kohya_r16", "LoRA", "LoraLoader"),
    ("lora_flux_peft_diffusers_r16", "LoRA", "LoraLoader"),
    ("controlnet_sd15_canny_fp16", "ControlNet", "ControlNetLoader"),
    ("vae_ft_mse_840000_fp32", "VAE", "VAELoader"),
    ("qwen_image_vae_wan21_bf16", "VAE", "VAELoader"),
    ("taesd_decoder", "TAESD", "vae_approx"),
    ("clip_l_fp16", "text encoder", "CLIPLoader"),
    ("t5xxl_fp16", "text encoder", "CLIPLoader"),
    ("qwen_3_4b_bf16", "text encoder", "CLIPLoader"),
    ("esrgan_x4_oldarch", "upscaler", "UpscaleModelLoader"),
]


V_WITNESS = PREFIX + "output_blocks.11.1.transformer_blocks.0.norm1.bias"


def _state_of(name: str, deviation: float = 0.2) -> dict[str, torch.Tensor]:
    """A layout's tensors, those with bytes that detection reads."""
    state = layouts.layout(name).state_dict()
    if layouts.layout(name).family == "SD20":
        half = torch.full((160,), deviation)
        state[V_WITNESS] = torch.cat([half, -half])
    return state


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_published_checkpoint_is_detected(name: str) -> None:
    one = layouts.layout(name)
    state = _state_of(name)
    prefix = model_detection.unet_prefix_from_state_dict(state)
    config = model_detection.model_config_from_unet(state, prefix)
    assert prefix == PREFIX
    assert config is not None
    assert type(config).__name__ == one.family
    assert one.config is not None
    assert {key: config.unet_config.get(key) for key in one.config} == one.config


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_network_of_a_published_checkpoint_has_exactly_its_tensors(name: str) -> None:
    state = _state_of(name)
    config = model_detection.model_config_from_unet(state, PREFIX)
    assert config is not None
    model = config.get_model(state, PREFIX, device="meta")
    own = {
        key: tensor.shape
        for key, tensor in layouts.layout(name).state_dict().items()
        if key.startswith(PREFIX)
    }
    built = {PREFIX + key: t.shape for key, t in model.diffusion_model.state_dict().items()}
    assert built == own


@pytest.mark.parametrize(("name", "prefix", "told"), UNSUPPORTED)
def test_family_of_a_later_day_is_named(name: str, prefix: str, told: str) -> None:
    state = layouts.layout(name).state_dict()
    with pytest.raises(model_detection.UnsupportedFamily, match=f"not supported yet: .*{told}"):
        model_detection.model_config_from_unet(state, prefix)


@pytest.mark.parametrize(
    ("deviation", "kind"), [(0.2, ModelType.V_PREDICTION), (0.05, ModelType.EPS)]
)
def test_deviation_of_one_bias_tells_what_sd2_predicts(deviation: float, kind: ModelType) -> None:
    state = _state_of("sd21_v_checkpoint_fp16", deviation)
    config = model_detection.model_config_from_unet(state, PREFIX)
    assert config is not None
    assert config.model_type(state, PREFIX) is kind


MARKS: list[tuple[dict[str, torch.Tensor], ModelType, dict[str, Any]]] = [
    ({}, ModelType.EPS, {}),
    ({"v_pred": torch.tensor([])}, ModelType.V_PREDICTION, {}),
    (
        {"v_pred": torch.tensor([]), "ztsnr": torch.tensor([])},
        ModelType.V_PREDICTION,
        {"zsnr": True},
    ),
    (
        {"edm_mean": torch.zeros(4), "edm_std": torch.ones(4)},
        ModelType.EDM,
        {"sigma_data": 0.5, "sigma_min": 0.002, "sigma_max": 80.0},
    ),
    (
        {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.5)},
        ModelType.V_PREDICTION_EDM,
        {"sigma_max": 120.0, "sigma_min": 0.5},
    ),
]


@pytest.mark.parametrize(("marks", "kind", "settings"), MARKS, ids=[",".join(m[0]) for m in MARKS])
def test_marks_tell_what_sdxl_predicts(
    marks: dict[str, torch.Tensor], kind: ModelType, settings: dict[str, Any]
) -> None:
    state = {**layouts.layout("sdxl_base_checkpoint_fp16").state_dict(), **marks}
    config = model_detection.model_config_from_unet(state, PREFIX)
    assert config is not None
    assert config.model_type(state, PREFIX) is kind
    assert config.sampling_settings == settings


def test_marks_of_one_file_leave_the_class_alone() -> None:
    state = {**layouts.layout("sdxl_base_checkpoint_fp16").state_dict(), "v_pred": torch.ones(1)}
    state["ztsnr"] = torch.ones(1)
    config = model_detection.model_config_from_unet(state, PREFIX)
    assert config is not None
    config.model_type(state, PREFIX)
    assert supported_models.SDXL.sampling_settings == {}


@pytest.mark.parametrize(
    ("numbers", "extra", "family"),
    [
        (NARROW_SD15, (), "SD15"),
        ({**NARROW_SD15, "in_channels": 9}, (), "SD15"),
        (NARROW_SD20, (), "SD20"),
        (NARROW_SDXL, (), "SDXL"),
        ({**NARROW_SDXL, "context_dim": 64, "adm_in_channels": 64 + 1280}, (), "SDXLRefiner"),
        (NARROW_SDXL, ("conditioner.embedders.0.model.ln_final.weight",), "SDXLRefiner"),
        (
            {**NARROW_SDXL, "context_dim": 64, "adm_in_channels": 64 + 1280},
            ("conditioner.embedders.1.model.ln_final.weight",),
            "SDXL",
        ),
    ],
)
def test_narrow_model_is_taken_for_the_family_it_is_built_like(
    numbers: dict[str, Any], extra: tuple[str, ...], family: str
) -> None:
    state = unet_on_meta(numbers, PREFIX)
    state |= {key: torch.empty(1, device="meta") for key in extra}
    config = model_detection.model_config_from_unet(state, PREFIX)
    assert config is not None
    assert type(config).__name__ == family
    assert {key: config.unet_config[key] for key in numbers} == numbers


@pytest.mark.parametrize(
    ("depth", "out", "middle", "family"),
    [
        ([0, 0, 2, 2, 4, 4], [0, 0, 0, 2, 2, 2, 4, 4, 4], -1, "SSD1B"),
        ([0, 0, 1, 1, 2, 2], [0, 0, 0, 1, 1, 1, 2, 2, 2], -1, "Segmind_Vega"),
        ([0, 0, 3, 3, 5, 5], [0, 0, 0, 3, 3, 3, 5, 5, 5], 2, "SDXL"),
    ],
)
def test_pruned_sdxl_is_told_by_its_depths(
    depth: list[int], out: list[int], middle: int, family: str
) -> None:
    full = layouts.layout("sdxl_base_checkpoint_fp16").config
    assert full is not None
    numbers = {
        **full,
        "transformer_depth": depth,
        "transformer_depth_output": out,
        "transformer_depth_middle": middle,
    }
    config = model_detection.model_config_from_unet(unet_on_meta(numbers, PREFIX), PREFIX)
    assert config is not None
    assert type(config).__name__ == family
    assert isinstance(config.get_model({}, device="meta"), model_base.SDXL)


def test_inpainting_variant_takes_mask_and_picture() -> None:
    state = layouts.layout("sd15_inpaint_checkpoint_fp16").state_dict()
    config = model_detection.model_config_from_unet(state, PREFIX)
    assert config is not None
    assert config.get_model(state, PREFIX, device="meta").concat_keys == ("mask", "masked_image")


def test_input_channels_of_unknown_meaning_are_refused() -> None:
    config = model_detection.model_config_from_unet_config({**NARROW_SD15, "in_channels": 8})
    assert config is not None
    with pytest.raises(file_kinds.UndetectedModel, match="8 input channels"):
        config.get_model({}, device="meta")


def test_network_without_one_of_its_tensors_is_incomplete() -> None:
    state = unet_on_meta(NARROW_SD15, PREFIX)
    del state[PREFIX + "out.2.weight"]
    with pytest.raises(file_kinds.UndetectedModel, match=r"'model\.diffusion_model\.out\.2"):
        model_detection.model_config_from_unet(state, PREFIX)


@pytest.mark.parametrize(
    ("key", "shape"),
    [("input_blocks.0.0", ()), ("input_blocks.0.0", (0, 0, 0, 0)), ("out.2", ())],
)
def test_network_with_a_tensor_of_an_impossible_shape_is_damaged(
    key: str, shape: tuple[int, ...]
) -> None:
    state = unet_on_meta(NARROW_SD15, PREFIX)
    state[f"{PREFIX}{key}.weight"] = torch.empty(shape, device="meta")
    with pytest.raises(file_kinds.UndetectedModel, match="a UNet is damaged"):
        model_detection.model_config_from_unet(state, PREFIX)


@pytest.mark.parametrize(
    "name", ["t5xxl_fp16", "vae_ft_mse_840000_fp32", "lora_sdxl_kohya_r16", "taesd_decoder"]
)
def test_what_is_no_model_is_none(name: str) -> None:
    assert model_detection.model_config_from_unet(layouts.layout(name).state_dict(), "") is None


@pytest.mark.parametrize(("name", "kind", "advice"), NO_MODELS)
def test_what_is_no_model_is_explained(name: str, kind: str, advice: str) -> None:
    text = file_kinds.explain(layouts.layout(name).state_dict(), "x.safetensors", "a checkpoint")
    assert text.startswith("x.safetensors is not a checkpoint but looks like a")
    assert kind in text
    assert advice in text


@pytest.mark.parametrize(
    "state",
    [
        {"emb_params": torch.zeros(2, 768)},
        {"clip_l": torch.zeros(2, 768), "clip_g": torch.zeros(2, 1280)},
        {"string_to_param": {"*": torch.zeros(2, 768)}, "name": "cat"},
    ],
)
def test_embedding_is_explained(state: dict[str, Any]) -> None:
    assert "embedding:NAME" in file_kinds.explain(state, "cat.pt", "a checkpoint")


def test_unknown_content_is_shown() -> None:
    state = {"a.b": torch.zeros(1), "c.d": torch.zeros(1)}
    assert "2 entries, the first are 'a.b', 'c.d'" in file_kinds.explain(state, "x", "a checkpoint")


@pytest.mark.parametrize(
    ("keys", "count"),
    [
        ([], 0),
        (["a.0.w", "a.1.w", "a.1.b"], 2),
        (["a.0.w", "a.2.w"], 1),
        (["a.1.w"], 0),
        (["b.0.w", "a.x.w", "a.0w"], 0),
    ],
)
def test_blocks_are_counted_without_gaps(keys: list[str], count: int) -> None:
    assert count_blocks(keys, "a.{}.") == count


@pytest.mark.parametrize(
    ("prefix", "keys", "found"),
    [
        (PREFIX, 10, PREFIX),
        ("model.model.", 10, "model.model."),
        ("net.", 10, "net."),
        (PREFIX, 5, "model."),
        ("x.", 10, "model."),
    ],
)
def test_prefix_is_the_one_with_the_most_keys(prefix: str, keys: int, found: str) -> None:
    state = [f"{prefix}{number}.weight" for number in range(keys)]
    assert model_detection.unet_prefix_from_state_dict(state) == found


@pytest.mark.parametrize(
    ("numbers", "labels"),
    [
        (NARROW_SD15, None),
        (NARROW_SD20, None),
        (NARROW_SDXL, "add_embedding"),
        (NARROW_SDXL, "class_embedding"),
    ],
)
def test_diffusers_names_give_the_same_numbers_and_the_same_tensors(
    numbers: dict[str, Any], labels: str | None
) -> None:
    original = unet_on_meta(numbers, "")
    config = model_detection.model_config_from_unet(original, "")
    assert config is not None
    to_original = comfy.utils.unet_to_diffusers(config.unet_config)
    # Two names of diffusers mean `label_emb`: which one a file has is for the parameter to say.
    to_diffusers = {
        value: key
        for key, value in to_original.items()
        if not value.startswith("label_emb.") or key.startswith(f"{labels}.")
    }
    state = {to_diffusers[key]: tensor for key, tensor in original.items()}
    found = model_detection.unet_config_from_diffusers_unet(state)
    assert found is not None
    assert {key: found[key] for key in numbers} == numbers
    back = model_detection.unet_to_original_names(state, found)
    assert {key: t.shape for key, t in back.items()} == {k: t.shape for k, t in original.items()}

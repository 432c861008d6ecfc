"""Files of a few trainers get the names that all others use."""

from __future__ import annotations

from types import SimpleNamespace

import torch

import comfy.lora
from comfy.lora_convert import convert_lora
from support.lora_files import lora, module, random


def test_ordinary_file_is_given_back_itself() -> None:
    file = module("lora_unet_x", lora((8, 4)))
    assert convert_lora(file) is file


def test_wan_fun_s_second_underscore_goes() -> None:
    file = module("lora_unet__blocks_0_ffn_0", lora((8, 4)))
    assert convert_lora(file).keys() == module("lora_unet_blocks_0_ffn_0", lora((8, 4))).keys()
    assert next(iter(file)).startswith("lora_unet__")


def test_control_lora_widens_the_input_sets_norms_and_shifts_biases() -> None:
    file = {
        "img_in.lora_A.weight": random(2, 12),
        "img_in.lora_B.weight": random(8, 2),
        "img_in.lora_B.bias": random(8, seed=1),
        "single_blocks.0.norm.key_norm.scale": random(4),
    }
    model = {
        "diffusion_model.img_in.weight": torch.ones(8, 6),
        "diffusion_model.img_in.bias": torch.ones(8),
        "diffusion_model.single_blocks.0.norm.key_norm.scale": torch.ones(4),
    }
    stand_in = SimpleNamespace(
        state_dict=lambda: model, model_config=SimpleNamespace(unet_config={})
    )
    patches = comfy.lora.load_lora(convert_lora(file), comfy.lora.model_lora_keys_unet(stand_in))
    got = {
        key: comfy.lora.calculate_weight([(1.0, patches[key], 1.0, None, None)], w.clone(), key)
        for key, w in model.items()
    }
    wide, bias, scale = got.values()
    wanted = file["img_in.lora_B.weight"] @ file["img_in.lora_A.weight"]
    wanted[:, :6] += 1
    torch.testing.assert_close(wide, wanted)
    torch.testing.assert_close(bias, 1 + file["img_in.lora_B.bias"])
    assert torch.equal(scale, file["single_blocks.0.norm.key_norm.scale"])

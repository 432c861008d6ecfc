"""The UNet computes what diffusers' computes with the same weights, and knows all published keys."""

from __future__ import annotations

from typing import Any

import diffusers
import pytest
import torch

from comfy.key_maps import unet_to_diffusers
from comfy.key_tables import UNET_MAP_BASIC
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding
from support import layouts
from support.networks import gradient_difference, relative_difference, with_random_weights

PREFIX = "model.diffusion_model."
UNETS = [name for name in layouts.names() if name.startswith(("sd15_", "sd21_", "sdxl_"))]
WORDS, CONTEXT, POOLED, TIME_IDS, TIME_WIDTH = 7, 48, 16, 6, 8
VECTOR = POOLED + TIME_IDS * TIME_WIDTH

SD1 = {
    "channel_mult": [1, 2, 4, 4],
    "num_res_blocks": [2, 2, 2, 2],
    "transformer_depth": [1] * 6 + [0] * 2,
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "sd15": {**SD1, "model_channels": 32, "num_heads": 8},
    "sd15-inpaint": {**SD1, "model_channels": 32, "num_heads": 8, "in_channels": 9},
    "sd2": {
        **SD1,
        "model_channels": 64,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "attn_precision": torch.float32,
    },
    "sdxl": {
        "model_channels": 64,
        "channel_mult": [1, 2, 4],
        "num_res_blocks": [2, 2, 2],
        "transformer_depth": [0, 0, 2, 2, 3, 3],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 3, 3, 3],
        "transformer_depth_middle": 3,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": VECTOR,
    },
}


def reference(name: str) -> diffusers.UNet2DConditionModel:
    """diffusers' network of the same configuration."""
    config = CONFIGS[name]
    channels = [config["model_channels"] * mult for mult in config["channel_mult"]]
    arguments: dict[str, Any] = {
        "in_channels": config.get("in_channels", 4),
        "block_out_channels": channels,
        "cross_attention_dim": CONTEXT,
        "use_linear_projection": config.get("use_linear_in_transformer", False),
        # Heads, in spite of the name.
        "attention_head_dim": config.get("num_heads") or [count // 64 for count in channels],
    }
    if name == "sdxl":
        arguments |= {
            "down_block_types": ["DownBlock2D"] + 2 * ["CrossAttnDownBlock2D"],
            "up_block_types": 2 * ["CrossAttnUpBlock2D"] + ["UpBlock2D"],
            "transformer_layers_per_block": [1, 2, 3],
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": TIME_WIDTH,
            "projection_class_embeddings_input_dim": VECTOR,
        }
    return with_random_weights(diffusers.UNet2DConditionModel(**arguments))


def pair(name: str) -> tuple[UNetModel, diffusers.UNet2DConditionModel]:
    """Ours and theirs, with the same tensors as weights."""
    config = CONFIGS[name]
    theirs = reference(name)
    ours = UNetModel(**config, context_dim=CONTEXT, device="meta").eval()
    keys = unet_to_diffusers(config, UNET_MAP_BASIC)
    ours.load_state_dict(
        {keys[key]: value for key, value in theirs.state_dict().items()}, assign=True
    )
    return ours, theirs


def inputs(name: str, height: int, width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    channels = CONFIGS[name].get("in_channels", 4)
    return {
        "x": torch.randn(2, channels, height, width, generator=generator),
        "t": torch.tensor([3.0, 911.0]),
        "context": torch.randn(2, WORDS, CONTEXT, generator=generator),
        "pooled": torch.randn(2, POOLED, generator=generator),
        "time_ids": torch.randint(0, 1024, (2, TIME_IDS), generator=generator).float(),
    }


def run(name: str, ours: UNetModel, given: dict[str, torch.Tensor]) -> torch.Tensor:
    y = None
    if name == "sdxl":
        times = timestep_embedding(given["time_ids"].flatten(), TIME_WIDTH)
        y = torch.cat([given["pooled"], times.unflatten(0, (2, TIME_IDS)).flatten(1)], dim=1)
    return ours(given["x"], given["t"], given["context"], y)


def run_reference(theirs: Any, given: dict[str, torch.Tensor]) -> torch.Tensor:
    added = {"text_embeds": given["pooled"], "time_ids": given["time_ids"]}
    sample: torch.Tensor = theirs(
        given["x"], given["t"], given["context"], added_cond_kwargs=added
    ).sample
    return sample


@pytest.mark.parametrize("name", CONFIGS)
def test_it_predicts_what_diffusers_predicts(name: str) -> None:
    ours, theirs = pair(name)
    given = inputs(name, 8, 16)
    with torch.no_grad():
        assert relative_difference(run(name, ours, given), run_reference(theirs, given)) <= 1e-4


@pytest.mark.parametrize("name", ["sd15", pytest.param("sdxl", marks=pytest.mark.slow)])
def test_it_learns_what_diffusers_learns(name: str) -> None:
    ours, theirs = pair(name)
    given = inputs(name, 8, 8)
    ours.requires_grad_()
    run(name, ours, given).square().mean().backward()
    run_reference(theirs, given).square().mean().backward()
    keys = unet_to_diffusers(CONFIGS[name], UNET_MAP_BASIC)
    wanted = {keys[key]: p.grad for key, p in theirs.named_parameters() if p.grad is not None}
    assert gradient_difference(ours, wanted) <= 1e-3


@pytest.mark.parametrize("name", UNETS)
def test_all_keys_and_shapes_of_published_files_are_known(name: str) -> None:
    layout = layouts.layout(name)
    assert layout.config is not None
    weights = {
        key.removeprefix(PREFIX): value
        for key, value in layout.state_dict().items()
        if key.startswith(PREFIX)
    }
    unet = UNetModel(**layout.config, device="meta")
    assert len(weights) >= 686
    result = unet.load_state_dict(weights, assign=True)
    assert result.missing_keys == []
    assert result.unexpected_keys == []


def test_the_layouts_are_of_all_families() -> None:
    families = {layouts.layout(name).family for name in UNETS}
    assert families == {"SD15", "SD20", "SDXL", "SDXLRefiner"}
    channels = {layouts.layout(name).config["in_channels"] for name in UNETS}  # type: ignore[index]
    assert channels == {4, 9}

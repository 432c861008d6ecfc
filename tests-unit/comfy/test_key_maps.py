"""Key maps: complete, and to the right rows.

The fingerprints are of the key lists of the published checkpoints and of diffusers' modules; see
`fingerprint`. They say that a map knows every key of both sides, without listing thousands here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch

from comfy import key_maps
from comfy.key_maps import KeyMap
from comfy.key_tables import UNET_MAP_BASIC, swap_scale_shift

SD15 = {
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1] * 9 + [0] * 3,
    "transformer_depth_middle": 1,
}
SDXL = {
    "num_res_blocks": 2,
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
}
SD35_MEDIUM = {"depth": 24}
FLUX = {"depth": 19, "depth_single_blocks": 38, "hidden_size": 3072}
Z_IMAGE = {"n_layers": 30, "n_refiner_layers": 2, "dim": 3840, "n_heads": 30, "n_kv_heads": 30}
AURAFLOW = {"n_double_layers": 4, "n_layers": 36}
PIXART = {"depth": 28, "hidden_size": 1152}


def unet(config: dict[str, Any]) -> KeyMap:
    return dict(key_maps.unet_to_diffusers(config, UNET_MAP_BASIC))


def native_keys(mapped: KeyMap) -> set[str]:
    return {place if isinstance(place, str) else place[0] for place in mapped.values()}


def fingerprint(keys: Iterable[str]) -> str:
    """First hex digits of the SHA-256 of the sorted keys, one per line."""
    return hashlib.sha256("\n".join(sorted(keys)).encode()).hexdigest()[:16]


# What a map knows beyond one particular model: layers that only other models of its kind have.
NO_SHORTCUT = r"mid_block.*shortcut|down_blocks\.[03]\..*shortcut|down_.*\.resnets\.1\.conv_short"
NO_SKIP = r"middle_block.*skip|input_blocks\.(?!4\.|7\.)\d+\.0\.skip"

DIFFUSERS = {
    "sd15": (unet(SD15), rf"(class|add)_embedding|{NO_SHORTCUT}", 686, "983bc58de4da8e4e"),
    "sdxl": (unet(SDXL), rf"class_embedding|{NO_SHORTCUT}", 1680, "6c83fe22290fdf9e"),
    "sd35-medium": (
        key_maps.mmdit_to_diffusers(SD35_MEDIUM),
        r"blocks\.(1[3-9]|2[0-3])\.attn2\.|blocks\.23\.(ff_context|attn\.to_add_out)",
        909,
        "5d848b84a9252837",
    ),
    "flux": (key_maps.flux_to_diffusers(FLUX), "$^", 1160, "17931a3e1a0300ec"),
    "auraflow": (key_maps.auraflow_to_diffusers(AURAFLOW), "$^", 331, "c09673a1952d71a3"),
    "pixart": (key_maps.pixart_to_diffusers(PIXART), "y_embedding", 611, "018d3e76d3ec89fc"),
    "z-image": (
        key_maps.z_image_to_diffusers(Z_IMAGE),
        r"context_refiner.*adaLN|attention\.to_\w+(\.0)?\.bias",
        521,
        "56a480a68977fa2d",
    ),
}

NATIVE = {
    "sd15": (unet(SD15), rf"label_emb|{NO_SKIP}", 686, "3422671e7bd3eb47"),
    "sdxl": (unet(SDXL), NO_SKIP, 1680, "fa772cb99a827a15"),
    "sd35-medium": (
        key_maps.mmdit_to_diffusers(SD35_MEDIUM),
        r"blocks\.(1[3-9]|2[0-3])\.x_block\.attn2|blocks\.23\.context_block\.(attn\.proj|mlp)",
        665,
        "883d220f2cd43459",
    ),
    "flux": (key_maps.flux_to_diffusers(FLUX), "$^", 780, "c9620ca16943c4e6"),
    "z-image": (
        key_maps.z_image_to_diffusers(Z_IMAGE),
        r"context_refiner.*adaLN|attention\.(qkv|out)\.bias",
        453,
        "90e8fc1c56f2f7b7",
    ),
}


@pytest.mark.parametrize("model", DIFFUSERS)
def test_map_knows_every_key_of_the_diffusers_module(model: str) -> None:
    mapped, surplus, count, wanted = DIFFUSERS[model]
    keys = [key for key in mapped if not re.search(surplus, key)]
    assert (len(keys), fingerprint(keys)) == (count, wanted)


@pytest.mark.parametrize("model", NATIVE)
def test_map_reaches_every_key_of_the_published_checkpoint(model: str) -> None:
    mapped, surplus, count, wanted = NATIVE[model]
    keys = [key for key in native_keys(mapped) if not re.search(surplus, key)]
    assert (len(keys), fingerprint(keys)) == (count, wanted)


@pytest.mark.parametrize(
    ("mapped", "diffusers", "place"),
    [
        ("sd15", "down_blocks.2.resnets.1.conv2.bias", "input_blocks.8.0.out_layers.3.bias"),
        ("sd15", "down_blocks.0.downsamplers.0.conv.weight", "input_blocks.3.0.op.weight"),
        ("sd15", "mid_block.resnets.1.norm1.weight", "middle_block.2.in_layers.0.weight"),
        ("sd15", "up_blocks.0.upsamplers.0.conv.weight", "output_blocks.2.1.conv.weight"),
        ("sd15", "up_blocks.1.upsamplers.0.conv.weight", "output_blocks.5.2.conv.weight"),
        ("sdxl", "add_embedding.linear_2.bias", "label_emb.0.2.bias"),
        (
            "sdxl",
            "up_blocks.0.attentions.2.transformer_blocks.9.attn2.to_k.weight",
            "output_blocks.2.1.transformer_blocks.9.attn2.to_k.weight",
        ),
        (
            "sd35-medium",
            "transformer_blocks.3.attn.add_k_proj.bias",
            ("joint_blocks.3.context_block.attn.qkv.bias", (0, 1536, 1536)),
        ),
        (
            "sd35-medium",
            "transformer_blocks.3.attn2.to_v.weight",
            ("joint_blocks.3.x_block.attn2.qkv.weight", (0, 3072, 1536)),
        ),
        (
            "sd35-medium",
            "transformer_blocks.22.norm1_context.linear.weight",
            "joint_blocks.22.context_block.adaLN_modulation.1.weight",
        ),
        (
            "sd35-medium",
            "transformer_blocks.23.norm1_context.linear.weight",
            (
                "joint_blocks.23.context_block.adaLN_modulation.1.weight",
                None,
                swap_scale_shift,
            ),
        ),
        (
            "flux",
            "transformer_blocks.18.attn.to_v.weight",
            ("double_blocks.18.img_attn.qkv.weight", (0, 6144, 3072)),
        ),
        (
            "flux",
            "transformer_blocks.0.attn.add_q_proj.bias",
            ("double_blocks.0.txt_attn.qkv.bias", (0, 0, 3072)),
        ),
        (
            "flux",
            "single_transformer_blocks.37.proj_mlp.weight",
            ("single_blocks.37.linear1.weight", (0, 9216, 12288)),
        ),
        ("flux", "single_transformer_blocks.1.proj_out.bias", "single_blocks.1.linear2.bias"),
        ("flux", "proj_out.weight", "final_layer.linear.weight"),
        (
            "flux",
            "norm_out.linear.weight",
            ("final_layer.adaLN_modulation.1.weight", None, swap_scale_shift),
        ),
        (
            "pixart",
            "transformer_blocks.2.attn2.to_v.weight",
            ("blocks.2.cross_attn.kv_linear.weight", (0, 1152, 1152)),
        ),
        (
            "auraflow",
            "joint_transformer_blocks.0.attn.add_q_proj.weight",
            "double_layers.0.attn.w1q.weight",
        ),
        (
            "auraflow",
            "single_transformer_blocks.31.ff.out_projection.weight",
            "single_layers.31.mlp.c_proj.weight",
        ),
        (
            "z-image",
            "layers.29.attention.to_k.weight",
            ("layers.29.attention.qkv.weight", (0, 3840, 3840)),
        ),
        ("z-image", "all_x_embedder.2-1.bias", "x_embedder.bias"),
    ],
)
def test_weight_is_found_at_its_place(mapped: str, diffusers: str, place: object) -> None:
    assert DIFFUSERS[mapped][0][diffusers] == place


@pytest.mark.parametrize("model", ["sd35-medium", "flux", "pixart", "z-image"])
def test_fused_rows_fill_the_matrix_without_overlap(model: str) -> None:
    rows: dict[str, list[tuple[int, int]]] = {}
    for place in DIFFUSERS[model][0].values():
        if isinstance(place, tuple) and place[1] is not None:
            axis, start, length = place[1]
            assert axis == 0
            rows.setdefault(place[0], []).append((start, start + length))
    assert rows
    for spans in rows.values():
        ends = [0, *(end for _, end in sorted(spans))]
        assert [start for start, _ in sorted(spans)] == ends[:-1]


@pytest.mark.parametrize(
    "make",
    [
        key_maps.mmdit_to_diffusers,
        key_maps.flux_to_diffusers,
        key_maps.auraflow_to_diffusers,
        key_maps.pixart_to_diffusers,
        key_maps.z_image_to_diffusers,
    ],
)
def test_prefix_is_put_before_native_keys_only(make: Callable[..., KeyMap]) -> None:
    config = {**FLUX, **Z_IMAGE, **AURAFLOW, **PIXART, "depth": 1}
    plain, prefixed = make(config), make(config, output_prefix="diffusion_model.")
    assert list(plain) == list(prefixed)
    assert native_keys(prefixed) == {f"diffusion_model.{key}" for key in native_keys(plain)}


def test_control_net_of_fewer_blocks_keeps_the_width_and_swaps_nothing() -> None:
    mapped = key_maps.mmdit_to_diffusers({"depth": 24, "num_blocks": 6})
    assert "transformer_blocks.6.attn.to_q.weight" not in mapped
    assert mapped["transformer_blocks.5.attn.to_k.weight"][1] == (0, 1536, 1536)
    assert isinstance(mapped["transformer_blocks.5.norm1_context.linear.weight"], str)


def test_grouped_keys_and_values_take_fewer_rows() -> None:
    config = {"n_layers": 1, "dim": 240, "n_heads": 12, "n_kv_heads": 4}
    mapped = key_maps.z_image_to_diffusers(config)
    assert mapped["layers.0.attention.to_k.weight"][1] == (0, 240, 80)
    assert mapped["layers.0.attention.to_v.weight"][1] == (0, 320, 80)


@pytest.mark.parametrize(
    ("depth", "present", "absent"),
    [
        (0, {"resnets.0", "resnets.1"}, {"attentions.0"}),
        (-1, {"resnets.0"}, {"resnets.1", "attentions.0"}),
        (-2, set(), {"resnets.0", "resnets.1", "attentions.0"}),
    ],
)
def test_middle_of_a_smaller_unet_is_mapped(
    depth: int, present: set[str], absent: set[str]
) -> None:
    mapped = unet({**SD15, "transformer_depth_middle": depth})
    parts = {".".join(key.split(".")[1:3]) for key in mapped if key.startswith("mid_block")}
    assert parts == present and not parts & absent


def test_configuration_of_another_network_gives_an_empty_map() -> None:
    assert unet(FLUX) == {}


def test_halves_are_swapped() -> None:
    weight = torch.arange(6.0).reshape(6, 1)
    assert swap_scale_shift(weight).flatten().tolist() == [3, 4, 5, 0, 1, 2]

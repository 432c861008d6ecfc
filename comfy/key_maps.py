"""Key maps from diffusers' names of weights to the native names of checkpoints.

Each function takes a network's configuration and returns a dict: diffusers key to where that
weight lies. A place is a native key; or ``(key, (axis, start, length))`` for rows of a fused
matrix; or ``(key, rows or None, function)`` where the values are rearranged, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from comfy.key_tables import (
    AURAFLOW_BASIC,
    AURAFLOW_DOUBLE,
    AURAFLOW_SINGLE,
    FLUX_BASIC,
    FLUX_DOUBLE,
    FLUX_SINGLE,
    KINDS,
    MMDIT_MAP_BASIC,
    MMDIT_MAP_BLOCK,
    PIXART_MAP_BASIC,
    PIXART_MAP_BLOCK,
    TRANSFORMER_BLOCKS,
    UNET_MAP_ATTENTIONS,
    UNET_MAP_RESNET,
    Z_IMAGE_BASIC,
    Z_IMAGE_BLOCK,
    Pair,
    Rearrange,
    swap_scale_shift,
)

Rows = tuple[int, int, int]
Place = str | tuple[str, Rows] | tuple[str, Rows | None, Rearrange]
KeyMap = dict[str, Place]


def _resnet(native: str, diffusers: str) -> Iterator[tuple[str, str]]:
    for old, new in UNET_MAP_RESNET.items():
        yield diffusers + new, native + old


def _attention(native: str, diffusers: str, depth: int) -> Iterator[tuple[str, str]]:
    for name in UNET_MAP_ATTENTIONS if depth > 0 else ():
        yield diffusers + name, native + name
    for index in range(depth):
        for name in TRANSFORMER_BLOCKS:
            key = f"transformer_blocks.{index}.{name}"
            yield diffusers + key, native + key


def _unet_down(counts: list[int], depths: Iterator[int]) -> Iterator[tuple[str, str]]:
    number = 1
    for level, count in enumerate(counts):
        block = f"down_blocks.{level}."
        for index in range(count):
            native = f"input_blocks.{number}."
            yield from _resnet(f"{native}0.", f"{block}resnets.{index}.")
            yield from _attention(f"{native}1.", f"{block}attentions.{index}.", next(depths, 0))
            number += 1
        if level < len(counts) - 1:
            for kind in KINDS:
                yield f"{block}downsamplers.0.conv.{kind}", f"input_blocks.{number}.0.op.{kind}"
            number += 1


def _unet_middle(depth: int) -> Iterator[tuple[str, str]]:
    if depth >= -1:
        yield from _resnet("middle_block.0.", "mid_block.resnets.0.")
    if depth >= 0:
        yield from _attention("middle_block.1.", "mid_block.attentions.0.", depth)
        yield from _resnet("middle_block.2.", "mid_block.resnets.1.")


def _unet_up(counts: list[int], depths: Iterator[int]) -> Iterator[tuple[str, str]]:
    number = 0
    for level, count in enumerate(reversed(counts)):
        block = f"up_blocks.{level}."
        for index in range(count + 1):
            native = f"output_blocks.{number}."
            depth = next(depths, 0)
            yield from _resnet(f"{native}0.", f"{block}resnets.{index}.")
            yield from _attention(f"{native}1.", f"{block}attentions.{index}.", depth)
            if index == count and level < len(counts) - 1:
                for kind in KINDS:
                    place = f"{native}{2 if depth > 0 else 1}.conv.{kind}"
                    yield f"{block}upsamplers.0.conv.{kind}", place
            number += 1


def unet_to_diffusers(
    unet_config: Mapping[str, Any], basic: Iterable[tuple[str, str]]
) -> dict[str, str]:
    """Map a UNet of the Stable Diffusion family.

    Args:
        unet_config: Reads "num_res_blocks" (for each level, or one number), "channel_mult",
            "transformer_depth" and "transformer_depth_output" (for each resnet, both in the order
            of the input side), "transformer_depth_middle" (-1: a resnet only, -2: nothing).
        basic: Pairs (native, diffusers) of the layers outside of the blocks.

    Returns:
        Diffusers key to native key; empty if the configuration is not a UNet's.
    """
    if "num_res_blocks" not in unet_config:
        return {}
    counts = unet_config["num_res_blocks"]
    if isinstance(counts, int):
        counts = [counts] * len(unet_config["channel_mult"])
    result = dict(_unet_down(counts, iter(unet_config.get("transformer_depth") or ())))
    result.update(_unet_middle(unet_config.get("transformer_depth_middle") or 0))
    result.update(_unet_up(counts, reversed(unet_config.get("transformer_depth_output") or ())))
    result.update((diffusers, native) for native, diffusers in basic)
    return result


def _renamed(native: str, diffusers: str, pairs: Iterable[Pair]) -> Iterator[tuple[str, Place]]:
    """Entries of a table, with both prefixes put before."""
    for pair in pairs:
        place = native + pair[0]
        yield diffusers + pair[1], place if len(pair) == 2 else (place, None, pair[2])


def _weights(pairs: Mapping[str, str]) -> set[tuple[str, str]]:
    return {(f"{native}.weight", f"{diffusers}.weight") for native, diffusers in pairs.items()}


def _fused(
    native: str, diffusers: str, names: Iterable[str], lengths: Iterable[int], start: int = 0
) -> Iterator[tuple[str, Place]]:
    """Entries for layers that are rows of one native layer, in this order."""
    for name, length in zip(names, lengths, strict=True):
        for kind in KINDS:
            yield f"{diffusers}{name}.{kind}", (f"{native}.{kind}", (0, start, length))
        start += length


_QKV = ("to_q", "to_k", "to_v")
_ADDED_QKV = ("add_q_proj", "add_k_proj", "add_v_proj")


def mmdit_to_diffusers(mmdit_config: Mapping[str, Any], output_prefix: str = "") -> KeyMap:
    """Map Stable Diffusion 3; reads "depth" and, for a ControlNet, "num_blocks"."""
    depth = mmdit_config.get("depth", 0)
    blocks = mmdit_config.get("num_blocks", depth)
    width = [64 * depth] * 3
    result: KeyMap = {}
    for index in range(blocks):
        native = f"{output_prefix}joint_blocks.{index}."
        block = f"transformer_blocks.{index}."
        result.update(_renamed(native, block, MMDIT_MAP_BLOCK))
        result.update(_fused(f"{native}x_block.attn.qkv", f"{block}attn.", _QKV, width))
        result.update(_fused(f"{native}x_block.attn2.qkv", f"{block}attn2.", _QKV, width))
        result.update(_fused(f"{native}context_block.attn.qkv", f"{block}attn.", _ADDED_QKV, width))
    if blocks == depth and depth > 0:
        # The text stream of the last block only feeds attention: diffusers stores scale first.
        for kind in KINDS:
            key = f"transformer_blocks.{depth - 1}.norm1_context.linear.{kind}"
            native = f"{output_prefix}joint_blocks.{depth - 1}.context_block.adaLN_modulation.1"
            result[key] = (f"{native}.{kind}", None, swap_scale_shift)
    result.update(_renamed(output_prefix, "", MMDIT_MAP_BASIC))
    return result


def flux_to_diffusers(mmdit_config: Mapping[str, Any], output_prefix: str = "") -> KeyMap:
    """Map Flux 1; reads "depth", "depth_single_blocks" and "hidden_size"."""
    hidden = mmdit_config.get("hidden_size", 0)
    result: KeyMap = {}
    for index in range(mmdit_config.get("depth", 0)):
        native = f"{output_prefix}double_blocks.{index}."
        block = f"transformer_blocks.{index}."
        result.update(_renamed(native, block, FLUX_DOUBLE))
        result.update(_fused(f"{native}img_attn.qkv", f"{block}attn.", _QKV, [hidden] * 3))
        result.update(_fused(f"{native}txt_attn.qkv", f"{block}attn.", _ADDED_QKV, [hidden] * 3))
    for index in range(mmdit_config.get("depth_single_blocks", 0)):
        native = f"{output_prefix}single_blocks.{index}."
        block = f"single_transformer_blocks.{index}."
        result.update(_renamed(native, block, FLUX_SINGLE))
        result.update(_fused(f"{native}linear1", f"{block}attn.", _QKV, [hidden] * 3))
        result.update(_fused(f"{native}linear1", block, ("proj_mlp",), [4 * hidden], 3 * hidden))
    result.update(_renamed(output_prefix, "", FLUX_BASIC))
    return result


def auraflow_to_diffusers(mmdit_config: Mapping[str, Any], output_prefix: str = "") -> KeyMap:
    """Map AuraFlow; reads "n_double_layers" and "n_layers"."""
    double = mmdit_config.get("n_double_layers", 0)
    single = mmdit_config.get("n_layers", 0) - double
    result: KeyMap = {}
    for index in range(double):
        block = (f"{output_prefix}double_layers.{index}.", f"joint_transformer_blocks.{index}.")
        result.update(_renamed(*block, _weights(AURAFLOW_DOUBLE)))
    for index in range(single):
        block = (f"{output_prefix}single_layers.{index}.", f"single_transformer_blocks.{index}.")
        result.update(_renamed(*block, _weights(AURAFLOW_SINGLE)))
    result.update(_renamed(output_prefix, "", AURAFLOW_BASIC))
    return result


def pixart_to_diffusers(mmdit_config: Mapping[str, Any], output_prefix: str = "") -> KeyMap:
    """Map PixArt; reads "depth" and "hidden_size" (1152)."""
    hidden = mmdit_config.get("hidden_size", 1152)
    result: KeyMap = {}
    for index in range(mmdit_config.get("depth", 0)):
        native = f"{output_prefix}blocks.{index}."
        block = f"transformer_blocks.{index}."
        result.update(_renamed(native, block, PIXART_MAP_BLOCK))
        result.update(_fused(f"{native}attn.qkv", f"{block}attn1.", _QKV, [hidden] * 3))
        result.update(
            _fused(f"{native}cross_attn.kv_linear", f"{block}attn2.", _QKV[1:], [hidden] * 2)
        )
    result.update(_renamed(output_prefix, "", PIXART_MAP_BASIC))
    return result


def z_image_to_diffusers(mmdit_config: Mapping[str, Any], output_prefix: str = "") -> KeyMap:
    """Map Z-Image; reads "n_layers", "n_refiner_layers" (2), "dim", and the numbers of heads."""
    width = mmdit_config.get("dim", 0)
    heads = mmdit_config.get("n_heads", 1)
    shared = width // heads * mmdit_config.get("n_kv_heads", heads)
    refiners = mmdit_config.get("n_refiner_layers", 2)
    counts = {
        "layers": mmdit_config.get("n_layers", 0),
        "noise_refiner": refiners,
        "context_refiner": refiners,
    }
    result: KeyMap = {}
    for name, count in counts.items():
        for index in range(count):
            block = f"{name}.{index}."
            native = f"{output_prefix}{block}"
            result.update(_renamed(native, block, Z_IMAGE_BLOCK))
            qkv = f"{native}attention.qkv"
            result.update(_fused(qkv, f"{block}attention.", _QKV, [width, shared, shared]))
    result.update(_renamed(output_prefix, "", Z_IMAGE_BASIC))
    return result

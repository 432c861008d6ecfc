"""Quantised checkpoints: older forms become the present one, values untouched."""

from __future__ import annotations

import json

import pytest
import torch

from comfy.quant_markers import convert_old_quants, detect_layer_quantization


def scaled(prefix: str = "", marker: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
    if marker is None:
        marker = torch.zeros(1, dtype=torch.float8_e4m3fn)
    return {
        f"{prefix}scaled_fp8": marker,
        f"{prefix}a.weight": torch.zeros(2, 2, dtype=torch.float8_e4m3fn),
        f"{prefix}a.scale_weight": torch.tensor(0.5),
        f"{prefix}a.scale_input": torch.tensor(2.0),
        f"{prefix}b.weight": torch.zeros(2, 2, dtype=torch.float8_e4m3fn),
        f"{prefix}b.scale_weight": torch.tensor(0.25),
        f"{prefix}b.scale_input": torch.tensor(1.0),
        f"{prefix}norm.weight": torch.ones(2),
    }


def settings(state: dict[str, torch.Tensor], layer: str) -> object:
    marker = state[f"{layer}.comfy_quant"]
    assert marker.dtype == torch.uint8
    return json.loads(bytes(marker.tolist()))


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_older_scales_get_their_present_names(prefix: str) -> None:
    before = scaled(prefix)
    weight, scale = before[f"{prefix}a.weight"], before[f"{prefix}a.scale_weight"]
    state, metadata = convert_old_quants(before, prefix)
    assert metadata == {}
    names = {key.removeprefix(prefix) for key in state}
    assert names == {
        *("a.weight", "a.weight_scale", "a.input_scale", "a.comfy_quant"),
        *("b.weight", "b.weight_scale", "b.comfy_quant", "norm.weight"),
    }
    assert state[f"{prefix}a.weight"] is weight and state[f"{prefix}a.weight_scale"] is scale
    assert settings(state, f"{prefix}a") == {"format": "float8_e4m3fn"}


def test_keys_outside_the_prefix_stay() -> None:
    before = {**scaled("model."), "vae.a.scale_weight": torch.tensor(3.0)}
    state, _ = convert_old_quants(before, "model.")
    assert "vae.a.scale_weight" in state


@pytest.mark.parametrize(
    ("marker", "expected"),
    [
        (torch.zeros(0, dtype=torch.float8_e4m3fn), {"format": "float8_e4m3fn"}),
        (torch.zeros(1), {"format": "float8_e4m3fn"}),
        (torch.zeros(1, dtype=torch.float8_e5m2), {"format": "float8_e5m2"}),
        (
            torch.zeros(2, dtype=torch.float8_e4m3fn),
            {"format": "float8_e4m3fn", "full_precision_matrix_mult": True},
        ),
    ],
    ids=["usual", "plain number", "e5m2", "full precision"],
)
def test_old_marker_tells_the_format(marker: torch.Tensor, expected: object) -> None:
    state, _ = convert_old_quants(scaled(marker=marker))
    assert settings(state, "a") == expected


def test_layers_in_the_metadata_get_markers() -> None:
    layers = {"x": {"format": "nvfp4"}, "y.z": {"format": "float8_e4m3fn", "a": True}}
    metadata = {"_quantization_metadata": json.dumps({"layers": layers}), "other": "1"}
    state, told = convert_old_quants({"x.weight": torch.zeros(1)}, metadata=metadata)
    assert {key: settings(state, key) for key in layers} == layers
    assert told is metadata


def test_checkpoint_that_is_not_quantised_is_left_alone() -> None:
    before = {"a.weight": torch.zeros(1), "a.scale_weight": torch.zeros(1)}
    state, metadata = convert_old_quants(before)
    assert (list(state), metadata) == (["a.weight", "a.scale_weight"], {})


@pytest.mark.parametrize(
    ("key", "prefix", "found"),
    [
        ("model.a.comfy_quant", "model.", {"mixed_ops": True}),
        ("model.a.comfy_quant", "", {"mixed_ops": True}),
        ("vae.a.comfy_quant", "model.", None),
        ("model.a.weight", "model.", None),
    ],
)
def test_marked_layer_is_detected(key: str, prefix: str, found: object) -> None:
    assert detect_layer_quantization({key: torch.zeros(1)}, prefix) == found

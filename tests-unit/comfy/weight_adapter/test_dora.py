"""DoRA: the magnitude of rows or of input channels is what the file says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.lora
from comfy import weight_adapter
from support import lora_files
from support.lora_files import METHODS, module, random

LINEAR = (16, 12)
CONV = (16, 12, 3, 3)


def patched(
    parts: lora_files.Parts, weight: torch.Tensor, strength: float = 1.0, function: object = None
) -> torch.Tensor:
    (value,) = comfy.lora.load_lora(module("x", parts), {"x": "w.weight"}).values()
    patches = [(strength, value, 1.0, None, function)]
    return comfy.lora.calculate_weight(patches, weight.clone(), "w")


def norms(weight: torch.Tensor, axis: int) -> np.ndarray:
    values = weight.double().numpy()
    others = tuple(other for other in range(values.ndim) if other != axis)
    return np.sqrt((values**2).sum(axis=others, keepdims=True))


@pytest.mark.parametrize("shape", [LINEAR, CONV], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_magnitudes_of_input_channels_are_those_of_the_file(
    method: str, shape: tuple[int, ...]
) -> None:
    if len(shape) == 2 and method in ("locon", "tucker loha", "tucker lokr"):
        shape = (*shape, 1, 1)
    scale = random(1, 12, *[1] * (len(shape) - 2)).abs() + 0.5
    parts, weight = METHODS[method](shape), random(*shape, seed=9)
    moved = patched(parts, weight).double().numpy()
    wanted = moved * scale.double().numpy() / norms(torch.from_numpy(moved), axis=1)
    got = patched({**parts, "dora_scale": scale}, weight)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(norms(got, 1), scale, rtol=1e-4)


@pytest.mark.parametrize("shape", [LINEAR, CONV], ids=str)
@pytest.mark.parametrize("is_flat", [False, True])
def test_magnitudes_of_rows_divide_by_the_rows_of_the_base(
    shape: tuple[int, ...], is_flat: bool
) -> None:
    scale = random(16, *[1] * (len(shape) - 1)).abs() + 0.5
    parts, weight = lora_files.lora(shape), random(*shape, seed=9)
    moved = patched(parts, weight).double().numpy()
    wanted = moved * scale.double().numpy() / norms(weight, axis=0)
    stored = scale.flatten() if is_flat else scale
    got = patched({**parts, "dora_scale": stored}, weight)
    np.testing.assert_allclose(got, wanted, rtol=1e-4, atol=1e-5)


def test_square_weight_takes_the_side_that_the_shape_of_the_magnitudes_names() -> None:
    parts, weight = lora_files.lora((12, 12)), random(12, 12)
    rows = patched({**parts, "dora_scale": torch.ones(12, 1)}, weight)
    columns = patched({**parts, "dora_scale": torch.ones(1, 12)}, weight)
    np.testing.assert_allclose(norms(columns, 1), np.ones((1, 12)), rtol=1e-5)
    assert not np.allclose(norms(rows, 1), 1.0, rtol=1e-2)


@settings(max_examples=30)
@given(strength=st.floats(-2.0, 2.0))
def test_strength_goes_from_the_base_to_the_decomposed_weight(strength: float) -> None:
    parts = {**lora_files.lora(CONV), "dora_scale": random(1, 12, 1, 1)}
    weight = random(*CONV, seed=9)
    whole = patched(parts, weight)
    got = patched(parts, weight, strength)
    torch.testing.assert_close(got, weight + strength * (whole - weight), rtol=1e-4, atol=1e-4)


def test_unchanged_weight_with_its_own_magnitudes_stays() -> None:
    parts, weight = lora_files.lora(CONV), random(*CONV)
    parts["lora_up.weight"] = torch.zeros_like(parts["lora_up.weight"])
    for axis in (0, 1):
        scale = torch.from_numpy(norms(weight, axis)).float()
        torch.testing.assert_close(patched({**parts, "dora_scale": scale}, weight), weight)


def test_function_is_applied_to_the_change_before_the_norm_is_taken() -> None:
    parts, weight = lora_files.lora(LINEAR), random(*LINEAR)
    scale = random(1, 12)
    doubled = {**parts, "lora_up.weight": 2 * parts["lora_up.weight"], "dora_scale": scale}
    got = patched({**parts, "dora_scale": scale}, weight, function=lambda change: 2 * change)
    torch.testing.assert_close(got, patched(doubled, weight))


@pytest.mark.parametrize("scale_shape", [(7, 1), (1, 7), (), (16, 12)], ids=str)
def test_magnitudes_of_another_size_do_not_fit(scale_shape: tuple[int, ...]) -> None:
    parts = module("x", {**lora_files.lora(LINEAR), "dora_scale": torch.ones(scale_shape)})
    (adapter,) = comfy.lora.load_lora(parts, {"x": "w"}).values()
    assert adapter.misfit(torch.empty(LINEAR)) == f"magnitudes of shape {scale_shape}"


def test_decomposition_is_public() -> None:
    weight, change = random(*LINEAR), random(*LINEAR, seed=1)
    scale = torch.ones(1, 12)
    got = weight_adapter.weight_decompose(weight.clone(), change.clone(), scale, 1.0)
    moved = weight + change
    torch.testing.assert_close(got, moved / moved.norm(dim=0, keepdim=True))

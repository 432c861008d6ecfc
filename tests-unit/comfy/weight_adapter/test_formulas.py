"""Each method's weight against its definition: the network that was trained, or dense numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import conv2d

import comfy.lora
from comfy import weight_adapter
from support import lora_files
from support.lora_files import METHODS, Parts, module, random

LINEAR = (16, 12)
CONV = (16, 12, 3, 3)


def patched(
    parts: Parts, weight: torch.Tensor, alpha: float | None = None, strength: float = 1.0
) -> torch.Tensor:
    """The weight with one module applied, by way of the public functions."""
    patches = comfy.lora.load_lora(module("x", parts, alpha), {"x": "w.weight"})
    (value,) = patches.values()
    return comfy.lora.calculate_weight([(strength, value, 1.0, None, None)], weight.clone(), "w")


def change(parts: Parts, shape: tuple[int, ...], alpha: float | None = None) -> np.ndarray:
    """What a module adds to a weight."""
    weight = random(*shape, seed=9)
    return (patched(parts, weight, alpha) - weight).double().numpy()


def numbers(parts: Parts) -> dict[str, np.ndarray]:
    return {name: part.double().numpy() for name, part in parts.items()}


def close(got: object, wanted: object) -> None:
    np.testing.assert_allclose(np.asarray(got), np.asarray(wanted), rtol=2e-5, atol=2e-5)


def layers(x: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
    """Convolutions one after the other, all results kept at the border."""
    for weight in weights:
        x = conv2d(x, weight, padding=weight.shape[-1] // 2)
    return x


# -- LoRA ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("alpha", "scale"), [(None, 1.0), (2.0, 1.0), (1.0, 0.5), (16.0, 8.0)])
def test_lora_adds_alpha_over_rank_times_up_times_down(alpha: float | None, scale: float) -> None:
    parts = lora_files.lora(LINEAR, rank=2)
    up, down = numbers(parts).values()
    close(change(parts, LINEAR, alpha), scale * (up @ down))


def test_lora_of_a_convolution_is_the_two_convolutions_that_were_trained() -> None:
    parts = lora_files.lora(CONV)
    x = random(1, 12, 6, 6)
    trained = layers(x, parts["lora_down.weight"], parts["lora_up.weight"])
    merged = layers(x, torch.from_numpy(change(parts, CONV)).float())
    close(merged, trained)


def test_locon_with_a_middle_is_the_three_convolutions_that_were_trained() -> None:
    parts = lora_files.locon(CONV, rank=3)
    x = random(1, 12, 6, 6)
    order = ("lora_down.weight", "lora_mid.weight", "lora_up.weight")
    trained = layers(x, *(parts[name] for name in order))
    merged = layers(x, torch.from_numpy(change(parts, CONV)).float())
    np.testing.assert_allclose(merged, trained, rtol=1e-4, atol=1e-4)


def test_pointwise_lora_fits_a_linear_weight_and_the_reverse() -> None:
    flat = lora_files.lora(LINEAR)
    pointwise = {name: part[..., None, None] for name, part in flat.items()}
    wanted = change(flat, LINEAR)
    close(change(pointwise, LINEAR), wanted)
    close(change(flat, (*LINEAR, 1, 1))[..., 0, 0], wanted)


def test_reshape_weight_grows_the_weight_by_zeros_first() -> None:
    parts = lora_files.lora((16, 20))
    parts["reshape_weight"] = torch.tensor([16, 20])
    weight = random(*LINEAR)
    up, down = numbers(lora_files.lora((16, 20))).values()
    wanted = up @ down
    wanted[:, :12] += weight.numpy()
    close(patched(parts, weight), wanted)


# -- LoHa, LoKr ----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [LINEAR, CONV], ids=str)
def test_loha_is_the_elementwise_product_of_two_lows(shape: tuple[int, ...]) -> None:
    parts = lora_files.loha(shape, rank=4)
    a, b, c, d = numbers(parts).values()
    close(change(parts, shape, alpha=2.0), 0.5 * ((a @ b) * (c @ d)).reshape(shape))


def test_tucker_loha_is_the_product_of_two_expanded_cores() -> None:
    parts = numbers(lora_files.tucker_loha(CONV))
    wanted = np.ones(CONV)
    for n in "12":
        core, out, into = (parts[f"hada_{name}"] for name in (f"t{n}", f"w{n}_a", f"w{n}_b"))
        wanted *= np.einsum("rshw,ro,si->oihw", core, out, into)
    close(change(lora_files.tucker_loha(CONV), CONV), wanted)


def kron_by_kernel(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """A Kronecker product for each position of the kernel."""
    if right.ndim == 2:
        return np.kron(left, right)
    rows = [
        [np.kron(left, right[:, :, y, x]) for x in range(right.shape[3])]
        for y in range(right.shape[2])
    ]
    return np.moveaxis(np.array(rows), (0, 1), (2, 3))


@pytest.mark.parametrize("shape", [LINEAR, CONV], ids=str)
def test_lokr_is_a_kronecker_product_at_each_place_of_the_kernel(shape: tuple[int, ...]) -> None:
    parts = lora_files.lokr(shape)
    left, right = numbers(parts).values()
    # Neither side is factored, so that alpha says nothing.
    close(change(parts, shape, alpha=7.0), kron_by_kernel(left, right))


@pytest.mark.parametrize("shape", [LINEAR, CONV], ids=str)
def test_factored_lokr_is_scaled_by_alpha_over_its_rank(shape: tuple[int, ...]) -> None:
    parts = lora_files.factored_lokr(shape, rank=2)
    a, b, c, d = numbers(parts).values()
    right = (c @ d).reshape(shape[0] // 4, shape[1] // 2, *shape[2:])
    close(change(parts, shape, alpha=3.0), 1.5 * kron_by_kernel(a @ b, right))


def test_rank_of_lokr_is_that_of_the_first_side_if_only_it_is_factored() -> None:
    parts = lora_files.factored_lokr(LINEAR, rank=2)
    whole = parts.pop("lokr_w2_a") @ parts.pop("lokr_w2_b")
    parts["lokr_w2"] = whole
    a, b, right = numbers(parts).values()
    close(change(parts, LINEAR, alpha=3.0), 1.5 * np.kron(a @ b, right))


def test_tucker_lokr_expands_its_core() -> None:
    parts = lora_files.tucker_lokr(CONV, rank=2)
    left, core, out, into = numbers(parts).values()
    right = np.einsum("rshw,ro,si->oihw", core, out, into)
    close(change(parts, CONV, alpha=1.0), 0.5 * kron_by_kernel(left, right))


# -- GLoRA ---------------------------------------------------------------------------------------


def other_order(parts: Parts) -> Parts:
    return {
        "a1.weight": parts["a2.weight"],
        "a2.weight": parts["a1.weight"],
        "b1.weight": parts["b2.weight"],
        "b2.weight": parts["b1.weight"],
    }


@pytest.mark.parametrize("order", [dict, other_order], ids=["1 after 2", "2 after 1"])
def test_glora_adds_the_weight_after_a_and_b(order: Callable[[Parts], Parts]) -> None:
    parts = lora_files.glora(LINEAR, rank=2)
    a1, a2, b1, b2 = numbers(parts).values()
    weight = random(*LINEAR, seed=9).double().numpy()
    close(change(order(parts), LINEAR, alpha=1.0), 0.5 * (weight @ a1 @ a2 + b1 @ b2))


def test_glora_of_a_convolution_is_the_network_that_was_trained() -> None:
    parts = lora_files.glora(CONV)
    weight, x = random(*CONV, seed=9) * 0.1, random(1, 12, 6, 6)
    inner = x + layers(x, parts["a2.weight"], parts["a1.weight"])
    trained = layers(inner, weight) + layers(x, parts["b2.weight"], parts["b1.weight"])
    np.testing.assert_allclose(layers(x, patched(parts, weight)), trained, rtol=1e-3, atol=1e-3)


# -- OFT, BOFT -----------------------------------------------------------------------------------


def rotations(blocks: np.ndarray) -> np.ndarray:
    skew = blocks - np.swapaxes(blocks, -1, -2)
    unit = np.eye(blocks.shape[-1])
    return (unit + skew) @ np.linalg.inv(unit - skew)


def block_diagonal(blocks: np.ndarray) -> np.ndarray:
    count, size, _ = blocks.shape
    dense = np.zeros((count * size, count * size))
    for n, block in enumerate(blocks):
        dense[n * size : (n + 1) * size, n * size : (n + 1) * size] = block
    return dense


@pytest.mark.parametrize("shape", [LINEAR, CONV], ids=str)
@pytest.mark.parametrize("has_rescale", [False, True])
def test_oft_turns_outputs_by_blocks(shape: tuple[int, ...], has_rescale: bool) -> None:
    parts = lora_files.oft(shape)
    dense = block_diagonal(rotations(parts["oft_blocks"].double().numpy())).T
    if has_rescale:
        parts["rescale"] = random(16, *[1] * (len(shape) - 1)).abs()
        dense *= parts["rescale"].double().numpy().reshape(16, 1)
    weight = random(*shape, seed=9)
    wanted = (dense @ weight.double().numpy().reshape(16, -1)).reshape(shape)
    close(patched(parts, weight), wanted)


def test_oft_limits_the_norm_of_its_generators() -> None:
    blocks = random(4, 4, 4)
    skew = blocks - blocks.transpose(1, 2)
    alpha = 0.01
    limited = blocks * (alpha * 16 / skew.norm())
    weight = random(*LINEAR)
    wanted = patched({"oft_blocks": limited}, weight)
    close(patched({"oft_blocks": blocks}, weight, alpha), wanted)
    assert not torch.allclose(patched({"oft_blocks": blocks}, weight), wanted, atol=1e-2)
    # A limit that is not reached changes nothing.
    close(patched({"oft_blocks": limited}, weight, 2 * alpha), wanted)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_boft_is_the_product_of_its_butterflies(stages: int) -> None:
    parts = lora_files.boft(LINEAR, size=4, stages=stages)
    dense = np.eye(16)
    for number, blocks in enumerate(rotations(parts["oft_blocks"].double().numpy())):
        half = 2 * 2**number
        # Row i of the woven matrix is output run * 2 * half + (i % 2) * half + i // 2 of its run.
        order = [
            run * 2 * half + side * half + place
            for run in range(8 // half)
            for place in range(half)
            for side in (0, 1)
        ]
        weave = np.eye(16)[order]
        dense = weave.T @ block_diagonal(blocks) @ weave @ dense
    weight = random(*LINEAR, seed=9)
    close(patched(parts, weight), dense @ weight.double().numpy())


@pytest.mark.parametrize("method", ["oft", "boft"])
@settings(max_examples=20)
@given(scale=st.floats(0.01, 10.0), seed=st.integers(0, 1000))
def test_turned_weight_keeps_all_products_of_its_columns(
    method: str, scale: float, seed: int
) -> None:
    parts = METHODS[method](CONV)
    parts = {name: part * scale for name, part in parts.items()}
    weight = random(*CONV, seed=seed)
    before, after = (one.flatten(1).double() for one in (weight, patched(parts, weight)))
    torch.testing.assert_close(after.T @ after, before.T @ before, rtol=1e-3, atol=1e-3)


# -- all of them ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=20)
@given(strength=st.floats(-2.0, 2.0))
def test_change_grows_linearly_with_strength(method: str, strength: float) -> None:
    parts = METHODS[method](CONV)
    weight = random(*CONV, seed=9)
    whole = patched(parts, weight) - weight
    part = patched(parts, weight, strength=strength) - weight
    torch.testing.assert_close(part, strength * whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_parts_in_half_precision_are_computed_in_single(method: str, dtype: torch.dtype) -> None:
    parts = METHODS[method](CONV)
    half = {name: part.to(dtype) for name, part in parts.items()}
    single = {name: part.float() for name, part in half.items()}
    weight = random(*CONV)
    assert torch.equal(patched(half, weight), patched(single, weight))


@pytest.mark.parametrize("method", METHODS)
def test_direct_call_writes_into_the_weight_and_gives_it_back(method: str) -> None:
    parts = module("x", METHODS[method](CONV))
    found = [one.load("x", parts, None, None) for one in weight_adapter.adapters]
    (adapter,) = [one for one in found if one is not None]
    weight = random(*CONV)
    given_weight = weight.clone()
    got = adapter.calculate_weight(given_weight, "w", 1.0, 1.0, None, lambda x: 2 * x)
    assert got is given_weight
    close(got - weight, 2 * (patched(METHODS[method](CONV), weight) - weight))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(), (16,), (12, 16, 3, 3), (16, 12), (8, 12, 3, 3)], ids=str)
def test_weight_of_another_shape_is_found_without_computing(
    method: str, shape: tuple[int, ...]
) -> None:
    parts = module("x", {k: p.to("meta") for k, p in METHODS[method](CONV).items()})
    (adapter,) = comfy.lora.load_lora(parts, {"x": "w"}).values()
    assert adapter.misfit(torch.empty(CONV, device="meta")) is None
    rotates_any_rows = method in ("oft", "boft") and shape[:1] == (16,)
    assert (adapter.misfit(torch.empty(shape, device="meta")) is None) is (
        rotates_any_rows and len(shape) > 1
    )

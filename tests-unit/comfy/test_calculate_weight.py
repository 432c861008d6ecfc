"""Patches of one weight: kinds, order, slices, functions, dtypes, and what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import comfy.lora
from support.lora_files import lora, module, random

SHAPE = (16, 12)
KEY = "w.weight"


def adapter(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> Any:
    return comfy.lora.load_lora(module("x", lora(shape, seed=seed)), {"x": KEY})[KEY]


def product(shape: tuple[int, ...] = SHAPE, seed: int = 0) -> torch.Tensor:
    up, down = lora(shape, seed=seed).values()
    return up @ down


def calculated(*patches: tuple, weight: torch.Tensor | None = None, **kwargs: Any) -> torch.Tensor:
    weight = random(*SHAPE) if weight is None else weight
    return comfy.lora.calculate_weight(patches, weight.clone(), KEY, **kwargs)


def patch(
    value: Any,
    strength: float = 1.0,
    strength_model: float = 1.0,
    offset: Any = None,
    function: Any = None,
) -> tuple:
    return (strength, value, strength_model, offset, function)


# -- kinds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [lambda t: ("diff", (t,)), lambda t: (t,)], ids=["named", "bare"])
def test_difference_is_added_times_strength(form: Any) -> None:
    difference = random(*SHAPE, seed=1)
    got = calculated(patch(form(difference), 0.5))
    torch.testing.assert_close(got, random(*SHAPE) + 0.5 * difference)
    assert torch.equal(difference, random(*SHAPE, seed=1))


@pytest.mark.parametrize("value", [(None,), ("diff", (None,))], ids=["bare", "named"])
def test_no_difference_only_scales_the_weight(value: Any) -> None:
    got = calculated(patch(value, 0.5, strength_model=0.25))
    torch.testing.assert_close(got, 0.25 * random(*SHAPE))


def test_difference_with_padding_grows_the_weight() -> None:
    difference = random(16, 15)
    got = calculated(patch(("diff", (difference, {"pad_weight": True}))))
    wanted = difference.clone()
    wanted[:, :12] += random(*SHAPE)
    torch.testing.assert_close(got, wanted)


def test_set_replaces_whatever_the_strength() -> None:
    values = random(*SHAPE, seed=1)
    assert torch.equal(calculated(patch(("set", (values,)), 0.3)), values)


def test_model_as_lora_adds_the_difference_from_the_original() -> None:
    other, original = random(*SHAPE, seed=1), random(*SHAPE, seed=2)
    got = calculated(
        patch(("model_as_lora", (other,)), 0.5),
        original_weights={KEY: [(original, lambda weight, inplace=False: weight)]},
    )
    torch.testing.assert_close(got, random(*SHAPE) + 0.5 * (other - original))
    assert torch.equal(other, random(*SHAPE, seed=1))


def test_model_as_lora_without_originals_says_what_is_missing() -> None:
    with pytest.raises(ValueError, match=r"w\.weight: .*original_weights"):
        calculated(patch(("model_as_lora", (random(*SHAPE),))))


@pytest.mark.parametrize("ratio", [0.0, 0.25, 1.0])
def test_key_patches_of_another_model_merge_with_it(ratio: float) -> None:
    other = random(*SHAPE, seed=1).half()

    def doubled(weight: torch.Tensor, inplace: bool = False) -> torch.Tensor:
        return weight.mul_(2) if inplace else weight * 2

    value = [(other, doubled), patch(adapter(), 0.5)]
    got = calculated(patch(value, ratio, 1 - ratio))
    wanted = (1 - ratio) * random(*SHAPE) + ratio * (2 * other.float() + 0.5 * product())
    torch.testing.assert_close(got, wanted)


def test_merging_leaves_the_other_model_s_weight_as_it_is() -> None:
    other = random(*SHAPE, seed=1)
    value = [(other, lambda weight, inplace=False: weight), patch(adapter())]
    calculated(patch(value))
    assert torch.equal(other, random(*SHAPE, seed=1))


# -- order, strength, slices, functions ----------------------------------------------------------


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.floats(-2, 2), st.floats(-2, 2), st.integers(0, 3)), min_size=1, max_size=5
    )
)
def test_stacked_patches_apply_in_order(stack: list[tuple[float, float, int]]) -> None:
    wanted = random(*SHAPE).double()
    for strength, strength_model, seed in stack:
        wanted = wanted * strength_model + strength * product(seed=seed).double()
    patches = [patch(adapter(seed=seed), s, m) for s, m, seed in stack]
    torch.testing.assert_close(calculated(*patches).double(), wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("offset", [(0, 4, 8), (1, 2, 6), (0, 0, 16)], ids=str)
@pytest.mark.parametrize("kind", ["adapter", "diff"])
def test_slice_is_changed_and_nothing_else(offset: tuple[int, int, int], kind: str) -> None:
    shape = list(SHAPE)
    shape[offset[0]] = offset[2]
    size = tuple(shape)
    value, change = (
        (adapter(size), product(size)) if kind == "adapter" else ((random(*size),), random(*size))
    )
    wanted = random(*SHAPE)
    wanted.narrow(*offset).mul_(0.5).add_(change, alpha=2.0)
    torch.testing.assert_close(calculated(patch(value, 2.0, 0.5, offset)), wanted)


def test_adapter_that_returns_a_new_tensor_still_changes_its_slice() -> None:
    class Doubling(comfy.weight_adapter.WeightAdapterBase):
        def calculate_weight(self, weight: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
            return weight * 2

    wanted = random(*SHAPE)
    wanted[4:8] *= 2
    assert torch.equal(calculated(patch(Doubling(set(), ()), offset=(0, 4, 4))), wanted)


@pytest.mark.parametrize("value", [adapter(), (product(),)], ids=["adapter", "diff"])
def test_function_gets_the_scaled_change(value: Any) -> None:
    got = calculated(patch(value, 0.5, function=lambda change: change.flip(0)))
    torch.testing.assert_close(got, random(*SHAPE) + (0.5 * product()).flip(0))


# -- dtypes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn], ids=str)
def test_narrow_weight_is_widened_and_the_result_is_not_rounded(dtype: torch.dtype) -> None:
    weight = random(*SHAPE).to(dtype)
    got = calculated(patch(adapter(), 1e-4), weight=weight)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, weight.float() + 1e-4 * product(), rtol=0, atol=1e-7)


def test_wide_weight_is_written_in_place() -> None:
    weight = random(*SHAPE)
    assert comfy.lora.calculate_weight([patch(adapter())], weight, KEY) is weight


def test_weight_in_the_intermediate_dtype_keeps_it() -> None:
    weight = random(*SHAPE).bfloat16()
    got = calculated(patch(adapter()), weight=weight, intermediate_dtype=torch.bfloat16)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), weight.float() + product(), rtol=0.03, atol=0.1)


def test_wide_weight_is_not_narrowed_to_the_intermediate_dtype() -> None:
    got = calculated(patch(adapter(), 0.5), intermediate_dtype=torch.float16)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, random(*SHAPE) + 0.5 * product(), rtol=0.01, atol=0.01)


# -- what does not fit ---------------------------------------------------------------------------

OTHER = (12, 16)
MISFITS = {
    "adapter": adapter(OTHER),
    "diff": ("diff", (random(*OTHER),)),
    "bare": (random(*OTHER),),
    "set": ("set", (random(*OTHER),)),
    "smaller than to be padded": ("diff", (random(*OTHER), {"pad_weight": True})),
    "model": [(random(*OTHER), lambda weight, inplace=False: weight)],
}


@pytest.mark.parametrize("name", MISFITS)
def test_misfit_is_left_out_with_a_warning_and_the_rest_is_applied(
    name: str, caplog: pytest.LogCaptureFixture
) -> None:
    got = calculated(patch(MISFITS[name], 1.0, 0.5), patch(adapter()))
    torch.testing.assert_close(got, random(*SHAPE) + product())
    (message,) = caplog.messages
    assert KEY in message
    assert str(OTHER) in message
    assert str(SHAPE) in message


@pytest.mark.parametrize("offset", [(0, 10, 8), (2, 0, 1)], ids=str)
def test_slice_outside_of_the_weight_is_left_out_with_a_warning(
    offset: tuple[int, int, int], caplog: pytest.LogCaptureFixture
) -> None:
    got = calculated(patch(adapter((8, 12)), offset=offset))
    assert torch.equal(got, random(*SHAPE))
    assert KEY in caplog.text
    assert str(SHAPE) in caplog.text


def test_unknown_kind_is_left_out_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    assert torch.equal(calculated(patch(("odd", (random(*SHAPE),)))), random(*SHAPE))
    assert "'odd'" in caplog.text


@pytest.mark.parametrize(
    ("parts", "shape"),
    [
        ({"lora_up.weight": (2,), "lora_down.weight": (0, 0)}, (8,)),
        ({"lora_up.weight": (8, 2), "lora_down.weight": (2, 4), "lora_mid.weight": (1,)}, (8, 4)),
        ({"lora_up.weight": (8, 2), "lora_down.weight": (), "lora_mid.weight": (2, 2)}, (8, 4)),
        ({"lora_up.weight": (8, 2), "lora_down.weight": (2, 4), "reshape_weight": ()}, (8, 4)),
        ({"lokr_w1": (), "lokr_w2": (1, 2, 4, 4)}, (8,)),
        ({"lokr_w1": (2, 4, 4), "lokr_w2": (2,)}, (8,)),
    ],
)
def test_parts_of_impossible_shapes_are_left_out_with_a_warning(
    parts: dict[str, tuple[int, ...]], shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    file = {f"x.{name}": torch.ones(size) for name, size in parts.items()}
    (patch,) = comfy.lora.load_lora(file, {"x": KEY}).values()
    weight = random(*shape)
    assert torch.equal(calculated((1.0, patch, 1.0, None, None), weight=weight), weight)
    assert "does not fit" in caplog.text

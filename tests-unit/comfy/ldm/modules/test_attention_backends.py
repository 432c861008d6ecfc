"""Attention: all ways agree with the formula, with and without masks, in their promised memory."""

from __future__ import annotations

import math
import sys
import types
from typing import Any

import pytest
import torch

from comfy.cli_args import args
from comfy.ldm.modules import attention_backends as backends
from comfy.ldm.modules.attention_backends import JoinedHeads
from support.live_bytes import LiveBytes

OURS = {
    "basic": backends.attention_basic,
    "split": backends.attention_split,
    "sub_quad": backends.attention_sub_quad,
    "pytorch": backends.attention_pytorch,
}
BATCH, HEADS, QUERIES, KEYS, WIDTH = 2, 3, 37, 29, 8

every_way = pytest.mark.parametrize("way", OURS.values(), ids=OURS)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several parts and tiles, the last ones incomplete."""
    monkeypatch.setattr(backends, "SPLIT_BYTES", 5 * BATCH * HEADS * KEYS * 4)
    monkeypatch.setattr(backends, "TILE_KEYS", 8)
    monkeypatch.setattr(backends, "TILE_BYTES", 7 * BATCH * HEADS * 8 * 4)


def inputs(dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens = (QUERIES, KEYS, KEYS)
    return [
        torch.randn(BATCH, n, HEADS * WIDTH, generator=generator, dtype=torch.float64).to(dtype)
        for n in tokens
    ]


def formula(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, added: torch.Tensor | float = 0.0
) -> torch.Tensor:
    """In fp64, head by head, from the definition."""
    outs = []
    for head in range(HEADS):
        part = slice(head * WIDTH, (head + 1) * WIDTH)
        scores = q[..., part].double() @ k[..., part].double().mT / math.sqrt(WIDTH)
        here = added[:, head] if isinstance(added, torch.Tensor) else added
        weights = (scores + here).exp()
        outs.append(weights / weights.sum(-1, keepdim=True) @ v[..., part].double())
    return torch.cat(outs, dim=-1)


def mask_of(shape: tuple[int, ...], boolean: bool) -> torch.Tensor:
    values = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    return values > -0.5 if boolean else values


def added_by(mask: torch.Tensor) -> torch.Tensor:
    """The mask as [batch, heads, queries, keys] of summands."""
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape).masked_fill(~mask, -torch.inf)
    if mask.dim() == 3:
        mask = mask[:, None]
    return mask.expand(BATCH, HEADS, QUERIES, KEYS).double()


@every_way
def test_it_is_softmax_of_scaled_scores_times_values(way: JoinedHeads) -> None:
    q, k, v = inputs()
    torch.testing.assert_close(way(q, k, v, HEADS), formula(q, k, v).float())


@every_way
@pytest.mark.parametrize("boolean", [False, True])
@pytest.mark.parametrize(
    "shape",
    [
        (QUERIES, KEYS),
        (1, KEYS),
        (BATCH, QUERIES, KEYS),
        (1, QUERIES, KEYS),
        (BATCH, 1, KEYS),
        (BATCH, HEADS, QUERIES, KEYS),
        (BATCH, 1, 1, KEYS),
        (1, HEADS, QUERIES, 1),
    ],
)
def test_a_mask_is_added_to_the_scores(
    way: JoinedHeads, shape: tuple[int, ...], boolean: bool
) -> None:
    q, k, v = inputs()
    mask = mask_of(shape, boolean)
    if boolean:
        mask[..., :1] = True  # nobody is left without a key
    wanted = formula(q, k, v, added_by(mask))
    torch.testing.assert_close(way(q, k, v, HEADS, mask), wanted.float())


@every_way
def test_a_mask_of_five_dimensions_is_refused(way: JoinedHeads) -> None:
    with pytest.raises(ValueError, match=r"\[1, 1, 1, 1, 1\]"):
        way(*inputs(), HEADS, torch.zeros(1, 1, 1, 1, 1))


@every_way
def test_heads_may_come_apart_and_may_stay_apart(way: JoinedHeads) -> None:
    joined = inputs()
    apart = [t.unflatten(-1, (HEADS, WIDTH)).transpose(1, 2) for t in joined]
    wanted = way(*joined, HEADS)
    assert torch.equal(way(*apart, HEADS, skip_reshape=True), wanted)
    out = way(*apart, HEADS, skip_reshape=True, skip_output_reshape=True)
    assert out.shape == (BATCH, HEADS, QUERIES, WIDTH)
    assert torch.equal(out.transpose(1, 2).flatten(2), wanted)


@every_way
def test_gradients_are_those_of_the_formula(way: JoinedHeads) -> None:
    ours = [t.requires_grad_() for t in inputs()]
    theirs = [t.requires_grad_() for t in inputs()]
    mask = mask_of((QUERIES, KEYS), False)
    way(*ours, HEADS, mask).square().sum().backward()
    formula(*theirs, added_by(mask)).square().sum().backward()
    for our, their in zip(ours, theirs, strict=True):
        torch.testing.assert_close(our.grad, their.grad)


@every_way
def test_scores_beyond_the_range_of_fp16_do_no_harm_in_fp32(way: JoinedHeads) -> None:
    q, k, v = inputs(torch.float16)
    q, k = q * 200, k * 200
    out = way(q, k, v, HEADS, attn_precision=torch.float32)
    assert out.dtype == torch.float16
    # The largest score takes it all.
    assert torch.isfinite(out).all()
    best = (q[0, :, :WIDTH].double() @ k[0, :, :WIDTH].double().mT).argmax(-1)
    torch.testing.assert_close(out[0, :, :WIDTH], v[0, best, :WIDTH], atol=1e-2, rtol=1e-2)


def test_scores_beyond_the_range_of_fp16_overflow_in_fp16() -> None:
    q, k, v = inputs(torch.float16)
    out = backends.attention_basic(q * 200, k * 200, v, HEADS)
    assert not torch.isfinite(out).all()


def test_upcasting_may_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "dont_upcast_attention", True)
    q, k, v = inputs(torch.float16)
    out = backends.attention_basic(q * 200, k * 200, v, HEADS, attn_precision=torch.float32)
    assert not torch.isfinite(out).all()


@every_way
def test_upcasting_may_be_forced(way: JoinedHeads, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "force_upcast_attention", True)
    q, k, v = inputs(torch.float16)
    out = way(q * 200, k * 200, v, HEADS)
    assert out.dtype == torch.float16
    assert torch.isfinite(out).all()


TOKENS = 1024
SCORES_BYTES = TOKENS * TOKENS * 4
IN_OUT_BYTES = TOKENS * WIDTH * 4


@pytest.mark.parametrize(("way", "budget"), [("split", "SPLIT_BYTES"), ("sub_quad", "TILE_BYTES")])
def test_memory_stays_within_a_few_times_the_budget(
    way: str, budget: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budget_bytes = SCORES_BYTES // 64
    monkeypatch.setattr(backends, budget, budget_bytes)
    monkeypatch.setattr(backends, "TILE_KEYS", 64)
    q, k, v = (torch.randn(1, TOKENS, WIDTH) for _ in range(3))
    with torch.no_grad(), LiveBytes() as memory:
        OURS[way](q, k, v, 1)
    assert memory.peak_bytes <= 3 * budget_bytes + 8 * IN_OUT_BYTES
    with torch.no_grad(), LiveBytes() as memory:
        backends.attention_basic(q, k, v, 1)
    assert memory.peak_bytes >= 2 * SCORES_BYTES


@every_way
def test_an_override_is_called_instead_and_may_call_the_original(way: JoinedHeads) -> None:
    seen: list[Any] = []

    def override(function: Any, *given: Any, **kwargs: Any) -> torch.Tensor:
        seen.append((function, given, kwargs))
        result: torch.Tensor = function(*given, **kwargs)
        return 2 * result

    q, k, v = inputs()
    options = {"optimized_attention_override": override, "block": ("input", 1)}
    mask = mask_of((QUERIES, KEYS), False)
    out = way(q, k, v, HEADS, mask, transformer_options=options)
    assert torch.equal(out, 2 * way(q, k, v, HEADS, mask))
    [(function, given, kwargs)] = seen
    assert function is way
    assert all(a is b for a, b in zip(given, (q, k, v, HEADS), strict=True))
    assert kwargs["mask"] is mask
    assert kwargs["transformer_options"] == {"block": ("input", 1)}
    assert options["optimized_attention_override"] is override


PACKAGES = {
    "sage": (backends.attention_sage, "sageattention", "sageattn"),
    "flash": (backends.attention_flash, "flash_attn", "flash_attn_func"),
    "xformers": (backends.attention_xformers, "xformers.ops", "memory_efficient_attention"),
}
every_package = pytest.mark.parametrize(
    ("way", "package", "kernel"), PACKAGES.values(), ids=PACKAGES
)


@every_package
def test_a_package_that_is_not_installed_is_named(
    way: JoinedHeads, package: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(backends.AttentionUnavailable, match=f"'{package}'.*Install it") as caught:
        way(*inputs(), HEADS)
    assert caught.value.name == package


@every_package
def test_a_package_gets_heads_in_the_order_it_wants(
    way: JoinedHeads, package: str, kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Computes as these packages do: heads after tokens, unless the layout says otherwise."""
        calls.append(q.shape)
        turned = kwargs.get("tensor_layout") != "HND"
        q, k, v = (t.transpose(1, 2) if turned else t for t in (q, k, v))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        return out.transpose(1, 2) if turned else out

    monkeypatch.setitem(sys.modules, package.partition(".")[0], types.ModuleType("package"))
    module = types.ModuleType(package)
    setattr(module, kernel, attend)
    monkeypatch.setitem(sys.modules, package, module)
    given = inputs(torch.bfloat16)
    wanted = backends.attention_pytorch(*given, HEADS)
    torch.testing.assert_close(way(*given, HEADS), wanted)
    assert len(calls) == 1

    mask = mask_of((QUERIES, KEYS), True)
    wanted = backends.attention_pytorch(*given, HEADS, mask)
    torch.testing.assert_close(way(*given, HEADS, mask), wanted)
    assert len(calls) == 1  # masks are not for these kernels

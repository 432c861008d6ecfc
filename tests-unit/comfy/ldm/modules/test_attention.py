"""Which way attention takes, and what is hooked to a transformer block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from comfy.cli_args import args
from comfy.ldm.modules import attention
from comfy.ldm.modules.attention import BasicTransformerBlock, SpatialTransformer
from support.networks import relative_difference, with_random_weights

BATCH, TOKENS, WIDTH, HEADS, WORDS, CONTEXT = 2, 12, 32, 4, 5, 24

FLAGS = {
    "use_split_cross_attention": "attention_split",
    "use_quad_cross_attention": "attention_sub_quad",
    "use_pytorch_cross_attention": "attention_pytorch",
    "use_sage_attention": "attention_sage",
    "use_flash_attention": "attention_flash",
}


def tokens(seed: int = 0, count: int = TOKENS, width: int = WIDTH) -> torch.Tensor:
    return torch.randn(BATCH, count, width, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("flag", "way"), FLAGS.items())
@pytest.mark.parametrize("masked", [False, True])
def test_a_flag_chooses_the_way(
    flag: str, way: str, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    marked = object()

    def spy(*given: Any, **kwargs: Any) -> object:
        calls.append((given, kwargs["mask"]))
        return marked

    monkeypatch.setattr(args, flag, True)
    monkeypatch.setattr(attention, way, spy)
    q = tokens()
    mask = torch.zeros(TOKENS, TOKENS) if masked else None
    function = attention.optimized_attention_for_device(q.device, mask=masked)
    assert function(q, q, q, HEADS, mask=mask) is marked
    assert calls == [((q, q, q, HEADS), mask)]


def test_without_a_flag_torch_attends(monkeypatch: pytest.MonkeyPatch) -> None:
    q = tokens()
    wanted = attention.attention_pytorch(q, q, q, HEADS)
    assert torch.equal(attention.optimized_attention(q, q, q, HEADS), wanted)


def test_small_inputs_go_to_torch_whatever_the_flags_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "use_split_cross_attention", True)
    found = attention.optimized_attention_for_device(torch.device("cpu"), small_input=True)
    assert found is attention.attention_pytorch


def test_a_missing_package_is_an_error_that_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(args, "use_sage_attention", True)
    with pytest.raises(attention.AttentionUnavailable, match="sageattention"):
        attention.optimized_attention(tokens(), tokens(), tokens(), HEADS)


def test_functions_are_found_by_name() -> None:
    for name in ("basic", "split", "sub_quad", "pytorch", "sage", "flash", "xformers"):
        function = getattr(attention, f"attention_{name}")
        assert attention.get_attention_function(name) is function
    assert attention.get_attention_function("optimized") is attention.optimized_attention
    assert attention.get_attention_function("none such", None) is None
    with pytest.raises(KeyError, match=r"'none such'.*'basic'"):
        attention.get_attention_function("none such")


def test_a_registered_function_is_found_and_its_name_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(attention, "_functions", dict(attention._functions))
    mine: Any = lambda *given, **kwargs: given  # noqa: E731  # any callable will do
    attention.register_attention_function("mine", mine)
    attention.register_attention_function("mine", mine)
    assert attention.get_attention_function("mine") is mine
    with pytest.raises(ValueError, match=r"'mine' is .*already"):
        attention.register_attention_function("mine", attention.attention_basic)


def block_and_inputs(**kwargs: Any) -> tuple[BasicTransformerBlock, torch.Tensor, torch.Tensor]:
    block = BasicTransformerBlock(WIDTH, HEADS, WIDTH // HEADS, context_dim=CONTEXT, **kwargs)
    return with_random_weights(block), tokens(1), tokens(2, WORDS, CONTEXT)


def attend_by_hand(layer: Any, n: Any, context: Any, value: Any) -> torch.Tensor:
    out = attention.attention_basic(layer.to_q(n), layer.to_k(context), layer.to_v(value), HEADS)
    result: torch.Tensor = layer.to_out(out)
    return result


def by_hand(block: BasicTransformerBlock, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    n = block.norm1(x)
    x = x + attend_by_hand(block.attn1, n, n, n)
    x = x + attend_by_hand(block.attn2, block.norm2(x), context, context)
    a, b = block.ff.net[0].proj(block.norm3(x)).chunk(2, dim=-1)
    return x + block.ff.net[2](a * torch.nn.functional.gelu(b))


def test_a_block_attends_to_itself_then_to_the_context_then_feeds_forward() -> None:
    block, x, context = block_and_inputs()
    before = x.clone()
    assert relative_difference(block(x, context), by_hand(block, x, context)) < 1e-5
    assert torch.equal(x, before)


def test_self_attention_may_look_at_the_context_only() -> None:
    block, x, context = block_and_inputs(disable_self_attn=True)
    n = block.norm1(x)
    seen = []
    patches = {"attn1_output_patch": [lambda out, extra: seen.append(out) or out]}
    block(x, context, {"patches": patches})
    wanted = attend_by_hand(block.attn1, n, context, context)
    assert relative_difference(seen[0], wanted) < 1e-5


def test_a_feed_forward_without_gate_has_one_gelu() -> None:
    layer = with_random_weights(attention.FeedForward(WIDTH, dim_out=8, mult=2))
    hidden = torch.nn.functional.gelu(layer.net[0][0](tokens()))
    assert hidden.shape[-1] == 2 * WIDTH
    assert torch.equal(layer(tokens()), layer.net[2](hidden))


def test_cross_attention_takes_a_mask_and_other_values() -> None:
    layer = with_random_weights(attention.CrossAttention(WIDTH, CONTEXT, HEADS, WIDTH // HEADS))
    x, context, value = tokens(1), tokens(2, WORDS, CONTEXT), tokens(3, WORDS, CONTEXT)
    mask = torch.rand(TOKENS, WORDS, generator=torch.Generator().manual_seed(4)).log()
    q, k, v = layer.to_q(x), layer.to_k(context), layer.to_v(value)
    wanted = layer.to_out(attention.attention_basic(q, k, v, HEADS, mask))
    assert relative_difference(layer(x, context, value, mask), wanted) < 1e-5


Extra = dict[str, Any]


def test_attn1_patches_are_chained_and_see_normed_tokens() -> None:
    block, x, context = block_and_inputs(attn_precision=torch.float32)
    n = block.norm1(x)
    seen: list[Any] = []

    def first(*given: Any) -> Any:
        seen.append(given)
        return n + 1, n + 2, n + 3

    def second(*given: Any) -> Any:
        seen.append(given)
        return given[:3]

    def replace(q: Any, k: Any, v: Any, extra: Extra) -> torch.Tensor:
        seen.append((q, k, v, extra))
        return q

    options = {
        "patches": {"attn1_patch": [first, second]},
        "patches_replace": {"attn1": {("input", 1): replace}},
        "block": ("input", 1),
        "cond_or_uncond": [0, 1],
    }
    block(x, context, options)
    assert all(torch.equal(given, n) for given in seen[0][:3])
    for given, wanted in zip(seen[1], (n + 1, n + 2, n + 3), strict=False):
        assert torch.equal(given, wanted)
    layer = block.attn1
    wanted = (layer.to_q(n + 1), layer.to_k(n + 2), layer.to_v(n + 3))
    assert all(torch.equal(a, b) for a, b in zip(seen[2], wanted, strict=False))
    for given in seen:
        assert given[3] == {
            "block": ("input", 1),
            "cond_or_uncond": [0, 1],
            "n_heads": HEADS,
            "dim_head": WIDTH // HEADS,
            "attn_precision": torch.float32,
        }


def test_attn2_patches_see_the_context_as_values_too() -> None:
    block, x, context = block_and_inputs()
    middle, outs = [], []

    def middle_patch(h: torch.Tensor, extra: Extra) -> torch.Tensor:
        middle.append(h + 1)
        return middle[0]

    def patch(n: Any, given: Any, value: Any, extra: Extra) -> Any:
        assert torch.equal(n, block.norm2(middle[0]))
        assert given is context
        assert value is context
        return n, given * 2, value * 3

    def output_patch(out: torch.Tensor, extra: Extra) -> torch.Tensor:
        outs.append(out)
        return out * 4

    patches = {
        "middle_patch": [middle_patch],
        "attn2_patch": [patch],
        "attn2_output_patch": [output_patch],
    }
    got = block(x, context, {"patches": patches})
    wanted = attend_by_hand(block.attn2, block.norm2(middle[0]), context * 2, context * 3)
    assert relative_difference(outs[0], wanted) < 1e-5
    h = middle[0] + 4 * outs[0]
    assert torch.equal(got, h + block.ff(block.norm3(h)))


def scaled_by(factor: float) -> Callable[..., torch.Tensor]:
    def replace(q: Any, k: Any, v: Any, extra: Extra) -> torch.Tensor:
        return factor * attention.attention_basic(q, k, v, extra["n_heads"])

    return replace


@pytest.mark.parametrize("name", ["attn1", "attn2"])
def test_a_replacement_gives_what_goes_into_to_out(name: str) -> None:
    block, x, context = block_and_inputs()
    options = {"block": ("middle", 0), "patches_replace": {name: {("middle", 0): scaled_by(1.0)}}}
    assert relative_difference(block(x, context, options), block(x, context)) < 1e-5
    seen = []
    options["patches"] = {f"{name}_output_patch": [lambda out, extra: seen.append(out) or out]}
    options["patches_replace"][name][("middle", 0)] = scaled_by(0.0)
    block(x, context, options)
    bias = getattr(block, name).to_out[0].bias
    assert torch.equal(seen[0], bias.expand_as(seen[0]))


@pytest.mark.parametrize(
    ("key", "block_index", "applies"),
    [
        (("input", 4), 0, True),
        (("input", 4), 1, True),
        (("input", 4, 1), 0, False),
        (("input", 4, 1), 1, True),
        (("input", 5), 0, False),
        (("output", 4), 0, False),
    ],
)
def test_a_replacement_is_for_its_block_only(
    key: tuple[Any, ...], block_index: int, applies: bool
) -> None:
    block, x, context = block_and_inputs()
    options = {
        "block": ("input", 4),
        "block_index": block_index,
        "patches_replace": {"attn2": {key: scaled_by(0.0)}},
    }
    assert torch.equal(block(x, context, options), block(x, context)) is not applies


def test_the_replacement_of_one_transformer_block_goes_before_that_of_the_whole() -> None:
    block, x, context = block_and_inputs()
    both = {("input", 4): scaled_by(0.0), ("input", 4, 0): scaled_by(1.0)}
    options = {"block": ("input", 4), "block_index": 0, "patches_replace": {"attn1": both}}
    assert relative_difference(block(x, context, options), block(x, context)) < 1e-5


def test_options_reach_the_attention_function() -> None:
    block, x, context = block_and_inputs()
    seen = []

    def override(function: Any, *given: Any, **kwargs: Any) -> Any:
        seen.append(kwargs["transformer_options"]["uuids"])
        return function(*given, **kwargs)

    block(x, context, {"optimized_attention_override": override, "uuids": ["a"]})
    assert seen == [["a"], ["a"]]


@pytest.mark.parametrize("use_linear", [False, True])
def test_a_spatial_transformer_attends_over_positions(use_linear: bool) -> None:
    layer = with_random_weights(
        SpatialTransformer(WIDTH, 2, 8, 2, context_dim=CONTEXT, use_linear=use_linear)
    )
    assert layer.proj_in.weight.dim() == (2 if use_linear else 4)
    image = torch.randn(BATCH, WIDTH, 3, 4, generator=torch.Generator().manual_seed(5))
    context = tokens(2, WORDS, CONTEXT)
    h = layer.norm(image).flatten(2).mT @ layer.proj_in.weight.flatten(1).T + layer.proj_in.bias
    seen = []
    patches = {"attn1_patch": [lambda *given: seen.append(given[3]["block_index"]) or given[:3]]}
    got = layer(image, context, {"patches": patches})
    for block in layer.transformer_blocks:
        h = block(h, context)
    h = h @ layer.proj_out.weight.flatten(1).T + layer.proj_out.bias
    assert relative_difference(got, image + h.mT.unflatten(2, (3, 4))) < 1e-5
    assert seen == [0, 1]

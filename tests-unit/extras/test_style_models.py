"""A picture's tokens join a prompt, multiplied or with a mask of how much attention they get."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import comfy.clip_vision
import folder_paths
from comfy_extras import nodes_custom_sampler as custom
from comfy_extras.classic.style_models import StyleModelApply, StyleModelLoader
from support.networks import relative_difference

WIDTH, CONTEXT, TEXT, STYLE = 8, 12, 3, 4


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def context() -> int:
    """Width of the text."""
    return CONTEXT


@pytest.fixture
def style_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, context: int) -> Any:
    """Flux Redux of few numbers, out of the folder for style models."""
    known = folder_paths.folder_names_and_paths["style_models"][1]
    place = ([str(tmp_path)], known)
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "style_models", place)
    shapes = {"redux_up": (16, WIDTH), "redux_down": (context, 16)}
    state = {f"{key}.weight": _random(*shape, seed=1) for key, shape in shapes.items()}
    state |= {f"{key}.bias": _random(shape[0], seed=2) for key, shape in shapes.items()}
    save_file(state, tmp_path / "redux.safetensors")
    assert StyleModelLoader.INPUT_TYPES()["required"] == {
        "style_model_name": (["redux.safetensors"],)
    }
    return StyleModelLoader().load_style_model("redux.safetensors")[0]


@pytest.fixture
def seen() -> comfy.clip_vision.Output:
    """Two pictures, of half of STYLE tokens each."""
    output = comfy.clip_vision.Output()
    output.last_hidden_state = _random(2, STYLE // 2, WIDTH, seed=3)
    return output


def _prompt(batch: int = 1, **options: Any) -> Any:
    return [[_random(batch, TEXT, CONTEXT, seed=4), {"pooled_output": 1, **options}]]


def _apply(conditioning: Any, model: Any, seen: Any, strength: float, kind: str) -> Any:
    return StyleModelApply().apply_stylemodel(conditioning, model, seen, strength, kind)[0]


@pytest.mark.parametrize("strength", [0.0, 0.5, 1.0, 2.0])
def test_tokens_of_all_pictures_follow_the_text(
    strength: float, style_model: Any, seen: Any
) -> None:
    given = _prompt(batch=2)
    ((tokens, options),) = _apply(given, style_model, seen, strength, "multiply")
    own = style_model.get_cond(seen).reshape(STYLE, CONTEXT)
    assert torch.equal(tokens[:, :TEXT], given[0][0])
    for row in tokens:
        torch.testing.assert_close(row[TEXT:], own * strength)
    assert options == {"pooled_output": 1}
    assert given[0][0].shape[1] == TEXT


def _attended(mask: torch.Tensor | None, weights: torch.Tensor, side: int) -> torch.Tensor:
    """Shares of attention, scores being random, each of the keys counted so many times."""
    scores = _random(side, side, seed=5).double()
    added = 0.0 if mask is None else mask.double()
    grown = torch.exp(scores + added) * weights
    return grown / grown.sum(dim=-1, keepdim=True)


@pytest.mark.parametrize("strength", [0.0, 0.25, 3.0])
def test_bias_lets_others_see_the_tokens_strength_times(
    strength: float, style_model: Any, seen: Any
) -> None:
    given = _prompt(attention_mask_img_shape=(1, 2))
    ((tokens, options),) = _apply(given, style_model, seen, strength, "attn_bias")
    assert torch.equal(tokens[0, TEXT:], style_model.get_cond(seen).flatten(0, 1))
    side = TEXT + STYLE + 2
    (mask,) = options["attention_mask"]
    assert mask.shape == (side, side)
    assert options["attention_mask_img_shape"] == (1, 2)
    counted = torch.ones(side, side, dtype=torch.float64)
    for row in (0, 1, 2, 7, 8):
        counted[row, TEXT : TEXT + STYLE] = strength
    wanted = _attended(None, counted, side)
    torch.testing.assert_close(_attended(mask, torch.ones(()), side), wanted)
    assert given[0][1].keys() == {"pooled_output", "attention_mask_img_shape"}


def test_bias_of_strength_one_needs_no_mask(style_model: Any, seen: Any) -> None:
    ((_, options),) = _apply(_prompt(), style_model, seen, 1.0, "attn_bias")
    assert options == {"pooled_output": 1}


@pytest.mark.parametrize("is_boolean", [True, False])
@pytest.mark.parametrize(("strength", "kind"), [(0.5, "attn_bias"), (0.5, "multiply")])
def test_earlier_mask_is_enlarged(
    strength: float, kind: str, is_boolean: bool, style_model: Any, seen: Any
) -> None:
    side = TEXT + 6
    allowed = _random(1, side, side, seed=6) > 0
    mask = allowed if is_boolean else _random(1, side, side, seed=7).double()
    given = _prompt(attention_mask=mask, attention_mask_img_shape=(2, 3))
    ((_, options),) = _apply(given, style_model, seen, strength, kind)
    (got,) = options["attention_mask"]
    assert options["attention_mask_img_shape"] == (2, 3)
    assert got.shape == (side + STYLE, side + STYLE)
    bias = math.log(strength) if kind == "attn_bias" else 0.0

    def wanted(query: int, key: int) -> float:
        before = [
            None if TEXT <= n < TEXT + STYLE else n - STYLE * (n > TEXT) for n in (query, key)
        ]
        if before[0] is None:
            return 0.0
        if before[1] is None:
            return bias
        value = mask[0, before[0], before[1]].item()
        return (0.0 if value else -math.inf) if is_boolean else value

    places = range(side + STYLE)
    table = torch.tensor([[wanted(query, key) for key in places] for query in places])
    torch.testing.assert_close(got, table.to(torch.float32 if is_boolean else mask.dtype))
    assert given[0][1]["attention_mask"] is mask
    assert mask.shape == (1, side, side)


def test_second_picture_comes_behind_the_first(style_model: Any, seen: Any) -> None:
    once = _apply(_prompt(), style_model, seen, 0.5, "attn_bias")
    ((tokens, options),) = _apply(once, style_model, seen, 0.25, "attn_bias")
    assert tokens.shape == (1, TEXT + 2 * STYLE, CONTEXT)
    (mask,) = options["attention_mask"]
    seen_by_text = [0.0] * TEXT + [math.log(0.5)] * STYLE + [math.log(0.25)] * STYLE + [0.0]
    torch.testing.assert_close(mask[0], torch.tensor(seen_by_text))


def test_tokens_of_another_family_are_refused(style_model: Any, seen: Any) -> None:
    given = [[torch.zeros(1, TEXT, 16), {}]]
    with pytest.raises(
        ValueError, match=r"tokens have a width of 12, the prompt's 16: use a style"
    ):
        _apply(given, style_model, seen, 1.0, "multiply")


@pytest.mark.parametrize("context", [64])
def test_a_model_draws_otherwise_with_the_tokens(style_model: Any, seen: Any, sd15: Any) -> None:
    results = []
    for strength in (0.0, 0.5, 1.0):
        styled = _apply(sd15.positive, style_model, seen, strength, "multiply")
        (guider,) = custom.CFGGuider.execute(sd15.model, styled, sd15.negative, 3.0)
        results.append(sd15.estimate(sd15.model, guider))
    none, half, whole = results
    assert torch.isfinite(whole).all()
    assert relative_difference(half, none) > 1e-4
    assert relative_difference(whole, half) > 1e-4

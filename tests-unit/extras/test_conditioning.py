"""Nodes that change conditionings: new lists and dicts, unknown entries kept."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from comfy_extras.classic import conditioning as room

Conditioning = list[Any]


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _part(tokens: int = 3, seed: int = 0, **entries: Any) -> list[Any]:
    pooled = {"pooled_output": _random(1, 5, seed=seed + 1), "unknown": "kept"}
    return [_random(1, tokens, 4, seed=seed), {**pooled, **entries}]


GIVEN = [_part(), _part(seed=5)]

CHANGES: dict[str, tuple[Callable[[Conditioning], Any], dict[str, Any]]] = {
    "area": (
        lambda one: room.ConditioningSetArea().append(one, 64, 128, 16, 24, 0.5),
        {"area": (16, 8, 3, 2), "strength": 0.5, "set_area_to_bounds": False},
    ),
    "area in parts": (
        lambda one: room.ConditioningSetAreaPercentage().append(one, 0.5, 0.25, 0.1, 0.2, 2.0),
        {
            "area": ("percentage", 0.25, 0.5, 0.2, 0.1),
            "strength": 2.0,
            "set_area_to_bounds": False,
        },
    ),
    "strength": (
        lambda one: room.ConditioningSetAreaStrength().append(one, 0.3),
        {"strength": 0.3},
    ),
    "times": (
        lambda one: room.ConditioningSetTimestepRange().set_range(one, 0.2, 0.7),
        {"start_percent": 0.2, "end_percent": 0.7},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_entries_are_set_in_every_part_of_a_copy(change: str) -> None:
    apply, wanted = CHANGES[change]
    given = [_part(), _part(seed=5)]
    (changed,) = apply(given)
    assert [set(options) for _, options in given] == [{"pooled_output", "unknown"}] * 2
    for (old, before), (new, after) in zip(given, changed, strict=True):
        assert new is old
        assert {**before, **wanted} == after


@pytest.mark.parametrize("shape", [(8, 6), (2, 8, 6)])
@pytest.mark.parametrize(("bounds", "is_bounded"), [("default", False), ("mask bounds", True)])
def test_mask_gets_a_batch_axis(shape: tuple[int, ...], bounds: str, is_bounded: bool) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    (changed,) = room.ConditioningSetMask().append(GIVEN, mask, bounds, 0.4)
    for _, options in changed:
        assert torch.equal(options["mask"], mask.reshape(-1, 8, 6))
        assert (options["set_area_to_bounds"], options["mask_strength"]) == (is_bounded, 0.4)
    assert all("mask" not in options for _, options in GIVEN)


def test_combined_conditionings_stand_side_by_side() -> None:
    first, second = [_part()], [_part(seed=3)]
    (combined,) = room.ConditioningCombine().combine(first, second)
    assert [part[0] for part in combined] == [first[0][0], second[0][0]]
    assert (len(first), len(second)) == (1, 1)


def test_tokens_of_the_first_part_follow_those_of_every_part() -> None:
    other = [_part(2, seed=9)]
    (joined,) = room.ConditioningConcat().concat(GIVEN, other)
    for (old, before), (new, after) in zip(GIVEN, joined, strict=True):
        assert torch.equal(new, torch.cat((old, other[0][0]), dim=1))
        assert after == before
        assert after is not before


@pytest.mark.parametrize("tokens", [2, 3, 5])
def test_average_is_weighted_and_as_long_as_its_first_input(tokens: int) -> None:
    other = [_part(tokens, seed=9)]
    (mixed,) = room.ConditioningAverage().addWeighted(GIVEN, other, 0.25)
    padded = torch.zeros(1, 3, 4)
    padded[:, :tokens] = other[0][0][:, :3]
    for (old, before), (new, after) in zip(GIVEN, mixed, strict=True):
        assert torch.allclose(new, 0.25 * old + 0.75 * padded)
        pooled = 0.25 * before["pooled_output"] + 0.75 * other[0][1]["pooled_output"]
        assert torch.allclose(after["pooled_output"], pooled)
        assert after["unknown"] == "kept"


@pytest.mark.parametrize(("has_to", "has_from"), [(True, False), (False, True), (False, False)])
def test_pooled_output_that_is_alone_is_taken_as_it_is(has_to: bool, has_from: bool) -> None:
    to, source = [_part()], [_part(seed=9)]
    wanted = None
    for part, has in ((source[0], has_from), (to[0], has_to)):
        pooled = part[1].pop("pooled_output")
        if has:
            wanted = part[1]["pooled_output"] = pooled
    (mixed,) = room.ConditioningAverage().addWeighted(to, source, 0.25)
    found = mixed[0][1].get("pooled_output")
    assert found is wanted is None or torch.allclose(found, wanted)


@pytest.mark.parametrize(
    "node",
    [
        room.ConditioningConcat().concat,
        lambda a, b: room.ConditioningAverage().addWeighted(a, b, 1.0),
    ],
)
def test_parts_that_are_left_out_are_told(node: Any, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        node([_part()], GIVEN)
    assert "conditioning_from has 2 parts" in caplog.text


def test_zeroed_conditioning_says_nothing() -> None:
    given = [_part(conditioning_lyrics=_random(1, 2)), _part(pooled_output=None)]
    (emptied,) = room.ConditioningZeroOut().zero_out(given)
    for (old, _), (new, options) in zip(given, emptied, strict=True):
        assert new.shape == old.shape
        assert not new.any()
        assert options["unknown"] == "kept"
    assert not emptied[0][1]["pooled_output"].any()
    assert not emptied[0][1]["conditioning_lyrics"].any()
    assert emptied[1][1]["pooled_output"] is None
    assert given[0][1]["pooled_output"].any()


def test_missing_text_encoder_is_told() -> None:
    with pytest.raises(RuntimeError, match=r"no text encoder.*checkpoint.*CLIPLoader"):
        room.CLIPTextEncode().encode(None, "a cat")

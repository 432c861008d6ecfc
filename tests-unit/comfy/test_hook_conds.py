"""What is put on conditionings, and that the given ones stay as they are."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from comfy import hooks
from comfy.hooks import Hook, HookGroup


def cond(**options: Any) -> list[list[Any]]:
    return [[torch.zeros(1), options]]


def test_all_properties_are_set_on_copies() -> None:
    given, group, mask = cond(a=1), HookGroup([Hook()]), torch.ones(4, 4)
    before = copy.deepcopy(given[0][1])
    (got,) = hooks.set_conds_props([given], 0.5, "mask bounds", mask, group, (0.1, 0.9))
    options = got[0][1]
    assert options.pop("mask").shape == (1, 4, 4)
    assert options == {
        "a": 1,
        "set_area_to_bounds": True,
        "mask_strength": 0.5,
        "hooks": group,
        "start_percent": 0.1,
        "end_percent": 0.9,
    }
    assert given[0][1] == before


def test_nothing_given_changes_nothing() -> None:
    assert hooks.set_conds_props([cond(a=1)], 1.0, "default")[0][0][1] == {"a": 1}


@pytest.mark.parametrize("append", [True, False])
def test_hooks_are_added_to_those_there_or_replace_them(append: bool) -> None:
    old, new = HookGroup([Hook()]), HookGroup([Hook()])
    given = cond(hooks=old)
    (part,) = hooks.set_hooks_for_conditioning(given, new, append_hooks=append)
    wanted = [*old.hooks, *new.hooks] if append else new.hooks
    assert part[1]["hooks"].hooks == wanted
    assert given[0][1]["hooks"] is old


def test_parts_that_shared_a_group_share_the_combined_one() -> None:
    old, new = HookGroup([Hook()]), HookGroup([Hook()])
    first, second = hooks.set_conds_props([cond(hooks=old)] * 2, 1.0, "default", hooks=new)
    assert first[0][1]["hooks"] is second[0][1]["hooks"]


def test_new_parts_follow_the_old_ones() -> None:
    group = HookGroup([Hook()])
    got = hooks.set_conds_props_and_combine([cond(a=1), cond(a=2)], [cond(b=1), cond(b=2)])
    assert [[part[1] for part in one] for one in got] == [
        [{"a": 1}, {"b": 1}],
        [{"a": 2}, {"b": 2}],
    ]
    (got_default,) = hooks.set_default_conds_and_combine([cond(a=1)], [cond(b=1)], group)
    assert [part[1] for part in got_default] == [
        {"a": 1},
        {"b": 1, "hooks": group, "default": True},
    ]

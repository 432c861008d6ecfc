"""Caches by themselves: places of expansions, what is dropped, what is counted as used."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

import pytest

from comfy_execution.cache_keys import CacheKeySetID, CacheKeySetInputSignature
from comfy_execution.cache_sets import chosen_cache
from comfy_execution.caching import (
    BasicCache,
    HierarchicalCache,
    LRUCache,
    NullCache,
    RAMPressureCache,
)
from comfy_execution.prompts import DynamicPrompt
from execution import CacheSet, CacheType
from support.graph_nodes import BASIC, node


class _NoChanges:
    async def get(self, node_id: str) -> bool:
        return False


def _begin(cache: BasicCache, **values: Any) -> DynamicPrompt:
    """A prompt with a Keep node of each value."""
    prompt = {name: node("Keep", value=value) for name, value in values.items()}
    dynprompt = DynamicPrompt(prompt, BASIC)
    asyncio.run(cache.set_prompt(dynprompt, prompt, _NoChanges()))
    cache.clean_unused()
    return dynprompt


def _expand(cache: BasicCache, dynprompt: DynamicPrompt, parent: str, **values: Any) -> None:
    for name, value in values.items():
        dynprompt.add_ephemeral_node(name, node("Keep", value=value), parent, parent)
    asyncio.run(cache.ensure_subcache_for(parent, list(values)))


@pytest.mark.parametrize("cache_class", [BasicCache, HierarchicalCache, LRUCache, RAMPressureCache])
def test_what_was_set_is_found_by_an_equal_node(cache_class: Any) -> None:
    cache = cache_class(CacheKeySetInputSignature)
    assert cache.get("a") is None
    _begin(cache, a=1)
    cache.set("a", "result")
    assert cache.get("a") == "result"
    _begin(cache, b=1, c=2)
    assert cache.get("b") == "result"
    assert cache.get("c") is None
    assert cache.all_node_ids() == {"b", "c"}


def test_nothing_keeps_nothing() -> None:
    cache = NullCache()
    _begin(cache, a=1)
    cache.set("a", "result")
    assert cache.get("a") is None
    assert cache.all_node_ids() == set()


def test_what_has_no_node_any_more_is_dropped_when_a_prompt_begins() -> None:
    cache = HierarchicalCache(CacheKeySetInputSignature)
    _begin(cache, a=1, b=2)
    for name in "ab":
        cache.set(name, name)
    _begin(cache, b=2)
    assert list(cache.cache.values()) == ["b"]


def test_expansions_are_found_again_under_their_parent_alone() -> None:
    cache = HierarchicalCache(CacheKeySetInputSignature)
    first = _begin(cache, p=1, q=2)
    _expand(cache, first, "p", **{"p.x": 5})
    _expand(cache, first, "q", **{"q.x": 5})
    cache.set("p.x", "of p")
    assert cache.get("p.x") == "of p"
    assert cache.get("q.x") is None
    again = _begin(cache, p=7)
    assert cache.get("p.x") is None
    _expand(cache, again, "p", **{"p.other": 5})
    assert cache.get("p.other") == "of p"
    _begin(cache, z=1)
    assert cache.subcaches == {}


def test_expansions_within_expansions_have_places_of_their_own() -> None:
    cache = HierarchicalCache(CacheKeySetID)
    prompt = _begin(cache, p=1)
    _expand(cache, prompt, "p", **{"p.x": 5})
    _expand(cache, prompt, "p.x", **{"p.x.y": 5})
    cache.set("p.x.y", "deep")
    assert cache.get("p.x.y") == "deep"
    assert cache.all_node_ids() == {"p", "p.x", "p.x.y"}
    again = _begin(cache, p=1)
    _expand(cache, again, "p", **{"p.x": 5})
    _expand(cache, again, "p.x", **{"p.x.y": 5})
    assert cache.get("p.x.y") == "deep"


def test_what_an_expansion_no_longer_has_is_dropped() -> None:
    cache = HierarchicalCache(CacheKeySetInputSignature)
    prompt = _begin(cache, p=1)
    _expand(cache, prompt, "p", **{"p.x": 5})
    cache.set("p.x", "old")
    for value in (6, 5):
        again = _begin(cache, p=1)
        _expand(cache, again, "p", **{"p.x": value})
    assert cache.get("p.x") is None


def test_nodes_of_expansions_count_as_used_in_lru() -> None:
    cache = LRUCache(CacheKeySetInputSignature, max_size=2)
    prompt = _begin(cache, p=1)
    _expand(cache, prompt, "p", **{"p.x": 5})
    cache.set("p.x", "inner")
    cache.set("p", "outer")
    again = _begin(cache, z=2)
    _expand(cache, again, "z", **{"z.x": 5})
    assert cache.get("z.x") == "inner"
    cache.set("z", "new")
    _begin(cache, other=3)
    assert set(cache.cache.values()) == {"inner", "new"}


@pytest.mark.parametrize(
    ("cache_type", "args", "kind"),
    [
        (None, {}, HierarchicalCache),
        (False, {}, HierarchicalCache),
        (CacheType.CLASSIC, {}, HierarchicalCache),
        (CacheType.LRU, {"lru": 7}, LRUCache),
        (CacheType.RAM_PRESSURE, {"ram": 4.0}, RAMPressureCache),
        (CacheType.NONE, {}, NullCache),
    ],
)
def test_a_set_has_the_caches_that_were_asked_for(cache_type: Any, args: Any, kind: Any) -> None:
    caches = CacheSet(cache_type, args)
    assert type(caches.outputs) is kind
    assert caches.all == [caches.outputs, caches.objects]
    if cache_type == CacheType.LRU:
        assert caches.outputs.max_size == 7


@pytest.mark.parametrize(
    ("lru", "ram", "none", "chosen"),
    [
        (0, 0, False, CacheType.CLASSIC),
        (5, 4.0, True, CacheType.LRU),
        (0, 4.0, True, CacheType.RAM_PRESSURE),
        (0, 0, True, CacheType.NONE),
    ],
)
def test_the_first_flag_that_is_set_chooses(
    lru: int, ram: float, none: bool, chosen: CacheType
) -> None:
    flags = argparse.Namespace(cache_lru=lru, cache_ram=ram, cache_none=none)
    assert chosen_cache(flags) == (chosen, {"lru": lru, "ram": ram})

"""The caches of an executor, by what is to be kept between prompts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any

from comfy_execution.cache_keys import CacheKeySetID, CacheKeySetInputSignature
from comfy_execution.caching import (
    BasicCache,
    HierarchicalCache,
    LRUCache,
    NullCache,
    RAMPressureCache,
)

DEFAULT_CACHE_ARGS = {"lru": 0, "ram": 0.0}
"""How many results the LRU cache keeps, and how many GiB the RAM-pressure cache leaves free."""


class CacheType(Enum):
    """What is kept between prompts."""

    CLASSIC = 0
    LRU = 1
    NONE = 2
    RAM_PRESSURE = 3


class CacheSet:
    """The caches of an executor.

    Attributes:
        outputs: Results by what they depend on.
        objects: Objects of node classes by the node's id.
        all: Both.
    """

    def __init__(self, cache_type: Any = None, cache_args: Mapping[str, Any] | None = None) -> None:
        """Make empty caches.

        Args:
            cache_type: A `CacheType`; None and False mean the classic one.
            cache_args: "lru", how many results the LRU cache keeps.
        """
        options = {**DEFAULT_CACHE_ARGS, **(cache_args or {})}
        keys = CacheKeySetInputSignature
        self.outputs: BasicCache
        self.objects: BasicCache = HierarchicalCache(CacheKeySetID)
        if cache_type == CacheType.NONE:
            self.outputs = NullCache(keys)
            self.objects = NullCache(CacheKeySetID)
        elif cache_type == CacheType.LRU:
            self.outputs = LRUCache(keys, max_size=options["lru"])
        elif cache_type == CacheType.RAM_PRESSURE:
            self.outputs = RAMPressureCache(keys)
        else:
            self.outputs = HierarchicalCache(keys)
        self.all = [self.outputs, self.objects]


def chosen_cache(flags: Any) -> tuple[CacheType, dict[str, float]]:
    """What the command line asks for.

    Args:
        flags: With ``cache_lru``, ``cache_ram`` and ``cache_none``; the first that is set counts.

    Returns:
        The kind of cache, and the arguments of a `CacheSet` and of its polls.
    """
    given = {"lru": flags.cache_lru, "ram": flags.cache_ram}
    if flags.cache_lru > 0:
        return CacheType.LRU, given
    if flags.cache_ram > 0:
        return CacheType.RAM_PRESSURE, given
    return (CacheType.NONE if flags.cache_none else CacheType.CLASSIC), given

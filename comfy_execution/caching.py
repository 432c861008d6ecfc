"""What is kept between prompts: by node, by least recent use, as memory allows, or nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Set
from typing import Any

from comfy_execution.cache_keys import CacheKeySet as CacheKeySet
from comfy_execution.cache_keys import CacheKeySetID as CacheKeySetID
from comfy_execution.cache_keys import CacheKeySetInputSignature as CacheKeySetInputSignature
from comfy_execution.cache_keys import IsChangedSource
from comfy_execution.held_memory import host_bytes, models_at_home, modules_in
from comfy_execution.prompts import DynamicPrompt
from comfy_execution.ram import free_host_bytes, give_back

GIB = 1 << 30

_AGE_FACTOR = 1.3
_EVICTION_MARGIN = 1.1


class BasicCache:
    """Values by node; the key says which nodes of later prompts are the same.

    Attributes:
        key_class: Makes the keys.
        cache_key_set: The current prompt's keys; None before the first prompt.
        cache: By key.
    """

    def __init__(self, key_class: type[CacheKeySet]) -> None:
        self.key_class = key_class
        self.cache_key_set: CacheKeySet | None = None
        self.cache: dict[Any, Any] = {}

    async def set_prompt(
        self, dynprompt: DynamicPrompt, node_ids: Iterable[str], is_changed: IsChangedSource
    ) -> None:
        """Begin a prompt: work out the keys of its nodes."""
        known = list(node_ids)
        self.cache_key_set = self.key_class(dynprompt, known, is_changed)
        await self.cache_key_set.add_keys(known)

    def all_node_ids(self) -> Set[str]:
        """Nodes of the current prompt that have keys."""
        return set() if self.cache_key_set is None else self.cache_key_set.all_node_ids()

    def get(self, node_id: str) -> Any:
        """A node's value, or None."""
        key = self._key(node_id)
        return None if key is None else self.cache.get(key)

    def set(self, node_id: str, value: Any) -> None:
        """Keep a node's value."""
        key = self._key(node_id)
        if key is not None:
            self.cache[key] = value

    def _key(self, node_id: str) -> Any:
        return None if self.cache_key_set is None else self.cache_key_set.get_data_key(node_id)

    def clean_unused(self) -> None:
        """Drop what the current prompt has no node for."""
        if self.cache_key_set is not None:
            used = set(self.cache_key_set.keys.values())
            self.cache = {key: value for key, value in self.cache.items() if key in used}

    def poll(self, ram_headroom: float = 0) -> None:
        """Called after each node: make room if this cache does so.

        Args:
            ram_headroom: How many GiB of host memory are to stay free.
        """

    async def ensure_subcache_for(self, node_id: str, children_ids: Iterable[str]) -> BasicCache:
        """Make room for the nodes of an expansion.

        Args:
            node_id: The node that is expanded.
            children_ids: The nodes that stand for it.

        Returns:
            The cache that holds them.
        """
        if self.cache_key_set is not None:
            await self.cache_key_set.add_keys(children_ids)
        return self


class HierarchicalCache(BasicCache):
    """A cache for each expansion within that of the expanded node, kept and dropped with it.

    Attributes:
        subcaches: By the expanded node's key.
    """

    def __init__(self, key_class: type[CacheKeySet]) -> None:
        super().__init__(key_class)
        self.subcaches: dict[Any, BasicCache] = {}
        # Which cache a node of an expansion is in; shared by the whole tree.
        self._place: dict[str, BasicCache] = {}

    async def set_prompt(
        self, dynprompt: DynamicPrompt, node_ids: Iterable[str], is_changed: IsChangedSource
    ) -> None:
        """Begin a prompt; expansions of an earlier one are found again when they are made again."""
        self._place.clear()
        await super().set_prompt(dynprompt, node_ids, is_changed)

    def get(self, node_id: str) -> Any:
        """A node's value, or None."""
        return BasicCache.get(self._place.get(node_id, self), node_id)

    def set(self, node_id: str, value: Any) -> None:
        """Keep a node's value."""
        BasicCache.set(self._place.get(node_id, self), node_id, value)

    def all_node_ids(self) -> Set[str]:
        """Nodes of the current prompt and its expansions that have keys."""
        return super().all_node_ids() | set(self._place)

    def clean_unused(self) -> None:
        """Drop what the current prompt has no node for, expansions included."""
        super().clean_unused()
        if self.cache_key_set is not None:
            used = set(self.cache_key_set.subcache_keys.values())
            self.subcaches = {key: one for key, one in self.subcaches.items() if key in used}

    async def ensure_subcache_for(self, node_id: str, children_ids: Iterable[str]) -> BasicCache:
        """Find or make the cache of an expansion; what no child of it has any more is dropped."""
        owner = self._place.get(node_id, self)
        if not isinstance(owner, HierarchicalCache) or owner.cache_key_set is None:
            return owner
        children = list(children_ids)
        key = owner.cache_key_set.get_subcache_key(node_id)
        inner = owner.subcaches.get(key)
        if inner is None:
            inner = owner.subcaches[key] = HierarchicalCache(self.key_class)
        above = owner.cache_key_set
        # Not its own set_prompt: where nodes are found is noted by the outermost cache.
        await BasicCache.set_prompt(inner, above.dynprompt, children, above.is_changed)
        inner.clean_unused()
        self._place.update(dict.fromkeys(children, inner))
        return inner


class LRUCache(BasicCache):
    """Keeps a number of values over prompts; what was not used for most prompts goes first.

    Nodes of expansions are kept among the others: their signatures tell them apart.

    Attributes:
        max_size: How many values are kept between prompts.
        generation: Number of the current prompt.
        used_generation: By key the prompt that last had a node with it.
    """

    def __init__(self, key_class: type[CacheKeySet], max_size: float = 100) -> None:
        super().__init__(key_class)
        self.max_size = max_size
        self.generation = 0
        self.used_generation: dict[Any, int] = {}

    async def set_prompt(
        self, dynprompt: DynamicPrompt, node_ids: Iterable[str], is_changed: IsChangedSource
    ) -> None:
        """Begin a prompt: what it has nodes for counts as used."""
        await super().set_prompt(dynprompt, node_ids, is_changed)
        self.generation += 1
        self._mark(self.all_node_ids())

    def _mark(self, node_ids: Iterable[str]) -> None:
        for key in (self._key(node_id) for node_id in node_ids):
            if key in self.cache:
                self.used_generation[key] = self.generation

    def set(self, node_id: str, value: Any) -> None:
        """Keep a node's value."""
        super().set(node_id, value)
        self._mark([node_id])

    async def ensure_subcache_for(self, node_id: str, children_ids: Iterable[str]) -> BasicCache:
        """Note the nodes of an expansion; those known from earlier count as used."""
        children = list(children_ids)
        await super().ensure_subcache_for(node_id, children)
        self._mark(children)
        return self

    def clean_unused(self) -> None:
        """Drop the least recently used until no more are kept than may be."""
        surplus = len(self.cache) - self.max_size
        if surplus > 0:
            oldest = sorted(self.cache, key=lambda key: self.used_generation[key])
            for key in oldest[: int(surplus)]:
                self._drop(key)

    def _drop(self, key: Any) -> None:
        del self.cache[key]
        del self.used_generation[key]


class RAMPressureCache(LRUCache):
    """Keeps everything while host memory lasts; then large and old values go.

    A value that holds models stays while weights of theirs are at home, and during the prompt that
    has its node, since they are about to come: dropping it would make the next prompt read their
    file again. Where weights go is the model manager's choice.
    """

    def __init__(
        self,
        key_class: type[CacheKeySet],
        free_bytes: Callable[[], int] = free_host_bytes,
        interval_s: float = 0.02,
    ) -> None:
        """Begin empty.

        Args:
            key_class: Makes the keys.
            free_bytes: Tells how much host memory can still be had, limits of containers counted.
            interval_s: Asked no more often than that: asking takes longer than many nodes do.
        """
        super().__init__(key_class, max_size=float("inf"))
        self._free_bytes = free_bytes
        self._interval_s = interval_s
        self._next_poll = 0.0

    def poll(self, ram_headroom: float = 0) -> None:
        """Drop values if less than `ram_headroom` GiB is free, until a tenth more than that is."""
        now = time.monotonic()
        if now < self._next_poll:
            return
        self._next_poll = now + self._interval_s
        wanted = ram_headroom * GIB
        if self._free_bytes() >= wanted:
            return
        sizes = self._sizes()
        keys = sorted(sizes, key=lambda key: sizes[key] * self._age_factor(key), reverse=True)
        lacking = wanted * _EVICTION_MARGIN - self._free_bytes()
        while keys and lacking > 0:
            # Estimates may be too low, and measuring takes longer than dropping: by halves.
            dropped = 0.0
            while keys and dropped < lacking / 2:
                key = keys.pop(0)
                dropped += sizes[key]
                self._drop(key)
            give_back()
            lacking = wanted * _EVICTION_MARGIN - self._free_bytes()

    def _sizes(self) -> dict[Any, float]:
        """Bytes by key of the values whose going frees memory."""
        at_home = models_at_home()
        sizes: dict[Any, float] = {}
        for key, value in self.cache.items():
            modules = modules_in(value)
            is_current = self.used_generation[key] == self.generation
            if not modules or not (is_current or modules & at_home):
                sizes[key] = host_bytes(value)
        return {key: size for key, size in sizes.items() if size > 0}

    def _age_factor(self, key: Any) -> float:
        return _AGE_FACTOR ** (self.generation - self.used_generation[key])


class NullCache(BasicCache):
    """Keeps nothing; results live where the running prompt holds them."""

    def __init__(self, key_class: type[CacheKeySet] = CacheKeySetID) -> None:
        super().__init__(key_class)

    async def set_prompt(
        self, dynprompt: DynamicPrompt, node_ids: Iterable[str], is_changed: IsChangedSource
    ) -> None:
        """Begin a prompt; there are no keys to work out."""

    def get(self, node_id: str) -> Any:
        """None."""
        return None

    def set(self, node_id: str, value: Any) -> None:
        """Keep nothing."""

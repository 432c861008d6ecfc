"""What a result is kept under: the node's id, or all that the result depends on.

A signature stands for a node's class, its constants, its ``IS_CHANGED`` value and, by their own
signatures, the nodes it is linked to. Equal ones are one object, so that comparing and hashing a
signature costs the same however many ancestors stand behind it.
"""

from __future__ import annotations

import math
import numbers
import weakref
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from comfy_execution.graph_utils import is_link
from comfy_execution.inputs import is_schema_class
from comfy_execution.prompts import DynamicPrompt


class IsChangedSource(Protocol):
    """Tells what a node's ``IS_CHANGED`` returned."""

    async def get(self, node_id: str) -> Any:
        """The value for the key; False for nodes without such a function."""


class Unhashable:
    """Equal to nothing but itself: a value of which nobody can tell whether it stayed the same."""


def to_hashable(value: Any) -> Any:
    """Make a value comparable by what it holds.

    Args:
        value: Strings, numbers, numpy's too, None, bytes, and lists, tuples, sets and dicts of
            them.

    Returns:
        Something hashable. Truth values, whole numbers and fractions differ; NaN and everything
        unknown becomes an `Unhashable`.
    """
    if value is None or type(value) in (str, int, bytes):
        return value
    if isinstance(value, bool):
        return (bool, value)
    # Subclasses by what they hold: packs have some that are equal to everything.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        fraction = float(value)
        return Unhashable() if math.isnan(fraction) else (float, fraction.hex())
    if isinstance(value, Mapping):
        pairs = (((to_hashable(key)), to_hashable(one)) for key, one in value.items())
        return (dict, frozenset(pairs))
    if isinstance(value, (list, tuple)):
        return (list, tuple(to_hashable(one) for one in value))
    if isinstance(value, (set, frozenset)):
        return (set, frozenset(to_hashable(one) for one in value))
    return Unhashable()


class Signature:
    """One node's key; two nodes whose results must be equal have the same object."""

    __slots__ = ("__weakref__", "parts")

    def __init__(self, parts: tuple[Any, ...]) -> None:
        self.parts = parts


# Kept for as long as a cache or a running prompt has the signature.
_known: weakref.WeakValueDictionary[tuple[Any, ...], Signature] = weakref.WeakValueDictionary()


def signature_of(parts: tuple[Any, ...]) -> Signature:
    """The one signature of these parts."""
    found = _known.get(parts)
    if found is None:
        found = _known[parts] = Signature(parts)
    return found


class CacheKeySet:
    """Keys of some nodes of one prompt.

    Attributes:
        keys: By node id.
        subcache_keys: Where the nodes of an expansion are kept, by id of the expanded node.
    """

    def __init__(
        self, dynprompt: DynamicPrompt, node_ids: Iterable[str], is_changed: IsChangedSource
    ) -> None:
        self.dynprompt = dynprompt
        self.node_ids = list(node_ids)
        self.is_changed = is_changed
        self.keys: dict[str, Any] = {}
        self.subcache_keys: dict[str, Any] = {}

    async def add_keys(self, node_ids: Iterable[str]) -> None:
        """Work out the keys of nodes."""
        raise NotImplementedError

    def get_data_key(self, node_id: str) -> Any:
        """A node's key; None if it was not worked out."""
        return self.keys.get(node_id)

    def get_subcache_key(self, node_id: str) -> Any:
        """The key of a node's expansion; None if it was not worked out."""
        return self.subcache_keys.get(node_id)

    def all_node_ids(self) -> set[str]:
        """The nodes that have keys."""
        return set(self.keys)

    def _identities(self, node_ids: Iterable[str]) -> dict[str, Any]:
        node = self.dynprompt.get_node
        return {
            node_id: (node_id, node(node_id)["class_type"])
            for node_id in node_ids
            if self.dynprompt.has_node(node_id)
        }


class CacheKeySetID(CacheKeySet):
    """Keys by id and class: for what belongs to one node, such as its object."""

    async def add_keys(self, node_ids: Iterable[str]) -> None:
        """Work out the keys of nodes."""
        identities = self._identities(node_ids)
        self.keys.update(identities)
        self.subcache_keys.update(identities)


class CacheKeySetInputSignature(CacheKeySet):
    """Keys by all that a result depends on; ids do not matter."""

    async def add_keys(self, node_ids: Iterable[str]) -> None:
        """Work out the keys of nodes; each ancestor is looked at once per prompt."""
        identities = self._identities(node_ids)
        for node_id in identities:
            self.keys[node_id] = await self.signature(node_id)
        self.subcache_keys.update(identities)

    async def signature(self, node_id: str) -> Signature:
        """The signature of a node, after those of its ancestors."""
        done = self.dynprompt.signatures
        waiting = [node_id]
        entered: set[str] = set()
        while waiting:
            current = waiting[-1]
            if current in done:
                waiting.pop()
                continue
            open_links = [] if current in entered else self._open_links(current, entered)
            entered.add(current)
            if open_links:
                waiting += open_links
                continue
            waiting.pop()
            done[current] = signature_of(await self._parts(current))
        signature: Signature = done[node_id]
        return signature

    def _open_links(self, node_id: str, entered: set[str]) -> list[str]:
        """Nodes that a node is linked to and that have no signature yet."""
        links = (value for value in self._inputs(node_id).values() if is_link(value))
        done, has_node = self.dynprompt.signatures, self.dynprompt.has_node
        sources = (link[0] for link in links)
        return [
            source
            for source in sources
            if source not in done and source not in entered and has_node(source)
        ]

    def _inputs(self, node_id: str) -> Mapping[str, Any]:
        # Nodes that no output needs were not validated.
        return self.dynprompt.get_node(node_id).get("inputs") or {}

    async def _parts(self, node_id: str) -> tuple[Any, ...]:
        """What a signature is made of."""
        class_type = self.dynprompt.get_node(node_id)["class_type"]
        own_id = node_id if self._needs_id(node_id) else None
        changed = to_hashable(await self.is_changed.get(node_id))
        inputs = sorted(self._inputs(node_id).items())
        return (class_type, own_id, changed, *(self._input(name, one) for name, one in inputs))

    def _needs_id(self, node_id: str) -> bool:
        """Whether a node never shares a result with another though all inputs are equal."""
        node_class = self.dynprompt.known_class_of(node_id)
        if getattr(node_class, "NOT_IDEMPOTENT", False):
            return True
        if node_class is None or is_schema_class(node_class):
            return False
        hidden = self.dynprompt.input_types(node_id).get("hidden") or {}
        return "UNIQUE_ID" in hidden.values()

    def _input(self, name: str, value: Any) -> tuple[Any, ...]:
        if not is_link(value):
            return (name, to_hashable(value))
        # Missing in a cycle, and for links to nowhere: neither ever has a result to be found.
        source = self.dynprompt.signatures.get(value[0], Unhashable())
        return (name, source, int(value[1]))

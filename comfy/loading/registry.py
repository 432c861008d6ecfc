"""How weights can come from their file: the protocol of a strategy, and the names that are known.

A strategy decides only what the state dict *holds*: mapped tensors, host tensors, or FileTensors.
Moving weights to a device is `transfer`'s, the same for all.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.metadata
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Protocol, cast

import torch

from comfy.loading.destinations import ReadPolicy, cast_dtype
from comfy.loading.errors import UnknownStrategy
from comfy.loading.hardware import HardwareProfile
from comfy.loading.homes import Fetcher
from comfy.loading.memory import MemoryNeed
from comfy.loading.plan import ALIASES, LoadPlan, LoadRequest
from comfy.loading.reader import CancelToken, Progress
from comfy.loading.storage import StorageProfile
from comfy.loading.transfer import Transfer
from comfy.loading.weight_slice import WeightSlice

logger = logging.getLogger(__name__)

ENTRY_POINTS = "comfy.load_strategies"


@dataclass(frozen=True, slots=True)
class OpenContext:
    """What the Loader lends a strategy while it opens.

    Attributes:
        dtype: Floating weights are wanted in this dtype; None leaves each as it is in the file.
        policy: How to read.
        fetcher: For FileTensors.
        cancel: The user's wish to stop, or None.
        progress: To be told of bytes read, or None.
    """

    dtype: torch.dtype | None
    policy: ReadPolicy
    fetcher: Fetcher
    cancel: CancelToken | None = None
    progress: Progress | None = None

    def target_dtype(self, source: WeightSlice) -> torch.dtype:
        """The dtype in which a weight is wanted: casts apply to floating weights only."""
        return cast_dtype(source.dtype, self.dtype)

    def to_host(self) -> Transfer:
        """A movement into host memory under this context."""
        return Transfer(self.policy, cancel=self.cancel, progress=self.progress)


class LoadStrategy(Protocol):
    """Two facts and three verbs.

    Attributes:
        name: The word for ``--load-strategy``.
        maps_files: Whether ``--disable-mmap`` forbids it.
    """

    name: ClassVar[str]
    maps_files: ClassVar[bool]

    def supports(
        self, profile: HardwareProfile, storage: StorageProfile, request: LoadRequest
    ) -> str | None:
        """None, or the reason why it cannot, as half a sentence."""

    def estimate(self, slices: Mapping[str, WeightSlice], request: LoadRequest) -> MemoryNeed:
        """What `open` will allocate. Pure; called before any read, if the user named it."""

    def open(
        self, slices: Mapping[str, WeightSlice], plan: LoadPlan, context: OpenContext
    ) -> dict[str, torch.Tensor]:
        """Make the state dict, in the order of `slices`; allocate nothing beyond the estimate."""


StrategyFactory = Callable[[], LoadStrategy]

BUILT_IN = {
    "mmap": "comfy.loading.strategies.mmap:Mmap",
    "readinto": "comfy.loading.strategies.readinto:ReadInto",
    "file-slice": "comfy.loading.strategies.file_slice:FileSlice",
}


class StrategyRegistry:
    """Names to strategies; those that are given as text are imported when first used."""

    def __init__(self, built_in: Mapping[str, str] | None = None) -> None:
        self._specs: dict[str, str | StrategyFactory] = dict(
            BUILT_IN if built_in is None else built_in
        )
        self._made: dict[str, LoadStrategy] = {}
        self._has_entry_points = built_in is not None
        self._lock = threading.RLock()

    def register(self, name: str, factory: StrategyFactory | str) -> None:
        """Add a strategy.

        Args:
            name: The word for ``--load-strategy``.
            factory: Makes the strategy when it is first used; or "module:attribute" of one.

        Raises:
            ValueError: If the name is taken or reserved; both sides are named.
        """
        with self._lock:
            known = self._specs.get(name) or ALIASES.get(name)
            if known is not None or name == "auto":
                raise ValueError(
                    f"load strategy '{name}' is registered already as {known or 'reserved'!r}; "
                    f"{factory!r} needs another name."
                )
            self._specs[name] = factory

    def unregister(self, name: str) -> None:
        """Forget a strategy; files that it opened keep their tensors.

        Raises:
            UnknownStrategy: If nobody registered it.
        """
        with self._lock:
            if name not in self._specs:
                raise self._unknown(name)
            del self._specs[name]
            self._made.pop(name, None)

    def names(self) -> Mapping[str, str | StrategyFactory]:
        """A read-only view of what is registered, entry points included."""
        self._find_entry_points()
        return MappingProxyType(self._specs)

    def canonical(self, name: str) -> str:
        """Resolve an alias.

        Raises:
            UnknownStrategy: With the nearest known name.
        """
        self._find_entry_points()
        real = ALIASES.get(name, name)
        if real not in self._specs:
            raise self._unknown(name)
        return real

    def get(self, name: str) -> LoadStrategy:
        """Make or recall a strategy.

        Raises:
            UnknownStrategy: With the nearest known name.
            TypeError: If what was registered is not a strategy.
        """
        real = self.canonical(name)
        with self._lock:
            if real not in self._made:
                self._made[real] = _make(real, self._specs[real])
            return self._made[real]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _unknown(self, name: str) -> UnknownStrategy:
        known = sorted(self._specs)
        closest = difflib.get_close_matches(name, [*known, *ALIASES], n=1)
        return UnknownStrategy(name, known, closest[0] if closest else None)

    def _find_entry_points(self) -> None:
        with self._lock:
            if self._has_entry_points:
                return
            self._has_entry_points = True
            for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
                if point.name in self._specs:
                    logger.warning(
                        "load strategy '%s' of %s is ignored: the name is taken by %s",
                        point.name,
                        point.value,
                        self._specs[point.name],
                    )
                    continue
                self._specs[point.name] = point.value


def _make(name: str, spec: str | StrategyFactory) -> LoadStrategy:
    factory = spec
    if isinstance(spec, str):
        module, _, attribute = spec.partition(":")
        factory = getattr(importlib.import_module(module), attribute)
    strategy = cast("StrategyFactory", factory)()
    missing = [
        part for part in ("name", "supports", "estimate", "open") if not hasattr(strategy, part)
    ]
    if missing:
        raise TypeError(f"load strategy '{name}' from {spec!r} lacks {', '.join(missing)}.")
    return strategy


def maps_files(strategy: LoadStrategy) -> bool:
    """Whether ``--disable-mmap`` forbids a strategy; one that does not say counts as mapping."""
    return bool(getattr(strategy, "maps_files", True))

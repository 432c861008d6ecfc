"""Weights that stay in their file because the device is full: brought layer by layer, in time.

While one layer computes, a thread reads the weights of those that come next. Which come next is
learnt from the calls themselves: the first pass assumes the order of the modules, later passes
follow what the last one did.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import torch

from comfy.loading.destinations import Want
from comfy.loading.errors import NotEnoughMemory, forget_frames

Brought = dict[str, torch.Tensor]
Fetch = Callable[[Sequence[Want]], Brought]


@dataclass(frozen=True, slots=True)
class StreamedLayer:
    """What of one layer stays in its file.

    Attributes:
        wants: Its parameters there; the key of each is its name in the layer.
        nbytes: Of all, on the device.
    """

    wants: tuple[Want, ...]
    nbytes: int


class LayerStream:
    """Brings the weights of layers for one call each; the `WeightStream` of `comfy.ops`.

    Holds at most the layer in use and, ahead of it, as much as the largest layer has.

    Note:
        Layers are called by one thread at a time.
    """

    def __init__(self, layers: Mapping[int, StreamedLayer], fetch: Fetch) -> None:
        """Prepare; reads nothing, starts no thread.

        Args:
            layers: By ``id`` of the module, in the order in which they are likely to run.
            fetch: Brings weights to the device.
        """
        self._layers = dict(layers)
        self._fetch = fetch
        self._ahead_limit = max((layer.nbytes for layer in layers.values()), default=0)
        order = list(self._layers)
        self._next = dict(pairwise(order))
        self._last: int | None = None
        self._ahead: OrderedDict[int, Future[Brought]] = OrderedDict()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def buffer_bytes(self) -> int:
        """The most that it holds at once."""
        return 2 * self._ahead_limit

    def borrow(self, layer: torch.nn.Module) -> Loan:
        """Bring a layer's weights, and start reading those of the layers after it.

        Args:
            layer: One of those given.

        Returns:
            The weights; nothing if the layer is not streamed.

        Raises:
            LoadError: Of the kind that fits.
        """
        key = id(layer)
        if key not in self._layers:
            return Loan({})
        brought = self._awaited(key)
        if brought is None:
            self._forget(self._ahead)
            brought = self._fetch(self._layers[key].wants)
        self._read_ahead(key)
        return Loan(brought)

    def drop(self) -> None:
        """Let go of everything that was read ahead; the order that was learnt stays."""
        self._forget(self._ahead)
        self._last = None

    def close(self) -> None:
        """Drop all, and end the thread."""
        self.drop()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None

    def _awaited(self, key: int) -> Brought | None:
        """What was read ahead for a layer; None if nothing was, or there was no room for it."""
        job = self._take(key)
        if job is None:
            return None
        try:
            return job.result()
        except NotEnoughMemory as err:
            # What was read ahead, or the last layer's results, may have been in the way.
            forget_frames(err)
            return None
        finally:
            # A failed job holds its error, that this frame, and this frame would hold the job.
            del job

    def _take(self, key: int) -> Future[Brought] | None:
        """Note that a layer runs now, and give what is read for it, if anything is."""
        if self._last is not None:
            self._next[self._last] = key
        self._last = key
        if key not in self._ahead:
            return None
        # What was expected to run before it has been left out this time.
        self._forget(list(self._ahead)[: list(self._ahead).index(key)])
        return self._ahead.pop(key)

    def _forget(self, keys: Iterable[int]) -> None:
        jobs = [self._ahead.pop(key) for key in list(keys)]
        for job in jobs:
            # One that is running holds memory until it ends.
            if not job.cancel():
                job.exception()

    def _read_ahead(self, key: int) -> None:
        """Queue the layers that come next, as many as the limit has room for."""
        room = self._ahead_limit - sum(self._layers[one].nbytes for one in self._ahead)
        candidate = self._next.get(next(reversed(self._ahead), key))
        while candidate is not None and candidate != key and candidate not in self._ahead:
            room -= self._layers[candidate].nbytes
            if room < 0:
                return
            self._ahead[candidate] = self._submit(self._layers[candidate].wants)
            candidate = self._next.get(candidate)

    def _submit(self, wants: Sequence[Want]) -> Future[Brought]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="weights-ahead")
        return self._pool.submit(self._fetch, wants)


class Loan:
    """The weights of one layer for one call; see `comfy.weight_casting.Borrowed`."""

    __slots__ = ("_brought",)

    def __init__(self, brought: Brought) -> None:
        self._brought = brought

    def get(self, name: str) -> torch.Tensor | None:
        """The layer's parameter of this name on the device, or None if it is at home."""
        return self._brought.get(name)

    def release(self) -> None:
        """Let go of the weights."""
        self._brought = {}

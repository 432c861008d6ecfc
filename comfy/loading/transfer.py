"""The one way of bytes: slices of files to destinations, batched in file order, cast on the way.

To a device: a reader thread fills a staging slot, the calling thread starts the copy out of it,
and the slot is used again when its event has passed; the host never holds more than the ring.
To host memory: readers fill the final memory itself.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import groupby
from typing import Any

import numpy as np
import torch

from comfy.loading.destinations import Destination, ReadPolicy, Want, host_memory
from comfy.loading.devices import Copy, DevicePort, Event, device_errors
from comfy.loading.errors import forget_frames
from comfy.loading.page_cache import DIRECT_BLOCK_BYTES, PolicyReader
from comfy.loading.pages import (
    anonymous,
    anonymous_at,
    empty_of,
    round_down,
    round_up,
    writable_bytes,
)
from comfy.loading.reader import CancelToken, Progress, in_threads
from comfy.loading.staging import Slot, StagingRing, bytes_as
from comfy.loading.weight_file import WeightFile
from comfy.loading.windows import Piece, Window, plan_windows

# From this size on a host weight is read straight into its own pages; smaller neighbours are
# read together and copied apart.
IN_PLACE_BYTES = 1024 * 1024
# Weights of any dtype may be viewed as those of another; what lies askew in the file is moved.
ALIGN_BYTES = 8


class Transfer:
    """One movement of weights to one device; makes one pass over each file.

    Note:
        Used by one thread, once. Threads of its own end before `stream` does.
    """

    def __init__(
        self,
        policy: ReadPolicy,
        *,
        port: DevicePort | None = None,
        ring: StagingRing | None = None,
        cancel: CancelToken | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Prepare.

        Args:
            policy: How to read.
            port: The device; None for host memory.
            ring: Its staging; needed with a port.
            cancel: Looked at before each request.
            progress: Told after each request.
        """
        if (port is None) != (ring is None):
            raise TypeError("a port needs a ring, and a ring a port")
        self._policy = policy
        self._port = port
        self._ring = ring
        self._cancel = cancel
        self._progress = progress
        self._total = 0
        self._done = 0
        self.bytes_uploaded = 0

    def stream(self, wants: Sequence[Want]) -> Iterator[tuple[Want, torch.Tensor]]:
        """Move weights, and yield each when it is complete, in about the order of the files.

        Args:
            wants: In any order.

        Yields:
            The want and its tensor: contiguous, on the port's device or the CPU.

        Raises:
            LoadError: Of any kind; then no thread, slot or destination is left behind.
            NotEnoughMemory: If the device gives no memory for a destination.
        """
        self._total = sum(want.source.nbytes for want in wants)
        ordered = sorted(wants, key=lambda want: (want.source.file.path, want.source.offset))
        for _, group in groupby(ordered, key=lambda want: id(want.source.file)):
            destinations = [Destination(want) for want in group]
            try:
                yield from self._one_file(destinations)
            except BaseException as err:
                # Whoever keeps the error must not keep weights: the frames of readers hold them.
                forget_frames(err)
                raise
            finally:
                for destination in destinations:
                    destination.drop()

    def run(self, wants: Sequence[Want]) -> dict[str, torch.Tensor]:
        """Move all weights; see `stream`.

        Returns:
            Key to tensor, in the order of `wants`.
        """
        moved: dict[str, torch.Tensor] = {}
        arrived: tuple[Want, torch.Tensor] | None = None
        try:
            for arrived in self.stream(wants):
                moved[arrived[0].key] = arrived[1]
            return {want.key: moved[want.key] for want in wants}
        finally:
            # An error that somebody keeps must not keep what had arrived.
            moved.clear()
            arrived = None

    def _one_file(self, destinations: list[Destination]) -> Iterator[tuple[Want, torch.Tensor]]:
        file = destinations[0].want.source.file
        for destination in destinations:
            if destination.left == 0:
                yield destination.want, self._empty(destination)
        pending = [destination for destination in destinations if destination.left]
        if not pending:
            return
        extent = (pending[0].want.source.offset, max(one.want.source.end for one in pending))
        with PolicyReader(
            file, self._policy.cache, direct=self._policy.direct, extent=extent
        ) as reader:
            if self._ring is None:
                yield from _HostMove(self, reader, pending).run()
            else:
                yield from _DeviceMove(self, reader, pending, self._ring).run()
            # While the descriptor is open: the bytes of a file that was deleted are still there.
            file.check_identity()

    def _empty(self, destination: Destination) -> torch.Tensor:
        want = destination.want
        if want.out is not None:
            return want.out
        device = self._port.device if self._port is not None else torch.device("cpu")
        with torch.inference_mode(False):
            return empty_of(want.source.shape, want.dtype, device)

    def _check(self, file: WeightFile) -> None:
        if self._cancel is not None:
            self._cancel.check(file.path)

    def _advance(self, nbytes: int) -> None:
        self._done += nbytes
        if self._progress is not None:
            self._progress(self._done, self._total)


_Filled = tuple[Window, Slot, int]
"""A window, the slot that holds its bytes, and the index of the first."""

_Arrival = tuple[Event, Window, list[Destination]]
"""What passes when a window's copies are done, the window, and what is complete then."""


class _Move:
    """What both movements share: windows, names for errors, the count of what is missing."""

    def __init__(
        self, transfer: Transfer, reader: PolicyReader, destinations: list[Destination]
    ) -> None:
        self.transfer = transfer
        self.reader = reader
        self.destinations = destinations
        self.stop = threading.Event()

    def windows(self, indices: Sequence[int], limit: int) -> Iterator[Window]:
        """Windows over some destinations, with pieces that name them by index."""
        slices = [self.destinations[index].want.source for index in indices]
        for window in plan_windows(slices, limit):
            pieces = tuple(replace(piece, index=indices[piece.index]) for piece in window.pieces)
            yield replace(window, pieces=pieces)

    def name(self, window: Window) -> str:
        return self.destinations[window.pieces[0].index].want.source.name

    def finish(self, window: Window) -> list[Destination]:
        """Count a window as arrived.

        Returns:
            The destinations that are complete now.
        """
        complete = []
        for piece in window.pieces:
            destination = self.destinations[piece.index]
            destination.left -= piece.nbytes
            if destination.left == 0:
                complete.append(destination)
        self.transfer._advance(sum(piece.nbytes for piece in window.pieces))
        return complete


class _HostMove(_Move):
    """Reads into host memory: large weights in place, small ones through a scratch per thread."""

    def run(self) -> Iterator[tuple[Want, torch.Tensor]]:
        policy = self.transfer._policy
        self._scratch = threading.local()
        self._allocating = threading.Lock()
        in_place = [i for i, one in enumerate(self.destinations) if self._is_in_place(one)]
        others = sorted(set(range(len(self.destinations))) - set(in_place))
        work = [
            *((window, False) for window in self.windows(others, policy.piece_bytes)),
            *((window, True) for i in in_place for window in self.windows([i], policy.piece_bytes)),
        ]
        work.sort(key=lambda item: item[0].offset)
        threads = min(policy.threads, len(work))
        if len(work) == 1:
            yield from self._completed(self._act(work[0]))
            return
        with contextlib.closing(in_threads(work, self._act, threads, self.stop)) as results:
            for window in results:
                self.transfer._check(window.file)
                yield from self._completed(window)

    def _completed(self, window: Window) -> Iterator[tuple[Want, torch.Tensor]]:
        for destination in self.finish(window):
            yield destination.want, destination.result()
            destination.drop()

    def _is_in_place(self, destination: Destination) -> bool:
        source = destination.want.source
        if destination.casts or source.nbytes < IN_PLACE_BYTES or destination.want.out is not None:
            return False
        return source.offset % max(ALIGN_BYTES, source.dtype.itemsize) == 0

    def _act(self, item: tuple[Window, bool]) -> Window:
        window, is_in_place = item
        self.transfer._check(window.file)
        if is_in_place:
            self._read_in_place(window)
        else:
            self._read_apart(window)
        return window

    def _read_in_place(self, window: Window) -> None:
        piece = window.pieces[0]
        destination = self.destinations[piece.index]
        lead = destination.want.source.offset % DIRECT_BLOCK_BYTES
        with self._allocating:
            if destination.flat is None:
                destination.flat, destination.region = anonymous_at(
                    lead, destination.want.source.nbytes
                )
            region = destination.region
        assert region is not None
        start = round_down(lead + piece.start, DIRECT_BLOCK_BYTES)
        self.reader.read(region[start:], window.offset, window.nbytes, self.name(window))

    def _read_apart(self, window: Window) -> None:
        raw, region = self._thread_scratch(window)
        first = self.reader.read(region, window.offset, window.nbytes, self.name(window))
        for piece in window.pieces:
            destination = self.destinations[piece.index]
            begin = first + piece.position
            if destination.is_small and piece.nbytes == destination.nbytes:
                # One step instead of four: files of adapters have weights by the ten thousand.
                block = bytearray(region[begin : begin + piece.nbytes])
                with destination.mode():
                    destination.flat = torch.frombuffer(block, dtype=torch.uint8)
                continue
            with self._allocating:
                if destination.flat is None and not destination.use_out():
                    destination.flat = host_memory(destination)
            with destination.mode():
                source = raw[begin : begin + piece.nbytes]
                if destination.casts:
                    source = bytes_as(source, destination.want.source.dtype)
                    destination.part(piece).copy_(source)
                else:
                    # Torch would start a team of threads of its own for each reader.
                    np.copyto(destination.part(piece).numpy(), source.numpy())

    def _thread_scratch(self, window: Window) -> tuple[torch.Tensor, memoryview]:
        needed = round_up(window.offset % DIRECT_BLOCK_BYTES + window.nbytes, DIRECT_BLOCK_BYTES)
        raw: torch.Tensor | None = getattr(self._scratch, "raw", None)
        if raw is None or raw.numel() < needed:
            raw = anonymous(needed, huge=self.transfer._policy.direct)
            self._scratch.raw = raw
        return raw, writable_bytes(raw)


class _DeviceMove(_Move):
    """Reads into staging slots and copies from there to the device."""

    def __init__(
        self,
        transfer: Transfer,
        reader: PolicyReader,
        destinations: list[Destination],
        ring: StagingRing,
    ) -> None:
        super().__init__(transfer, reader, destinations)
        self.ring = ring
        self.port = ring.port

    def run(self) -> Iterator[tuple[Want, torch.Tensor]]:
        ring = self.ring
        work = list(self.windows(range(len(self.destinations)), ring.slot_bytes))
        filling = self._filled(work, min(self.transfer._policy.threads, len(ring.slots)))
        arriving: deque[_Arrival] = deque()
        try:
            with contextlib.closing(filling) as filled:
                for window, slot, first in filled:
                    arriving.append(self._upload(window, slot, first))
                    if len(arriving) > len(ring.slots):
                        yield from self._arrived(arriving.popleft())
                while arriving:
                    yield from self._arrived(arriving.popleft())
        finally:
            arriving.clear()
            ring.settle()

    def _filled(self, work: Sequence[Window], threads: int) -> Generator[_Filled, None, None]:
        """Fill slots with windows, each ready for its copy; a single one without a thread."""
        if len(work) > 1:
            threads = min(threads, len(work))
            yield from in_threads(work, self._fill, threads, self.stop, self._discard)
        else:
            filled = self._fill(work[0])
            assert filled is not None  # only a stopped thread gives nothing
            yield filled

    def _fill(self, window: Window) -> _Filled | None:
        """Fill a slot, in a reader thread."""
        self.transfer._check(window.file)
        slot = self.ring.acquire(self.stop.is_set)
        if slot is None:
            return None
        try:
            first = self.reader.read(slot.region, window.offset, window.nbytes, self.name(window))
        except BaseException:
            self.ring.release(slot)
            raise
        return window, slot, first

    def _discard(self, filled: _Filled) -> None:
        self.ring.release(filled[1])

    def _upload(self, window: Window, slot: Slot, first: int) -> _Arrival:
        """Start the copies out of a slot; it is given back with their event, come what may."""
        copies: list[Copy] = []
        event: Any = None
        try:
            self.transfer._check(window.file)
            with self.destinations[window.pieces[0].index].mode():
                copies = [self._copy(piece, slot, first) for piece in window.pieces]
                with self._errors(window):
                    event = self.port.upload(copies)
        except BaseException:
            copies = []
            raise
        finally:
            self.ring.release(slot, event, copies)
        self.transfer.bytes_uploaded += window.nbytes
        return event, window, self.finish(window)

    def _errors(self, window: Window) -> AbstractContextManager[None]:
        """Give a device's errors the names of what was on its way."""
        name = self.name(window)
        return device_errors(self.port, window.nbytes, path=window.file.path, tensor=name)

    def _copy(self, piece: Piece, slot: Slot, first: int) -> Copy:
        destination = self.destinations[piece.index]
        if destination.flat is None and not destination.use_out():
            destination.flat = self._device_memory(destination)
        begin = first + piece.position
        source = slot.bytes[begin : begin + piece.nbytes]
        if destination.casts:
            source = bytes_as(source, destination.want.source.dtype)
        return source, destination.part(piece)

    def _device_memory(self, destination: Destination) -> torch.Tensor:
        source, size = destination.want.source, destination.nbytes
        with device_errors(self.port, size, path=source.file.path, tensor=source.name):
            raw = self.port.empty(size)
        return raw.view(destination.want.dtype) if destination.casts else raw

    def _arrived(self, arrival: _Arrival) -> Iterator[tuple[Want, torch.Tensor]]:
        event, window, complete = arrival
        if event is not None:
            with self._errors(window):
                self.port.wait(event)
        for destination in complete:
            yield destination.want, destination.result()
            destination.drop()

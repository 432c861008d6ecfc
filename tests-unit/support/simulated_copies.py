"""The copy stream of the simulated device: copies in order, in the background, as slow as wanted."""

from __future__ import annotations

import collections
import copy
import ctypes
import threading
import time
from collections.abc import Sequence

import torch

from support.simulated_memory import host_alias

MIB = 1024 * 1024
CHUNK_BYTES = 256 * 1024

Copy = tuple[torch.Tensor, torch.Tensor]


class CopyEvent:
    """Passes when all copies that were queued with it are done."""

    def __init__(self) -> None:
        self._done = threading.Event()
        self.error: Exception | None = None

    def query(self) -> bool:
        """Whether it has passed."""
        return self._done.is_set()

    def wait(self) -> None:
        """Block until it has passed; raises what a copy raised."""
        self._done.wait()
        if self.error is not None:
            # A copy each time: a traceback on the stored one would tie event and frames together.
            raise copy.copy(self.error)

    def finish(self, error: Exception | None = None) -> None:
        """Let it pass; only the stream calls this."""
        self.error = error
        self._done.set()


class CopyStream:
    """A queue of copies and, while it holds any, the thread that does them.

    A copy reads its source when its turn comes and not when it was queued, chunk by chunk:
    memory that is used again too early gives wrong weights, as with a real copy engine.

    Attributes:
        delay_s_per_mib: Sleep for each MiB copied; 0 copies as fast as memory allows.
    """

    def __init__(self) -> None:
        self.delay_s_per_mib = 0.0
        self._lock = threading.Lock()
        self._queue: collections.deque[tuple[Sequence[Copy], CopyEvent, Exception | None]] = (
            collections.deque()
        )
        self._last: CopyEvent | None = None
        self._worker: threading.Thread | None = None

    def submit(self, copies: Sequence[Copy], failure: Exception | None = None) -> CopyEvent:
        """Queue copies.

        Args:
            copies: Pairs of a host tensor and the device tensor it goes to.
            failure: Raised by the event instead of copying.
        """
        event = CopyEvent()
        with self._lock:
            self._queue.append((tuple(copies), event, failure))
            self._last = event
            if self._worker is None:
                # Not a daemon, and gone when idle: a census of threads finds nothing left behind.
                self._worker = threading.Thread(target=self._run, name="simgpu-copies")
                self._worker.start()
        return event

    def synchronize(self) -> None:
        """Block until everything queued so far is done; raises what the last copy raised."""
        with self._lock:
            last = self._last
        if last is not None:
            last.wait()

    def drain(self) -> None:
        """Block until the stream is idle and its thread has ended; swallows failures of copies."""
        with self._lock:
            worker = self._worker
        if worker is not None:
            worker.join()
        self._last = None

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._worker = None
                    return
                copies, event, failure = self._queue.popleft()
            if failure is None:
                failure = self._copy_all(copies)
            # Tensors go before the event passes: who waited may count memory.
            del copies
            event.finish(failure)

    def _copy_all(self, copies: Sequence[Copy]) -> Exception | None:
        try:
            for source, destination in copies:
                self._copy(source, host_alias(destination))
        except Exception as err:  # noqa: BLE001 - raised by the event, in the thread that waits
            return err.with_traceback(None)
        return None

    def _copy(self, source: torch.Tensor, target: torch.Tensor) -> None:
        if source.shape != target.shape:
            raise ValueError(f"cannot copy shape {source.shape} to {target.shape}")
        if not (source.is_contiguous() and target.is_contiguous()):
            raise ValueError("only contiguous memory can be copied")
        flat_source, flat_target = source.view(-1), target.view(-1)
        step = max(1, CHUNK_BYTES // source.element_size())
        for start in range(0, flat_source.numel(), step):
            piece = flat_source[start : start + step]
            _copy_chunk(piece, flat_target[start : start + step])
            if self.delay_s_per_mib:
                time.sleep(self.delay_s_per_mib * piece.nbytes / MIB)


def _copy_chunk(source: torch.Tensor, target: torch.Tensor) -> None:
    """Copy like an engine, by one thread: torch would start a team of them for each new worker."""
    if source.dtype == target.dtype:
        ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes)
    else:
        target.copy_(source)

"""Watches what code under test takes: descriptors, tensors, turns of other threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from support.census import descriptors


@contextmanager
def nothing_left_open() -> Iterator[None]:
    """Fail if the code inside leaves a descriptor open, whether it raises or not."""
    before = descriptors()
    try:
        yield
    finally:
        left = {fd: target for fd, target in descriptors().items() if before.get(fd) != target}
        assert not left, f"still open: {left}"


class NoTensors(TorchDispatchMode):
    """Fails at any tensor operation, an allocation above all."""

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Refuse."""
        raise AssertionError(f"{func} was called")


class Ticker:
    """Counts how often another thread gets a turn, once per millisecond at best.

    Attributes:
        ticks: Turns since the ``with`` block began.
    """

    def __init__(self) -> None:
        self.ticks = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self._stop.is_set():
            time.sleep(0.001)
            self.ticks += 1

    def __enter__(self) -> Ticker:
        self._thread.start()
        while not self.ticks:
            time.sleep(0.001)
        self.ticks = 0
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


def most_ticks(act: Callable[[], object], enough: int, tries: int = 20) -> int:
    """How often another thread got a turn while `act` ran, in the best of several tries.

    A busy machine can starve a thread in any one of them; a lock that is held starves it in all.
    """
    most = 0
    for _ in range(tries):
        with Ticker() as ticker:
            act()
            most = max(most, ticker.ticks)
        if most >= enough:
            break
    return most

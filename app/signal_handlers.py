"""What Ctrl-C and SIGTERM do, for a while."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopHandler:
    """Takes both signals until it gives them back; only the main thread may do either."""

    def __init__(self, handler: Callable[[int, FrameType | None], Any]) -> None:
        """Prepare; nothing is installed yet.

        Args:
            handler: Gets the signal's number and what ran when it came.
        """
        self._handler = handler
        self._before: dict[int, Any] = {}

    def install(self) -> None:
        """Call the handler from now on."""
        for number in _SIGNALS:
            self._before[number] = signal.signal(number, self._handler)

    def restore(self) -> None:
        """Let the signals do what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

"""Ctrl-C and SIGTERM while the server runs: the first stops it, the second ends it at once."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

from app.signal_handlers import StopHandler
from comfy.interrupts import interrupt_current_processing

logger = logging.getLogger(__name__)

LONGEST_STOP_S = 4.0
"""After so long the program ends, whatever still runs."""

ENDED_BY_FORCE = 130


class ServerStop:
    """A context in which signals ask the server to stop. Enter it in the main thread.

    Attributes:
        asked: Set, in the loop, when the server is to stop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, last_steps: Callable[[], Any]) -> None:
        """Prepare; nothing is installed yet.

        Args:
            loop: Where the server runs.
            last_steps: Called before the program is ended by force, from another thread.
        """
        self.asked = asyncio.Event()
        self._loop, self._last_steps = loop, last_steps
        self._came = False
        self._handler = StopHandler(self._on_signal)
        self._timer = threading.Timer(LONGEST_STOP_S, self._end)
        self._timer.daemon = True

    def __enter__(self) -> ServerStop:
        self._handler.install()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # The timer goes on: what the interpreter does at its end may hang, too.
        self._handler.restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._came:
            self._end()
        self._came = True
        # Even if the loop is busy: then the timer ends the program.
        self._timer.start()
        interrupt_current_processing()
        self._loop.call_soon_threadsafe(self.asked.set)

    def _end(self) -> None:
        self._last_steps()
        os._exit(ENDED_BY_FORCE)


async def wait_for_worker(server: Any, patience: float) -> bool:
    """Forget the prompts that wait, and wait until none runs.

    Args:
        server: The `PromptServer`.
        patience: Seconds to wait at most.

    Returns:
        Whether none does.
    """
    server.prompt_queue.wipe_queue()
    deadline = asyncio.get_running_loop().time() + patience
    while server.prompt_queue.currently_running:
        if asyncio.get_running_loop().time() > deadline:
            return False
        # The executor takes back what was asked before a prompt began.
        interrupt_current_processing()
        await asyncio.sleep(0.02)
    return True

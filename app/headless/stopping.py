"""Ctrl-C and SIGTERM while a workflow runs: the first asks, the second ends at once."""

from __future__ import annotations

import _thread
import os
import signal
import threading
from collections.abc import Callable
from types import FrameType

from app.headless.failures import INTERRUPTED
from app.signal_handlers import StopHandler
from comfy.interrupts import (
    InterruptProcessingException,
    interrupt_current_processing,
    processing_interrupted,
)

GRACE_S = 3.0
"""How long a node may take to notice the wish; then the interruption is raised inside it."""


class StopSignals:
    """A context in which signals interrupt the run instead of ending the process.

    Enter it in the main thread, and run the nodes there: what they wait for in Python, a sleep
    too, can then be broken off. Code outside Python is left to end by itself.
    """

    def __init__(self, tell: Callable[[str], None], leave: Callable[[], None]) -> None:
        """Prepare; nothing is installed yet.

        Args:
            tell: Shows a line; called from a signal handler.
            leave: Puts the terminal in order before the process ends at once.
        """
        self._tell, self._leave = tell, leave
        self._asked = False
        self._insists = False
        self._timer: threading.Timer | None = None
        self._handler = StopHandler(self._on_signal)

    @property
    def asked(self) -> bool:
        """Whether the user wants the run to stop."""
        return self._asked

    def check(self) -> None:
        """Stop here if asked to.

        Raises:
            InterruptProcessingException: If a signal came.
        """
        if self._asked:
            raise InterruptProcessingException

    def __enter__(self) -> StopSignals:
        self._handler.install()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._handler.restore()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._insists:
            self._insists = False
            interrupt_current_processing(False)
            raise InterruptProcessingException
        if self._asked:
            self._leave()
            os._exit(INTERRUPTED)
        self._asked = True
        interrupt_current_processing()
        self._tell("Stopping when the node that runs notices. Once more ends the program at once.")
        self._timer = threading.Timer(GRACE_S, self._insist)
        self._timer.daemon = True
        self._timer.start()

    def _insist(self) -> None:
        """Let the signal handler run once more, in the main thread, if nobody took the wish."""
        if not processing_interrupted():
            return
        self._insists = True
        if hasattr(signal, "pthread_kill"):
            # To that thread, so that a sleep in it is broken off.
            main = threading.main_thread().ident
            assert main is not None, "it has been started"
            signal.pthread_kill(main, signal.SIGINT)
        else:
            _thread.interrupt_main(signal.SIGINT)

"""The user's wish to stop a run: one flag per process, asked between steps and nodes."""

from __future__ import annotations

import threading


class InterruptProcessingException(Exception):
    """The user stopped the run."""


interrupt_processing_mutex = threading.RLock()
_asked = threading.Event()


def interrupt_current_processing(value: bool = True) -> None:
    """Ask the run to stop, or take that back."""
    with interrupt_processing_mutex:
        if value:
            _asked.set()
        else:
            _asked.clear()


def processing_interrupted() -> bool:
    """Whether the run is asked to stop."""
    return _asked.is_set()


def throw_exception_if_processing_interrupted() -> None:
    """Stop if asked to; the question is then answered.

    Raises:
        InterruptProcessingException: Once per `interrupt_current_processing`.
    """
    if not _asked.is_set():
        return
    with interrupt_processing_mutex:
        if _asked.is_set():
            _asked.clear()
            raise InterruptProcessingException

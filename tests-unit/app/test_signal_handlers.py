"""Ctrl-C and SIGTERM are taken, and given back."""

from __future__ import annotations

import os
import signal

import pytest

from app.signal_handlers import StopHandler

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals are sent as POSIX does")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_taken_until_they_are_given_back(number: signal.Signals) -> None:
    came: list[int] = []
    before = signal.getsignal(number)
    handler = StopHandler(lambda number, frame: came.append(number))
    assert signal.getsignal(number) is before
    handler.install()
    try:
        os.kill(os.getpid(), number)
        assert came == [number]
    finally:
        handler.restore()
    assert signal.getsignal(number) is before

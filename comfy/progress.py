"""Progress: the bar that nodes use, and the bytes of a load on the terminal and in the page."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextvars import ContextVar
from types import TracebackType
from typing import Any, TextIO

from tqdm import tqdm

Hook = Callable[..., Any]
"""Called as ``hook(value, total, preview, node_id=...)``; may raise to interrupt the work."""

LARGE_FILE_BYTES = 256 * 1024 * 1024
HOOK_INTERVAL_S = 0.1

file_in_progress: ContextVar[str | None] = ContextVar("file_in_progress", default=None)
"""While a hook is called: the name of what is being loaded if it counts bytes, else None."""


class ProgressBar:
    """Counts towards a total and tells a hook.

    Attributes:
        total: What counts as done.
        current: How much is done; never more than `total`.
        hook: Told of each change, or None.
        node_id: Passed to the hook; None lets it find the running node.
    """

    def __init__(self, total: int, node_id: str | None = None, hook: Hook | None = None) -> None:
        self.total = total
        self.current = 0
        self.hook = hook
        self.node_id = node_id

    def update_absolute(self, value: int, total: int | None = None, preview: Any = None) -> None:
        """Set what is done.

        Args:
            value: Limited to the total.
            total: A new total, or None.
            preview: ``("JPEG" or "PNG", PIL image, largest side or None)``, or None.
        """
        if total is not None:
            self.total = total
        self.current = min(value, self.total)
        if self.hook is not None:
            self.hook(self.current, self.total, preview, node_id=self.node_id)

    def update(self, value: int = 1) -> None:
        """Add to what is done."""
        self.update_absolute(self.current + value)


class ByteProgress:
    """Shows the bytes of one load: a bar on a terminal if the file is large, and the hook.

    An instance is the callback of a load, and a context that takes the bar away at its end. The
    hook is called at most every `HOOK_INTERVAL_S` and once at the end of a load that took longer;
    what it raises ends the load.
    """

    def __init__(self, title: str, stream: TextIO | None, hook: Hook | None) -> None:
        """Prepare; nothing is shown yet.

        Args:
            title: Shown before the bar.
            stream: Where a bar may be drawn; None draws none.
            hook: Told of bytes done and bytes in all, or None.
        """
        self._title = title
        self._stream = stream if stream is not None and stream.isatty() else None
        self._hook = ProgressBar(0, hook=hook)
        self._bar: Any = None
        self._next_call = time.monotonic() + HOOK_INTERVAL_S

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __call__(self, done: int, total: int) -> None:
        """Note that `done` of `total` bytes are there."""
        self._draw(done, total)
        now = time.monotonic()
        if self._hook.hook is not None and (now >= self._next_call or self._is_last(done, total)):
            self._next_call = now + HOOK_INTERVAL_S
            token = file_in_progress.set(self._title)
            try:
                self._hook.update_absolute(done, total)
            finally:
                file_in_progress.reset(token)

    def _is_last(self, done: int, total: int) -> bool:
        return done >= total and self._hook.total > 0

    def _draw(self, done: int, total: int) -> None:
        if self._stream is None or total <= LARGE_FILE_BYTES:
            return
        if self._bar is None:
            self._bar = tqdm(
                total=total,
                desc=self._title,
                file=self._stream,
                unit="B",
                unit_scale=True,
                unit_divisor=1024,
                leave=False,
                dynamic_ncols=True,
            )
        self._bar.total = total
        self._bar.update(done - self._bar.n)

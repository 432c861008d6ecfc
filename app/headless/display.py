"""Shows a run on standard error: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from comfy.loading.usage import in_words

_SHOWN_RUNNING = 6
_REFRESHES_PER_S = 8
_PLAIN_INTERVAL_S = 10.0
# In a graph of more nodes than this, those that take no time are counted, not listed.
_LISTED_NODES = 100
_NO_TIME_S = 0.1
_BAR_COLUMNS = 30


@dataclass(slots=True)
class _Running:
    """A node at work."""

    title: str
    started: float
    value: float = 0
    total: float = 0
    file: str | None = None
    told: float = 0.0
    spinner: Spinner = field(default_factory=lambda: Spinner("dots"))

    def amount(self) -> str:
        """How far it is: steps, or bytes of a file."""
        if self.total <= 0:
            return ""
        if self.file is not None:
            return f"{in_words(int(self.value))} of {in_words(int(self.total))} of {self.file}"
        return f"{self.value:g} of {self.total:g}"


class Display:
    """Told of a run's events; a context, at the end of which the live view is gone.

    Lines of finished nodes stay on the screen. Nothing is written to standard output.
    """

    def __init__(self, titles: Mapping[str, str], console: Console | None = None) -> None:
        """Prepare; nothing is shown yet.

        Args:
            titles: What to call each node of the prompt, by id.
            console: Where to write; standard error if None.
        """
        self.console = console if console is not None else Console(stderr=True)
        self._titles = titles
        self._running: dict[str, _Running] = {}
        self._done: set[str] = set()
        self._started = time.monotonic()
        self._notice = ""
        self._live: Live | None = None

    def __enter__(self) -> Display:
        if self.console.is_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self._render,
                refresh_per_second=_REFRESHES_PER_S,
                transient=True,
                redirect_stdout=True,
                redirect_stderr=True,
            )
            self._live.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def started(self, node: str) -> None:
        """A node begins; again if it waited for others in between."""
        if node not in self._running:
            self._running[node] = _Running(self._title(node), time.monotonic())

    def progressed(self, node: str, value: float, total: float, file: str | None) -> None:
        """A node has done a part of its work.

        Args:
            node: Its id.
            value: Done, in steps, or in bytes if `file` is given.
            total: In all.
            file: Name of the file that is being loaded, or None.
        """
        self.started(node)
        one = self._running[node]
        one.value, one.total, one.file = value, total, file
        now = time.monotonic()
        if self._live is None and now - max(one.told, one.started) >= _PLAIN_INTERVAL_S:
            one.told = now
            self._say(f"{one.title}: {one.amount()}")

    def finished(self, node: str) -> None:
        """A node has ended well."""
        one = self._running.pop(node, None)
        self._done.add(node)
        if one is None:
            return
        took = time.monotonic() - one.started
        if took >= _NO_TIME_S or len(self._titles) <= _LISTED_NODES:
            self._say(f"{one.title}: done in {took:.1f} s", "green", "✓")

    def cached(self, nodes: Iterable[str]) -> None:
        """Results of nodes are there from before."""
        for node in nodes:
            self._done.add(node)
            if len(self._titles) <= _LISTED_NODES:
                self._say(f"{self._title(node)}: as before", "dim", "·")

    def failed(self, node: str) -> None:
        """A node has raised."""
        one = self._running.pop(node, None)
        self._say(f"{one.title if one else self._title(node)}: failed", "red", "✗")

    def note(self, node: str, text: str) -> None:
        """A node gives a text out."""
        self._say(f"{self._title(node)}: {text}")

    def stopping(self, text: str) -> None:
        """The user wants the run to stop. Safe in a signal handler."""
        self._notice = text
        if self._live is None:
            # Not through a buffer: the signal may have come while it was being written to.
            os.write(2, f"{text}\n".encode())

    def leave(self) -> None:
        """Put the terminal in order at once; the process is about to end. Safe in a handler."""
        if self._live is not None:
            os.write(2, b"\x1b[?25h\n")

    def _title(self, node: str) -> str:
        return self._titles.get(node) or node

    def _say(self, line: str, style: str = "", mark: str = "") -> None:
        if self._live is None:
            self.console.print(line, soft_wrap=True, markup=False, highlight=False)
        else:
            self.console.print(
                f"[{style or 'none'}]{mark or ' '} {escape(line)}[/]", highlight=False
            )

    def _render(self) -> RenderableType:
        rows = Table.grid(padding=(0, 1))
        running = list(self._running.values())
        for one in running[:_SHOWN_RUNNING]:
            bar = ProgressBar(
                total=max(one.total, 1),
                completed=one.value,
                width=_BAR_COLUMNS,
                pulse=one.total <= 0,
            )
            seconds = f"{time.monotonic() - one.started:.1f} s"
            rows.add_row(one.spinner, Text(one.title), bar, Text(one.amount()), seconds)
        if len(running) > _SHOWN_RUNNING:
            rows.add_row("", f"and {len(running) - _SHOWN_RUNNING} more")
        seconds = f"{time.monotonic() - self._started:.0f} s"
        known = sum(node in self._titles for node in self._done)
        lines: list[RenderableType] = [
            rows,
            Text(f"{known} of {len(self._titles)} nodes, {seconds}", style="dim"),
        ]
        if self._notice:
            lines.append(Text(self._notice, style="yellow"))
        return Group(*lines)

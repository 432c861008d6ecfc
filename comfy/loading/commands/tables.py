"""Plain aligned text for terminals, pipes and issue reports."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence

INDENT = "  "
_GAP = "  "
_FACT_COLUMNS = 100


def heading(text: str) -> str:
    """Set a section's title apart."""
    return f"\n{text}"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> list[str]:
    """Align rows in columns.

    Args:
        header: Titles of the columns.
        rows: As many cells each.
        right: One character per column: "r" aligns it to the right, anything else to the left.

    Returns:
        Lines without trailing space; the last column is never padded.
    """
    lines = [tuple(header), *(tuple(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    adjust = right.ljust(len(header))
    return [
        INDENT
        + _GAP.join(
            cell.rjust(width) if side == "r" else cell.ljust(width)
            for cell, width, side in zip(line, widths, adjust, strict=True)
        ).rstrip()
        for line in lines
    ]


def facts(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Align names and their values; a long value goes on below itself."""
    listed = list(pairs)
    width = max((len(name) for name, _ in listed), default=0)
    lines = []
    for name, value in listed:
        start = f"{INDENT}{name.ljust(width)}{_GAP}"
        parts = value.splitlines() or [""]
        for part in parts:
            lines += wrapped(part, start, " " * len(start))
            start = " " * len(start)
    return lines


def wrapped(text: str, first: str = INDENT, rest: str = INDENT) -> list[str]:
    """Break a paragraph into lines that fit the terminal.

    Args:
        text: One paragraph.
        first: What the first line begins with.
        rest: What the others begin with.
    """
    lines = textwrap.wrap(
        text,
        max(40, line_width()),
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.rstrip() for line in lines] or [first.rstrip()]


def line_width() -> int:
    """Columns that a line of prose may take."""
    if not sys.stdout.isatty():
        return _FACT_COLUMNS
    return min(_FACT_COLUMNS, shutil.get_terminal_size().columns)


def shortened(text: str, width: int) -> str:
    """Cut a value of one line to `width` characters, and say how long it was."""
    single = " ".join(text.split())
    if len(single) <= width:
        return single
    return f"{single[: max(0, width - 3)]}... ({len(text):,} characters)"


def percent(share: float | None) -> str:
    """Write a share; "?" where it is unknown.

    A little is not nothing, and nearly all is not all: 0 % and 100 % are exact.
    """
    if share is None:
        return "?"
    if 0 < share < 0.001:
        return "<0.1 %"
    if 0.999 < share < 1:
        return ">99.9 %"
    return (
        f"{share:.0%}".replace("%", " %") if share in (0, 1) else f"{share:.1%}".replace("%", " %")
    )

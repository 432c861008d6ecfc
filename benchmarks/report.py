"""Tables, a plot, and the verdict on what this project promises about speed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from benchmarks.files import TITLES, Letter
from comfy.loading.commands.contestants import Contestant
from comfy.loading.commands.runs import Target
from comfy.loading.commands.scores import DISK_TARGET, MEMORY_TARGET, QUIET_SHARE, Score
from comfy.loading.commands.tables import percent
from comfy.loading.memory import MIB
from comfy.loading.usage import in_words

HEADER = (
    "loader",
    "s",
    "min - max",
    "GB/s",
    "of disk",
    "of memory",
    "peak MiB",
    "peak/W",
    "cache left",
    "read MiB",
    "CPU s",
    "bound by",
)
# Runs differ by this much for no reason that anybody could name.
NOISE = 0.05
_PROMISED = ("ours: readinto", "ours: file-slice", "ours: file-slice -> simgpu")
_COLOURS = {"ours": "#1f6fb4", "stock": "#d98032", "peer": "#8a8a8a"}


def renamed(contestant: Contestant, name: str) -> Contestant:
    """The same contestant under another name."""
    return replace(contestant, name=name)


@dataclass(frozen=True, slots=True)
class Section:
    """One table: a set of files in one state.

    Attributes:
        title: What was loaded, and how it lay.
        rows: Cells.
        remarks: Verdicts, and whatever is odd.
    """

    title: str
    rows: tuple[tuple[str, ...], ...]
    remarks: tuple[str, ...]

    def as_table(self) -> Table:
        """For a terminal."""
        table = Table(title=self.title, title_justify="left", box=box.SIMPLE)
        for index, name in enumerate(HEADER):
            is_text = index in (0, len(HEADER) - 1)
            table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row, style="bold" if row[0].startswith("ours") else None)
        return table


def sections(targets: Mapping[Letter, Target], scores: Sequence[Score]) -> list[Section]:
    """One section for each set and state that was measured."""
    found = []
    for letter, target in targets.items():
        for state in ("cold", "warm"):
            rows = [one for one in scores if (one.path, one.state) == (target.path, state)]
            if rows:
                title = f"Set {letter}, {TITLES[letter]}, {in_words(target.nbytes)}, {state}"
                cells = tuple(_cells(one) for one in rows)
                found.append(Section(title, cells, tuple(_remarks(rows))))
    return found


def _cells(one: Score) -> tuple[str, ...]:
    if one.seconds is None:
        return (one.label, "discarded" if one.discarded else "failed", *[""] * 10)
    is_ceiling = one.kind in ("disk", "memory")
    measured = (
        one.label,
        f"{one.seconds:.2f}",
        f"{one.fastest_s or 0:.2f} - {one.slowest_s or 0:.2f}",
        f"{(one.rate or 0) / 1e9:.2f}",
    )
    if is_ceiling:
        return (*measured, *[""] * 7, "(the machine at best)")
    return (
        *measured,
        "" if one.of_disk is None else f"{one.of_disk:.2f}",
        "" if one.of_memory is None else f"{one.of_memory:.2f}",
        f"{(one.peak_bytes or 0) / MIB:,.0f}",
        f"{one.peak_share or 0:.2f}",
        percent(one.cached_left),
        "" if one.disk_bytes is None else f"{one.disk_bytes / MIB:,.0f}",
        f"{one.cpu_s or 0:.2f}",
        one.bound,
    )


def _remarks(rows: Sequence[Score]) -> list[str]:
    lines = [line for name in _PROMISED for line in _verdict(name, rows)]
    others = max((one.others_share or 0.0 for one in rows), default=0.0)
    if others > QUIET_SHARE:
        lines.append(f"- Other programs took up to {others:.0%} of the CPUs: repeat it when idle.")
    for one in rows:
        if one.problem:
            how = f"{one.discarded} discarded, " if one.discarded else ""
            lines.append(f"- {one.contestant}: {how}{one.problem}")
        if one.same_bytes is False:
            lines.append(f"- {one.contestant}: ITS BYTES ARE NOT THOSE OF THE OTHERS")
    return lines


def _verdict(name: str, rows: Sequence[Score]) -> list[str]:
    """Compare one of ours with the promise, in words with numbers."""
    one = next((row for row in rows if row.contestant == name and row.seconds), None)
    if one is None or one.seconds is None:
        return []
    lines = []
    if one.state == "cold":
        share, target, what = one.of_disk or 0.0, DISK_TARGET, "the disk's rate"
    else:
        share, target, what = one.of_memory or 0.0, MEMORY_TARGET, "a single memcpy loop's rate"
    mark = "yes" if share >= target else f"no; bound by {one.bound}"
    lines.append(f"- {name}: {share:.2f} of {what}, at least {target:.2f}? {mark}")
    rivals = [
        row
        for row in rows
        if row.kind in ("stock", "peer")
        and row.is_private
        and row.device == one.device
        and row.seconds is not None
    ]
    best = min(rivals, key=lambda row: row.seconds or 0.0, default=None)
    if best is not None and best.seconds:
        ratio = best.seconds / one.seconds
        mark = "yes" if ratio >= 1 - NOISE else "no"
        lines.append(
            f"- {name}: not slower than the fastest that leaves private memory, {best.contestant} "
            f"({best.seconds:.2f} s)? {mark}: {ratio:.2f} times as fast"
        )
    return lines


def as_markdown(parts: Sequence[Section], told: Mapping[str, Any]) -> str:
    """The tables for people who read them later."""
    machine = told["machine"]
    where = (
        f"{machine['cpu']}, {machine['cpu_count']} CPUs, "
        f"{in_words(machine['memory_bytes'])} of memory, {machine['system']}, "
        f"torch {machine['torch']}; {told['rounds']} rounds, set A of {told['size_mib']} MiB. "
        "Median seconds until every weight can be used; see benchmarks/README.md for how."
    )
    lines = [
        "# Loading, measured",
        "",
        where,
    ]
    if told["missing"]:
        lines += ["", f"Not installed here: {', '.join(told['missing'])}."]
    for part in parts:
        lines += ["", f"## {part.title}", "", _markdown_row(HEADER)]
        lines.append(_markdown_row(["---", *["---:"] * (len(HEADER) - 2), "---"]))
        lines += [_markdown_row(row) for row in part.rows]
        lines += ["", *part.remarks]
    return "\n".join(lines) + "\n"


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def plot(path: Path, title: str, scores: Sequence[Score]) -> None:
    """Draw rate (cold and warm) and memory of one set's loaders.

    Args:
        path: A PNG to write.
        title: Of the set.
        scores: All of the set.
    """
    # Matplotlib looks for a display, and keeps state, the moment it is imported otherwise.
    os.environ.setdefault("MPLBACKEND", "Agg")
    from matplotlib.figure import Figure  # noqa: PLC0415 - an optional package

    states = [state for state in ("cold", "warm") if any(one.state == state for one in scores)]
    loaders = list(dict.fromkeys(one.contestant for one in scores if one.kind in _COLOURS))
    size = (4.6 * (len(states) + 1), 0.34 * len(loaders) + 2.2)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(1, len(states) + 1, sharey=True, squeeze=False)[0]
    for axis, state in zip(axes, states, strict=False):
        _plot_rates(axis, state, loaders, [one for one in scores if one.state == state])
    _plot_memory(axes[-1], loaders, scores)
    axes[0].set_yticks(range(len(loaders)), loaders)
    axes[0].set_ylim(len(loaders) - 0.4, -0.6)
    figure.suptitle(
        f"{title}\ndashed: the disk; dotted: fresh memory; hatched: left mapped, not copied; "
        "thin lines: slowest and fastest run",
        fontsize="medium",
    )
    figure.savefig(path, dpi=110)


def _plot_rates(axis: Any, state: str, loaders: Sequence[str], scores: Sequence[Score]) -> None:
    for one in scores:
        if one.contestant not in loaders or one.seconds is None:
            continue
        rate = one.nbytes / one.seconds / 1e9
        slow, fast = (
            one.nbytes / (one.slowest_s or 1) / 1e9,
            one.nbytes / (one.fastest_s or 1) / 1e9,
        )
        colour = _COLOURS[one.kind]
        bar = axis.barh(loaders.index(one.contestant), rate, color=colour)
        if not one.is_private:
            bar[0].set_hatch("///")
            bar[0].set_edgecolor("white")
        axis.plot([slow, fast], [loaders.index(one.contestant)] * 2, color="black", linewidth=1)
    for one in scores:
        if one.kind in ("disk", "memory") and one.rate:
            style = "--" if one.kind == "disk" else ":"
            axis.axvline(one.rate / 1e9, color="black", linestyle=style, linewidth=0.8)
    limit = max((one.rate or 0 for one in scores if one.is_private), default=1e9) / 1e9
    # A mapping that is warm costs next to nothing, and would press all others together.
    axis.set_xlim(0, limit * 1.35)
    axis.set_xlabel(f"GB/s, {state}")


def _plot_memory(axis: Any, loaders: Sequence[str], scores: Sequence[Score]) -> None:
    state = "cold" if any(one.state == "cold" for one in scores) else "warm"
    for one in scores:
        if one.state != state or one.contestant not in loaders or not one.seconds:
            continue
        place = loaders.index(one.contestant)
        peak = one.peak_share or 0.0
        axis.barh(place, peak, color=_COLOURS[one.kind])
        left = (one.pool_share or 0.0) - peak
        axis.barh(place, left, left=peak, color="#dddddd", edgecolor="#999999")
    axis.axvline(1.0, color="black", linewidth=0.8)
    axis.set_xlabel(f"peak memory / W, {state}; grey: page cache left besides")

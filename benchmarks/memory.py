"""Memory of loaders by a control group of their own, page cache included, and loads under a cap.

The figures of `benchmarks.load` are those of the process. In one pool of memory the page cache
counts as well, so here the kernel's own account is taken; and each loader is run with only some
multiple of the weights' size to live in. Needs permission to make a memory control group.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from benchmarks import files
from benchmarks.load import RESULTS, contestants_named, words
from comfy.loading.commands.cache_states import make_cold, residency
from comfy.loading.commands.contestants import Contestant
from comfy.loading.commands.one_run import Job
from comfy.loading.commands.runs import Target
from comfy.loading.commands.tables import percent
from comfy.loading.memory import MIB
from support.memory_cap import Measured, cgroup_reason, run_measured

_SETUP = """
from comfy.loading.commands.one_run import Job, resolve
job = Job.from_json(args["job"])
if job.setup:
    resolve(job.setup)()
act = resolve(job.target)(job)
"""
_BODY = """
outcome = act()
result = outcome.nbytes
"""


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__)
    parser.add_argument("--size-mib", type=int, default=2048, help="of the file (default: 2048)")
    parser.add_argument(
        "--caps",
        default="1.5,1.2,1.15,1.1",
        help="of memory, in sizes of the weights (default: %(default)s)",
    )
    parser.add_argument(
        "--only", metavar="WORDS", help="only loaders with one of these in their name"
    )
    parser.add_argument("--folder", type=Path, help="for the file (default: a cache folder)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="for results (default: %(default)s)"
    )
    return parser.parse_args(argv)


def measure(one: Contestant, target: Target, cap: float | None = None) -> Measured:
    """Load once, cold, in a control group of its own.

    Args:
        one: The loader.
        target: What it loads.
        cap: Limit of the group over its baseline, in sizes of the weights; None for none.
    """
    job = Job(
        one.target, target.path, target.files, target.sizes, one.device, one.setup, one.arguments
    )
    make_cold(target.files)
    limit = None if cap is None else int(cap * target.nbytes)
    return run_measured(
        _BODY,
        setup=_SETUP,
        arguments={"job": json.dumps(asdict(job))},
        limit_over_baseline_bytes=limit,
        environment={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        timeout_s=600.0,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table, write JSON.

    Returns:
        0; 1 where no control group can be made; 130 after Ctrl-C.
    """
    arguments = _arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    reason = cgroup_reason()
    if reason is not None:
        console.print(f"Nothing measured: {reason}.")
        return 1
    caps = [float(cap) for cap in words(arguments.caps)]
    chosen = contestants_named("A", arguments.only)
    folder = arguments.folder or files.cache_folder() / "bench"
    table = Table(title="Memory by control group, cold", title_justify="left", box=box.SIMPLE)
    for name in ("loader", "process", "with page cache", "/ W", "cache left"):
        table.add_column(name, justify="left" if name == "loader" else "right")
    for cap in caps:
        table.add_column(f"in {cap:g} W", justify="right")
    told: list[dict[str, Any]] = []
    try:
        target = files.make_targets(["A"], arguments.size_mib * MIB, folder)["A"]
        for one in chosen:
            with console.status(one.name):
                row, found = _row(one, target, caps)
            table.add_row(*row)
            told.append(found)
    except KeyboardInterrupt:
        console.print(table)
        return 130
    console.print(table)
    console.print(
        "MiB over the baseline. Under a cap: seconds, or how it ended. A loader may survive a cap by "
        "having its page cache taken away again and again; its time shows that."
    )
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"size_mib": arguments.size_mib, "caps": caps, "loaders": told}, indent=1)
    (arguments.out / "memory.json").write_text(text + "\n", encoding="utf-8")
    return 0


def _row(
    one: Contestant, target: Target, caps: Sequence[float]
) -> tuple[list[str], dict[str, Any]]:
    free = measure(one, target)
    left = residency(target.files)
    capped = {cap: measure(one, target, cap) for cap in caps}
    group = free.group_peak_over_baseline_bytes
    found = {
        "name": one.name,
        "weight_bytes": target.nbytes,
        "process_peak_bytes": free.peak_over_baseline_bytes,
        "group_peak_bytes": group,
        "cached_left": left,
        "error": free.error,
        "capped": {f"{cap:g}": _ending(run) for cap, run in capped.items()},
    }
    if free.error is not None:
        return [one.name, free.error, "", "", "", *[_ending(run) for run in capped.values()]], found
    row = [
        one.name,
        f"{free.peak_over_baseline_bytes / MIB:,.0f}",
        "" if group is None else f"{group / MIB:,.0f}",
        "" if group is None else f"{group / target.nbytes:.2f}",
        percent(left),
        *(_ending(run) for run in capped.values()),
    ]
    return row, found


def _ending(run: Measured) -> str:
    if run.killed_for_memory:
        return "killed"
    return f"{run.seconds:.1f} s" if run.error is None else run.error


if __name__ == "__main__":
    sys.exit(main())

"""Load a synthetic checkpoint with every strategy, and print what each load cost: ``make demo-loading``.

The checkpoint of 1 GiB is made once, in $XDG_CACHE_HOME/comfyui-onecopy (or ~/.cache), and used
again. Each load has a process of its own and begins with the file out of the page cache; no other
file is touched. The device is simulated: its memory is that of the process, as it is where CPU and
GPU share one memory, so a second copy of a weight shows.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# This is a script, and neither the package nor the tests' simulated device is installed.
sys.path[:0] = [str(ROOT), str(ROOT / "tests-unit")]

from rich import box  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.markup import escape  # noqa: E402
from rich.table import Table  # noqa: E402

from benchmarks.files import cache_folder, make_targets  # noqa: E402
from benchmarks.load import words  # noqa: E402
from comfy.loading.commands.cache_states import State, can_be_cold  # noqa: E402
from comfy.loading.commands.contestants import Contestant, ours, stock  # noqa: E402
from comfy.loading.commands.runs import Run, Step, Target, run_once  # noqa: E402
from comfy.loading.commands.tables import percent  # noqa: E402
from comfy.loading.memory import MIB  # noqa: E402
from comfy.loading.options import LoadOptions  # noqa: E402
from comfy.loading.usage import in_words  # noqa: E402

_DEVICE = "simgpu:0"
_SETUP = "support.simulated_device:install"
_STRATEGIES = ("mmap", "readinto", "file-slice")
_COLUMNS = ("strategy", "device", "seconds", "GB/s", "peak memory", "x W", "page cache left")


def loads(strategies: Sequence[str] = _STRATEGIES) -> list[Contestant]:
    """Each strategy onto each device, and beside them what one does without this project."""
    options = LoadOptions()
    on_cpu = [ours(name, options) for name in strategies]
    on_device = [ours(name, options, _DEVICE, _SETUP) for name in strategies]
    return [
        *on_cpu,
        stock("mmap", copies=True),
        *on_device,
        stock("mmap", copies=False, device=_DEVICE, setup=_SETUP),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Make the checkpoint, load it, print the table.

    Returns:
        0; 1 if a load failed or the file could not be made; 130 after Ctrl-C.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size-mib", type=int, default=1024, help="of the checkpoint")
    parser.add_argument(
        "--folder", type=Path, default=cache_folder() / "demo", help="to keep it in"
    )
    parser.add_argument(
        "--strategies", default=",".join(_STRATEGIES), help="with commas (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    runs: list[Run] = []
    try:
        with console.status(f"making a checkpoint in {arguments.folder}"):
            target = make_targets(["A"], arguments.size_mib * MIB, arguments.folder)["A"]
        _load_all(console, target, loads(words(arguments.strategies)), runs)
    except KeyboardInterrupt:
        console.print(f"Stopped after {len(runs)} loads; the checkpoint stays for the next time.")
        return 130
    except OSError as err:
        console.print(f"[red]{escape(str(err))}[/]")
        return 1
    return int(any(run.result is None for run in runs))


def _load_all(
    console: Console, target: Target, chosen: Sequence[Contestant], runs: list[Run]
) -> None:
    """Make all loads, adding each to `runs` as it ends, and print the table."""
    state: State = "cold" if can_be_cold() else "warm"
    console.print(
        f"{target.path}, {in_words(target.nbytes)} in {len(target.sizes)} tensors (W), {state}"
    )
    for number, one in enumerate(chosen, 1):
        with console.status(f"{number} of {len(chosen)}: {one.name} to {one.device}"):
            runs.append(run_once(Step(target, one, state, 0)))
    console.print(_table(runs, target.nbytes))
    for run in runs:
        if run.problem:
            console.print(f"{run.contestant} to {run.device}: {escape(run.problem)}")
    console.print(
        "peak memory: of the process over its baseline, with device memory and mapped pages. What a "
        "loader that does not map leaves in the page cache comes on top of it."
    )


def _table(runs: Sequence[Run], nbytes: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD)
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _COLUMNS[:2] else "right", no_wrap=True)
    before = runs[0].device if runs else ""
    for run in runs:
        if run.device != before:
            table.add_section()
            before = run.device
        device = "CPU" if run.device == "cpu" else "simulated"
        if run.result is None:
            table.add_row(run.contestant, device, "failed")
            continue
        result = run.result
        peak = result.peak_bytes - result.baseline_bytes
        table.add_row(
            run.contestant,
            device,
            f"{result.seconds:.2f}",
            f"{result.nbytes / result.seconds / 1e9:.2f}",
            in_words(peak),
            f"{peak / nbytes:.2f}",
            percent(run.cached_left),
        )
    return table


if __name__ == "__main__":
    sys.exit(main())

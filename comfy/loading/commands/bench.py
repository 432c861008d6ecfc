"""Measure how fast each strategy loads a file on this machine, and what it costs in memory.

Each run has a process of its own and begins with the file cold (out of the page cache) or warm
(all of it there), which is checked; runs that do not are discarded. Cold runs drop the given files
from the page cache, and nothing else; no privileges are needed. In every round the disk and fresh
memory are measured, too, so that one can see what bounds a load.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

import torch

from comfy.loading import options
from comfy.loading.commands.cache_states import State, can_be_cold, residency
from comfy.loading.commands.contestants import Contestant, ceilings, ours, stock
from comfy.loading.commands.devices import add_device_arguments, chosen_device
from comfy.loading.commands.findings import machine
from comfy.loading.commands.runs import REST_S, TIMEOUT_S, Run, Step, Target, run_once, schedule
from comfy.loading.commands.scores import DISK_TARGET, MEMORY_TARGET, QUIET_SHARE, Score, score
from comfy.loading.commands.tables import heading, percent, table, wrapped
from comfy.loading.contents import SAFETENSORS_SUFFIXES, read_contents
from comfy.loading.errors import FlagConflict, NotEnoughMemory
from comfy.loading.hardware import default_device
from comfy.loading.loader import Loader
from comfy.loading.memory import host_pool
from comfy.loading.options import LoadOptions
from comfy.loading.plan import LoadRequest
from comfy.loading.storage import probe_storage
from comfy.loading.usage import in_words
from comfy.loading.weight_file import FileTable

_ROUNDS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("files", metavar="FILE", nargs="+", help="checkpoints")
    parser.add_argument(
        "--strategies",
        metavar="NAMES",
        help="of ours, with commas; default: auto and every one that this device allows",
    )
    parser.add_argument("--no-stock", action="store_true", help="leave safetensors itself out")
    parser.add_argument(
        "--rounds", type=_positive, default=_ROUNDS, metavar="N", help=f"default: {_ROUNDS}"
    )
    states = parser.add_mutually_exclusive_group()
    states.add_argument("--cold", action="store_true", help="only with the files out of memory")
    states.add_argument("--warm", action="store_true", help="only with the files in memory")
    parser.add_argument("--json", metavar="OUT", help="write all runs there, too; - for stdout")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the runs' order")
    parser.add_argument(
        "--rest", type=float, default=REST_S, metavar="S", help="pause before each run, in seconds"
    )
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT_S, metavar="S", help="of one run, in seconds"
    )
    add_device_arguments(parser)
    options.add_arguments(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, and print the table.

    Returns:
        0, 1 if one of our strategies failed or nothing could be measured, or 130.

    Raises:
        FileNotFoundError: If a file is not there.
        LoadError: If one is invalid.
        FlagConflict: If a strategy does not exist or cannot be used on this device.
        NotEnoughMemory: If the weights would not fit.
    """
    device = chosen_device(arguments) or default_device()
    chosen = options.from_namespace(arguments)
    targets = [target_of(path, compat=chosen.compat) for path in arguments.files]
    _refuse_too_large(targets)
    contestants = _contestants(arguments, chosen, device, targets[0])
    out = sys.stderr if arguments.json == "-" else sys.stdout
    states = _states(arguments, targets, out)
    steps = schedule(targets, contestants, states, arguments.rounds, seed=arguments.seed)
    _announce(targets, states, len(steps), out)
    runs, was_stopped = measure(
        steps, sys.stderr, timeout_s=arguments.timeout, rest_s=arguments.rest
    )
    scores = in_order(score(runs), contestants)
    for target in targets:
        print("\n".join(as_text(target, scores)), file=out)
    if was_stopped:
        print(f"\nStopped after {len(runs)} of {len(steps)} runs.", file=out)
    if arguments.json:
        _write(arguments.json, as_json(runs, scores, device, arguments.rounds))
    failed = [one for one in scores if one.kind == "ours" and one.runs == 0]
    return 130 if was_stopped else int(bool(failed) or not scores)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def target_of(path: str, *, compat: bool = False) -> Target:
    """Read a checkpoint's table.

    Args:
        path: The checkpoint.
        compat: Accept what ``--load-compat`` accepts.
    """
    contents = read_contents(os.path.abspath(path), FileTable(), compat=compat)
    sizes = tuple(one.nbytes for one in contents.slices.values())
    return Target(contents.path, tuple(file.path for file in contents.files), sizes)


def _refuse_too_large(targets: Sequence[Target]) -> None:
    pool = host_pool()
    largest = max(targets, key=lambda target: target.nbytes)
    if largest.nbytes > pool.free:
        raise NotEnoughMemory(
            largest.nbytes,
            pool.free,
            pool.name,
            path=largest.path,
            hint="Comparing loaders needs room for one private copy of the weights.",
        )


def _contestants(
    arguments: argparse.Namespace, chosen: LoadOptions, device: torch.device, target: Target
) -> list[Contestant]:
    """Ours, stock safetensors, and the ceilings."""
    loader = Loader(replace(chosen, strategy="auto"), run_device=device)
    request = LoadRequest(path=target.path, device=device)
    _, available = loader.plan(request)
    if arguments.strategies:
        names = [name.strip() for name in arguments.strategies.split(",") if name.strip()]
    elif chosen.strategy != "auto":
        names = [chosen.strategy]
    else:
        names = ["auto", *(name for name, why in available.items() if why is None)]
    setup = arguments.setup or ""
    found = []
    for name in dict.fromkeys(names):
        real = name if name == "auto" else loader.registry.canonical(name)
        if available.get(real) is not None:
            raise FlagConflict(f"--strategies: {name} cannot be used here: {available[real]}.")
        found.append(ours(real, replace(chosen, strategy="auto"), str(device), setup))
    if not arguments.no_stock and all(_is_safetensors(path) for path in target.files):
        found += _stock(str(device), setup)
    return found + ceilings(str(device), setup)


def _stock(device: str, setup: str) -> list[Contestant]:
    mapped = [stock("mmap", copies=False, device=device, setup=setup)]
    if device == "cpu":
        mapped.append(stock("mmap", copies=True))
    return [*mapped, stock("pread", copies=False, device=device, setup=setup)]


def _is_safetensors(path: str) -> bool:
    return path.lower().endswith(SAFETENSORS_SUFFIXES)


def _states(arguments: argparse.Namespace, targets: Sequence[Target], out: TextIO) -> list[State]:
    """Those that were asked for and can be had."""
    wanted: list[State] = ["cold", "warm"]
    if arguments.cold:
        wanted = ["cold"]
    elif arguments.warm:
        wanted = ["warm"]
    files = [path for target in targets for path in target.files]
    in_memory = [
        path
        for path in files
        if probe_storage(path, resident_fraction=None, direct_block_bytes=0).is_memory
    ]
    reason = ""
    if in_memory:
        reason = f"{in_memory[0]} lies in memory itself"
    elif not can_be_cold():
        reason = "this system does not drop pages on request"
    if reason and "cold" in wanted:
        wanted.remove("cold")
        print(f"No cold runs: {reason}.", file=out)
        if not wanted:
            raise FlagConflict(f"--cold: {reason}.")
    if residency(files) is None:
        print(
            "This system does not tell what the page cache holds, so cold and warm are not "
            "verified.",
            file=out,
        )
    return wanted


def _announce(targets: Sequence[Target], states: Sequence[State], runs: int, out: TextIO) -> None:
    told = ", ".join(f"{os.path.basename(t.path)} ({in_words(t.nbytes)})" for t in targets)
    lines = wrapped(f"{told}: {runs} runs, each in a process of its own.", "", "")
    if "cold" in states:
        names = ", ".join(path for target in targets for path in target.files)
        lines += wrapped(
            f"Before each cold run, this is dropped from the page cache: {names}", "", ""
        )
    print("\n".join(lines), file=out, flush=True)


def measure(
    steps: Sequence[Step], progress: TextIO, *, timeout_s: float, rest_s: float
) -> tuple[list[Run], bool]:
    """Make all runs, telling how far it is.

    Args:
        steps: What to run.
        progress: Gets one line for each run.
        timeout_s: Of one run.
        rest_s: Pause before each.

    Returns:
        The runs, and whether Ctrl-C ended them early.
    """
    runs: list[Run] = []
    try:
        for number, step in enumerate(steps, 1):
            runs.append(run_once(step, timeout_s=timeout_s, rest_s=rest_s))
            print(f"[{number}/{len(steps)}] {_line(runs[-1])}", file=progress, flush=True)
    except KeyboardInterrupt:
        return runs, True
    return runs, False


def _line(one: Run) -> str:
    name = f"round {one.round + 1}, {one.state}: {one.contestant}"
    if one.result is not None:
        return f"{name} {one.result.seconds:.2f} s"
    return f"{name} {'discarded' if one.was_discarded else 'FAILED'}: {one.problem}"


# -- what is told ------------------------------------------------------------------------------


def in_order(scores: Sequence[Score], contestants: Sequence[Contestant]) -> list[Score]:
    """Sort scores as the contestants are listed, cold before warm."""
    names = [(one.name, one.device) for one in contestants]
    return sorted(
        scores,
        key=lambda one: (one.state, names.index((one.contestant, one.device))),
    )


def as_text(target: Target, scores: Sequence[Score]) -> list[str]:
    """One table per state of one checkpoint, and what to know about it."""
    lines = []
    for state in ("cold", "warm"):
        rows = [one for one in scores if one.state == state and one.path == target.path]
        if rows:
            lines += [
                heading(f"{os.path.basename(target.path)}, {in_words(target.nbytes)}, {state}"),
                *table(_HEADER, [_row(one) for one in rows], right="lrlrrrrrrrl"),
            ]
    used = [one for one in scores if one.path == target.path]
    return lines + _remarks(used)


_HEADER = (
    "loader", "seconds", "min - max", "GB/s", "of disk", "of memory",
    "peak MiB", "peak / W", "cache left", "read MiB", "bound by",
)  # fmt: skip


def _row(one: Score) -> tuple[str, ...]:
    if one.seconds is None:
        why = "discarded" if one.discarded else "failed"
        return (one.label, why, *[""] * (len(_HEADER) - 2))
    mib = 1 << 20
    is_ceiling = one.kind in ("disk", "memory")
    return (
        one.label,
        f"{one.seconds:.2f}",
        f"{one.fastest_s or 0:.2f} - {one.slowest_s or 0:.2f}",
        f"{(one.rate or 0) / 1e9:.2f}",
        "" if is_ceiling else _share(one.of_disk),
        "" if is_ceiling else _share(one.of_memory),
        "" if is_ceiling else f"{(one.peak_bytes or 0) / mib:,.0f}",
        "" if is_ceiling else f"{one.peak_share or 0:.2f}",
        "" if is_ceiling else percent(one.cached_left),
        "" if one.disk_bytes is None else f"{one.disk_bytes / mib:,.0f}",
        one.bound or "(the machine at best)",
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _remarks(scores: Sequence[Score]) -> list[str]:
    lines = [""]
    lines += wrapped(
        f"of disk, of memory: share of the rate that the disk (the faster of its readers) and one "
        f"thread that fills fresh memory reached in the same round; from {DISK_TARGET} and "
        f"{MEMORY_TARGET} on they are what bounds a load. peak: memory over the process's "
        f"baseline, with mapped pages; W: the weights' size. Mapped weights are touched before "
        f"the clock stops."
    )
    others = max((one.others_share or 0.0 for one in scores), default=0.0)
    if others > QUIET_SHARE:
        lines += wrapped(
            f"Other programs took up to {others:.0%} of the CPUs meanwhile: the machine can do "
            f"better than this. Repeat it when nothing else runs."
        )
    for one in scores:
        if one.discarded:
            lines += wrapped(
                f"{one.contestant}, {one.state}: {one.discarded} discarded: {one.problem}."
            )
        elif one.problem:
            lines += wrapped(f"{one.contestant}, {one.state}: {one.problem}")
        if one.same_bytes is False:
            lines += wrapped(
                f"{one.contestant}, {one.state}: ITS BYTES ARE NOT THOSE OF THE OTHERS."
            )
    return lines


def as_json(
    runs: Sequence[Run], scores: Sequence[Score], device: torch.device, rounds: int
) -> dict[str, Any]:
    """Everything that was measured, and where."""
    return {
        "version": 1,
        "machine": machine(device),
        "rounds": rounds,
        "scores": [one.to_json() for one in scores],
        "runs": [one.to_json() for one in runs],
    }


def _write(where: str, report: dict[str, Any]) -> None:
    text = json.dumps(report, indent=1)
    if where == "-":
        print(text)
    else:
        Path(where).write_text(text + "\n", encoding="utf-8")

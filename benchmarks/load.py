"""Time and memory of loaders, ours and those of others, by one protocol: ``make bench``.

Every run has a process of its own, begins cold or warm, which is checked, and happens in random
order within its round; disk and memory are measured in the same round. See README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from benchmarks import files, peers, report
from benchmarks.files import Letter
from comfy.loading.commands.bench import as_json, in_order, measure
from comfy.loading.commands.cache_states import State
from comfy.loading.commands.contestants import Contestant, ceilings, ours, stock
from comfy.loading.commands.runs import REST_S, Run, Step, Target, schedule
from comfy.loading.commands.scores import score
from comfy.loading.memory import MIB
from comfy.loading.options import LoadOptions

RESULTS = Path(__file__).resolve().parent / "results"
_SIMULATED = "simgpu:0"
_SETUP = "support.simulated_device:install"
_QUICK_MIB = 32
_STATES: tuple[State, ...] = ("cold", "warm")


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.load", description=__doc__)
    parser.add_argument(
        "--sets", default="A,B,C,P", help="of files, with commas (default: %(default)s)"
    )
    parser.add_argument(
        "--size-mib", type=int, default=2048, help="of set A (default: %(default)s)"
    )
    parser.add_argument("--rounds", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--states", default=",".join(_STATES), help="default: %(default)s")
    parser.add_argument(
        "--only", metavar="WORDS", help="only loaders with one of these in their name"
    )
    parser.add_argument("--folder", type=Path, help="for the files (default: a cache folder)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="for results (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the runs' order")
    parser.add_argument("--timeout", type=float, default=600.0, help="of one run, in seconds")
    parser.add_argument(
        "--quick", action="store_true", help=f"one round on {_QUICK_MIB} MiB: shows that it works"
    )
    chosen = parser.parse_args(argv)
    if chosen.quick:
        chosen.rounds, chosen.size_mib = 1, _QUICK_MIB
    return chosen


def words(text: str | None) -> list[str]:
    """What stands between commas."""
    return [word for part in (text or "").split(",") if (word := part.strip())]


def contestants(letter: str) -> list[Contestant]:
    """Everything that can load one of the sets."""
    options = LoadOptions()
    names = ("mmap", "readinto", "file-slice")
    found = [ours(name, options, name=f"ours: {name}") for name in ("auto", *names)]
    found += [
        ours(name, options, _SIMULATED, _SETUP, f"ours: {name} -> simgpu")
        for name in ("file-slice", "readinto")
    ]
    if letter == "P":
        return [*found, *peers.pickle_peers()]
    found += [
        stock("mmap", copies=False),
        stock("mmap", copies=True),
        stock("pread", copies=False),
        *peers.safetensors_peers(),
        *peers.plain_readers(),
    ]
    # What ComfyUI does where the GPU shares the memory: map, then copy.
    on_device = stock("mmap", copies=False, device=_SIMULATED, setup=_SETUP)
    return [*found, report.renamed(on_device, "safetensors mmap -> simgpu")]


def contestants_named(letter: str, only: str | None) -> list[Contestant]:
    """Those whose names contain one of the words between commas; all where there is no word."""
    wanted = words(only)
    return [one for one in contestants(letter) if not wanted or any(w in one.name for w in wanted)]


def _chosen(letter: str, only: str | None) -> list[Contestant]:
    found = contestants_named(letter, only)
    devices = {one.device for one in found}
    machine = [*ceilings()]
    if _SIMULATED in devices:
        memory = ceilings(_SIMULATED, _SETUP)[-1]
        machine.append(report.renamed(memory, "memory of simgpu"))
    return found + machine


def _steps(
    targets: Mapping[Letter, Target], arguments: argparse.Namespace
) -> tuple[list[Step], list[Contestant]]:
    states = [state for state in _STATES if state in words(arguments.states)]
    steps: list[Step] = []
    everybody: list[Contestant] = []
    for letter, target in targets.items():
        chosen = _chosen(letter, arguments.only)
        everybody += [one for one in chosen if one not in everybody]
        steps += schedule([target], chosen, states, arguments.rounds, seed=arguments.seed)
    # All sets in each round, so that a slow hour of the machine does not hit one of them alone.
    return sorted(steps, key=lambda step: step.round), everybody


def main(argv: Sequence[str] | None = None) -> int:
    """Measure everything, write tables, plots and JSON.

    Returns:
        0; 1 if one of ours failed or the files could not be made; 130 after Ctrl-C.
    """
    arguments = _arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 200)
    known = {"set": (arguments.sets, files.LETTERS), "state": (arguments.states, _STATES)}
    for kind, (text, choices) in known.items():
        unknown = [word for word in words(text) if word not in choices]
        if unknown:
            console.print(f"There is no {kind} {', '.join(unknown)}; known: {', '.join(choices)}.")
            return 2
    letters = [letter for letter in files.LETTERS if letter in words(arguments.sets)]
    for name in peers.missing():
        console.print(f"[yellow]{name} is missing[/]: pip install -r benchmarks/requirements.txt")
    folder = arguments.folder or files.cache_folder() / "bench"
    try:
        with console.status(f"making files in {folder}"):
            targets = files.make_targets(letters, arguments.size_mib * MIB, folder)
    except KeyboardInterrupt:
        return 130
    except OSError as err:
        console.print(f"[red]{err}[/]")
        return 1
    steps, everybody = _steps(targets, arguments)
    console.print(
        f"{len(steps)} runs, each in a process of its own. Before each cold run the set's files in "
        f"{folder} are dropped from the page cache, and nothing else."
    )
    runs, was_stopped = measure(
        steps, sys.stderr, timeout_s=arguments.timeout, rest_s=0.0 if arguments.quick else REST_S
    )
    return _conclude(console, arguments, targets, runs, everybody, was_stopped)


def _conclude(
    console: Console,
    arguments: argparse.Namespace,
    targets: Mapping[Letter, Target],
    runs: Sequence[Run],
    everybody: Sequence[Contestant],
    was_stopped: bool,
) -> int:
    scores = in_order(score(runs), everybody)
    sections = report.sections(targets, scores)
    for section in sections:
        console.print(section.as_table())
        console.print("\n".join(section.remarks), highlight=False)
    if was_stopped:
        console.print("Stopped early; nothing was written.")
        return 130
    told: dict[str, Any] = as_json(runs, scores, torch.device("cpu"), arguments.rounds)
    told |= {
        "sets": {letter: target.path for letter, target in targets.items()},
        "missing": peers.missing(),
        "size_mib": arguments.size_mib,
    }
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "load.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    text = report.as_markdown(sections, told)
    (arguments.out / "load.md").write_text(text, encoding="utf-8")
    for letter, target in targets.items():
        of_set = [one for one in scores if one.path == target.path]
        report.plot(arguments.out / f"load_{letter}.png", files.TITLES[letter], of_set)
    console.print(f"Written: {arguments.out}/load.json, load.md, load_*.png")
    return int(any(one.kind == "ours" and one.runs == 0 for one in scores))


if __name__ == "__main__":
    sys.exit(main())

"""The executor's own work: graphs of trivial nodes, in milliseconds of CPU time per node.

A chain, where each node waits for the one before, and a wide graph of outputs that wait for one
node; run twice, so that the second run finds everything in the cache. Then a profile of the chain
tells which part of the executor the time goes to.
"""

from __future__ import annotations

import argparse
import cProfile
import json
import pstats
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import execution
import nodes
from benchmarks.load import RESULTS
from support.graph_nodes import BASIC, Graphs, Prompt, node

TARGET_MS = 0.3
_MODES = {
    "classic": execution.CacheType.CLASSIC,
    "lru": execution.CacheType.LRU,
    "ram": execution.CacheType.RAM_PRESSURE,
    "none": execution.CacheType.NONE,
}
# Free memory that every machine has, so that nothing is evicted.
_SMALL_HEADROOM_GIB = 0.001
_PARTS_SHOWN = 8


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.executor", description=__doc__)
    parser.add_argument("--nodes", type=int, default=5000, help="of each graph (default: 5000)")
    parser.add_argument("--rounds", type=int, default=3, help="the median counts (default: 3)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="for results (default: %(default)s)"
    )
    return parser.parse_args(argv)


def chain(count: int) -> Prompt:
    """Each node waits for the one before; the last is the output."""
    prompt = {str(i): node("Keep", value=[str(i - 1), 0] if i else 1) for i in range(count - 1)}
    return {**prompt, "show": node("Show", value=[str(count - 2), 0])}


def wide(count: int) -> Prompt:
    """Outputs that all wait for one node; their numbers keep them from sharing a result."""
    shows = {str(i): node("Show", value=["first", 0], number=i) for i in range(count - 1)}
    return {"first": node("Keep", value=1), **shows}


def measure(prompt: Prompt, mode: str, rounds: int) -> dict[str, float]:
    """Time a graph.

    Args:
        prompt: The graph.
        mode: Of the cache, a key of `_MODES`.
        rounds: Each with an executor of its own.

    Returns:
        "first" and "second": medians of the milliseconds of CPU time per node of both runs.

    Raises:
        RuntimeError: A run failed.
    """
    times: dict[str, list[float]] = {"first": [], "second": []}
    for _ in range(rounds):
        graphs = Graphs(_MODES[mode], lru=2 * len(prompt), ram=_SMALL_HEADROOM_GIB)
        for run, found in times.items():
            began = time.process_time()
            is_done = graphs.run(prompt)
            found.append((time.process_time() - began) / len(prompt) * 1000)
            if not is_done:
                raise RuntimeError(f"The {run} run failed: {graphs.error()}")
    return {run: statistics.median(found) for run, found in times.items()}


def shares(prompt: Prompt) -> dict[str, float]:
    """Which files of ours the time of a first run goes to, as shares; the profiler's own included."""
    graphs = Graphs()
    profile = cProfile.Profile()
    profile.runcall(graphs.run, prompt)
    by_file: dict[str, float] = {}
    total = 0.0
    for (path, _, _), figures in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        own_s = figures[2]
        total += own_s
        is_ours = "comfy_execution" in path or path.endswith("execution.py")
        name = Path(path).name if is_ours else "everything else"
        by_file[name] = by_file.get(name, 0.0) + own_s
    ranked = sorted(by_file.items(), key=lambda pair: -pair[1])
    return {name: own_s / total for name, own_s in ranked[:_PARTS_SHOWN]}


def _lines(found: dict[str, Any]) -> str:
    lines = [f"{found['nodes']:,} trivial nodes, ms of CPU time per node (first run, from cache):"]
    for shape, modes in found["ms_per_node"].items():
        for mode, times in modes.items():
            lines.append(f"- {shape}, {mode}: {times['first']:.3f}, {times['second']:.3f}")
    answer = "yes" if found["worst_ms"] <= TARGET_MS else "no"
    lines.append(f"At most {TARGET_MS} ms? {answer}: {found['worst_ms']:.3f} ms at worst")
    parts = ", ".join(f"{name} {share:.0%}" for name, share in found["shares"].items())
    lines.append(f"A chain's first run goes to: {parts}")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; returns 0."""
    arguments = _arguments(argv)
    nodes.NODE_CLASS_MAPPINGS.update(BASIC)
    graphs = {"chain": chain(arguments.nodes), "wide": wide(arguments.nodes)}
    per_node = {
        shape: {mode: measure(prompt, mode, arguments.rounds) for mode in _MODES}
        for shape, prompt in graphs.items()
    }
    found = {
        "nodes": arguments.nodes,
        "ms_per_node": per_node,
        "worst_ms": max(
            ms for modes in per_node.values() for times in modes.values() for ms in times.values()
        ),
        "shares": shares(graphs["chain"]),
    }
    Console(width=None if sys.stdout.isatty() else 160).print(_lines(found), highlight=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    (arguments.out / "executor.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The start: seconds until the program serves, beside those that `import torch` alone takes.

Both are started in turn, so that a busy machine slows both. Then one start tells which packages its
imports are spent on, and the memory of a program that serves and does nothing is read.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.load import RESULTS
from tools.demo_server import ROOT, resident_bytes, serving

MORE_THAN_TORCH_S = 2.5
_SHOWN = 14
_SETTLED_S = 1.0
_MIB = 2**20
# What Python writes of each module: its own microseconds, those with what it imports, its name.
_LINE = re.compile(r"import time:\s+(\d+) \|\s+(\d+) \|\s+(\S+)")


@dataclass(frozen=True, slots=True)
class Package:
    """What the modules of a package cost.

    Attributes:
        name: Of the package.
        ms: Milliseconds in its own modules, without what they import.
        modules: How many of them were imported.
    """

    name: str
    ms: float
    modules: int


def packages(told: str) -> list[Package]:
    """Add up what ``python -X importtime`` wrote; the dearest package first."""
    found: dict[str, list[int]] = {}
    for match in _LINE.finditer(told):
        found.setdefault(match[3].partition(".")[0], []).append(int(match[1]))
    ranked = sorted(found.items(), key=lambda pair: -sum(pair[1]))
    return [Package(name, sum(costs) / 1000, len(costs)) for name, costs in ranked]


# -- processes -------------------------------------------------------------------------------------


def _environment() -> dict[str, str]:
    kept = {key: value for key, value in os.environ.items() if not key.startswith("COMFY_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


def _flags(folder: Path) -> list[str]:
    return ["--cpu", "--base-directory", str(folder)]


def import_torch_s() -> float:
    """Seconds that a process takes which only imports torch."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import torch"], env=_environment(), check=True)
    return time.perf_counter() - begun


def torch_bytes() -> int:
    """The memory of a process that has imported torch."""
    code = "import torch, sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=_environment(),
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = resident_bytes(process.pid)
        process.kill()
    return found


def start(folder: Path) -> tuple[float, int]:
    """Start the program, and stop it when it has done nothing for a moment.

    Args:
        folder: A base directory.

    Returns:
        Seconds until it served, and its bytes of memory when idle.

    Raises:
        NotServing: It did not start; the end of its log says why.
    """
    begun = time.perf_counter()
    with serving(_flags(folder), _environment()) as server:
        seconds = time.perf_counter() - begun
        time.sleep(_SETTLED_S)
        return seconds, resident_bytes(server.process.pid)


def import_report(folder: Path) -> str:
    """What Python tells of all imports of a start."""
    python = (sys.executable, "-X", "importtime")
    command = [*python, str(ROOT / "main.py"), *_flags(folder), "--quick-test-for-ci"]
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True, check=True)
    return done.stderr


# -- the report ------------------------------------------------------------------------------------


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Start everything in turn.

    Args:
        folder: A base directory.
        rounds: How often; medians and the fastest are told.

    Returns:
        Seconds, bytes and packages, for JSON.

    Raises:
        NotServing: The program does not start; the end of its log says why.
    """
    torch_s, start_s, idle = [], [], 0
    for _ in range(rounds):
        torch_s.append(import_torch_s())
        seconds, idle = start(folder)
        start_s.append(seconds)
    return {
        "torch_s": torch_s,
        "start_s": start_s,
        "more_s": statistics.median(start_s) - statistics.median(torch_s),
        "idle_bytes": idle,
        "torch_bytes": torch_bytes(),
        "packages": [asdict(one) for one in packages(import_report(folder))],
    }


def lines(found: dict[str, Any]) -> str:
    """The report, in Markdown."""
    torch_s, start_s = (statistics.median(found[key]) for key in ("torch_s", "start_s"))
    idle, of_torch = (found[key] / _MIB for key in ("idle_bytes", "torch_bytes"))
    answer = "yes" if found["more_s"] <= MORE_THAN_TORCH_S else "no"
    told = [
        f"- `import torch`: {torch_s:.2f} s (fastest {min(found['torch_s']):.2f} s)",
        f"- start to serving: {start_s:.2f} s (fastest {min(found['start_s']):.2f} s)",
        f"- at most {MORE_THAN_TORCH_S} s more? {answer}: {found['more_s']:.2f} s",
        f"- memory when idle: {idle:.0f} MiB, of which `import torch` has {of_torch:.0f} MiB",
        "",
        "| package | ms | modules |",
        "|---|---:|---:|",
    ]
    first, rest = found["packages"][:_SHOWN], found["packages"][_SHOWN:]
    told += [f"| {one['name']} | {one['ms']:.0f} | {one['modules']} |" for one in first]
    others = sum(one["ms"] for one in rest), sum(one["modules"] for one in rest)
    told.append(f"| {len(rest)} others | {others[0]:.0f} | {others[1]} |")
    return "\n".join(told)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; returns 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="of each (default: 5)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="for results (default: %(default)s)"
    )
    arguments = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), arguments.rounds)
    print(lines(found))
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    (arguments.out / "startup.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the graft changes, in numbers: stand-in trees as they are and with it, on a simulated device.

The simulated device's memory is the process's own, as on a machine where CPU and GPU share it.
Each row is a process of its own that loads one model from a real file, runs it, and unloads it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests-unit")]

import torch  # noqa: E402 - by the path
from safetensors.torch import save_file  # noqa: E402

from comfy.loading.commands.graft_edits import edits  # noqa: E402
from comfy.loading.commands.graft_trees import Checkout, apply, package_files  # noqa: E402
from comfy.loading.commands.tables import table  # noqa: E402
from support.stand_ins import GENERATIONS, plant  # noqa: E402

DEPTH = 8
KEY = "model.diffusion_model.blocks.{}.{}"
MIB = 1 << 20
RUNS = (
    ("as it is", False, ()),
    ("as it is, --disable-mmap", False, ("--disable-mmap",)),
    ("graft", True, ()),
    ("graft, --disable-mmap", True, ("--disable-mmap",)),
)


def write(path: Path, width: int, depth: int) -> Path:
    """Write a model of square layers."""
    layers = {KEY.format(n, "weight"): torch.rand(width, width) / width for n in range(depth)}
    save_file({**layers, **{KEY.format(n, "bias"): torch.rand(width) for n in range(depth)}}, path)
    return path


def measure(tree: Path, flags: tuple[str, ...], request: dict[str, object]) -> dict[str, int]:
    """Run one process; bytes of memory at each step."""
    paths = os.pathsep.join(map(str, (tree, ROOT / "tests-unit", ROOT)))
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests-unit/support/stand_in_run.py"), *flags],
        check=True,
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            "PYTHONPATH": paths,
            "STAND_IN_DEVICE": "simgpu:0",
            "STAND_IN_REQUEST": json.dumps(request),
        },
    )
    seen: dict[str, int] = json.loads(done.stdout)
    return seen


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=512, help="size of the model (512)")
    width = int((parser.parse_args().mib * MIB / 4 / DEPTH) ** 0.5)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        request = {
            "path": str(write(folder / "model.safetensors", width, DEPTH)),
            "warm_up": str(write(folder / "small.safetensors", 8, 1)),
            "width": width,
            "depth": DEPTH,
        }
        size = os.path.getsize(str(request["path"]))
        for name in GENERATIONS:
            for label, is_grafted, flags in RUNS:
                if name == "loop" and flags and not is_grafted:
                    continue  # this generation's stand-in has no such flag
                tree = plant(folder / f"{name} {label}", name)
                if is_grafted:
                    apply(Checkout.at(tree), edits(tree), package_files())
                seen = measure(tree, flags, request)
                steps = [f"{seen[step] / size:.2f}" for step in ("built", "loaded", "unloaded")]
                rows.append((name, label, *steps))
    print(f"Private memory of the process, in sizes of the model ({size / MIB:,.0f} MiB):\n")
    header = ("generation", "tree", "built", "on the device", "unloaded")
    print("\n".join(table(header, rows, right="llrrr")))


if __name__ == "__main__":
    main()

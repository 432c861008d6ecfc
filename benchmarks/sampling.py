"""Sampling beside its networks, and switching between models, as ratios of one run.

How much of a step is not the network's forward pass, on the CPU; and how fast one loaded-once
checkpoint takes another's place, in shares of the rate at which the reader loads a warm file.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import comfy.loading
import comfy.model_management
import comfy.sample
from benchmarks import files
from benchmarks.load import RESULTS
from comfy.loading.memory import MIB
from support import layouts, simulated_device
from support.cold import resident_fraction, warm
from support.whole_checkpoint import CFG, PROMPTS, Models, checkpoint_specs

OVERHEAD_TARGET = 0.03
SWITCH_TARGET = 0.7
_WARM = 0.99


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling", description=__doc__)
    parser.add_argument(
        "--side", type=int, default=64, help="of the latent, an eighth of the picture's"
    )
    parser.add_argument("--steps", type=int, default=4, help="that are timed (default: 4)")
    parser.add_argument("--rounds", type=int, default=5, help="of switching (default: 5)")
    parser.add_argument("--folder", type=Path, help="for the files (default: a cache folder)")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, help="for results (default: %(default)s)"
    )
    return parser.parse_args(argv)


# -- steps ---------------------------------------------------------------------------------------


class NetworkClock:
    """Adds up the time that a network's forward passes take.

    Attributes:
        seconds: So far.
    """

    def __init__(self, network: torch.nn.Module) -> None:
        self.seconds = 0.0
        self._began = 0.0
        self._hooks = [
            network.register_forward_pre_hook(self._begin),
            network.register_forward_hook(self._end),
        ]

    def _begin(self, *_: object) -> None:
        self._began = time.perf_counter()

    def _end(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._began

    def remove(self) -> None:
        """Let the network be as before."""
        for hook in self._hooks:
            hook.remove()


def step_times(path: str, side: int, steps: int) -> tuple[float, float]:
    """Time steps of the euler sampler with guidance on the CPU.

    Args:
        path: Of a checkpoint.
        side: Of the latent.
        steps: How many, after a first one that is not counted.

    Returns:
        Seconds of the steps, and those of the network's forward passes among them.
    """
    comfy.model_management.set_run_device("cpu")
    models = Models.of(path)
    positive, negative = (
        models.clip.encode_from_tokens_scheduled(models.clip.tokenize(text)) for text in PROMPTS
    )
    empty = torch.zeros(1, 4, side, side)
    clock = NetworkClock(models.model.model.diffusion_model)
    marks: list[tuple[float, float]] = []

    def note(*_: object) -> None:
        marks.append((time.perf_counter(), clock.seconds))

    comfy.sample.sample(
        models.model,
        comfy.sample.prepare_noise(empty, seed=1),
        steps + 1,
        CFG,
        "euler",
        "normal",
        positive,
        negative,
        empty,
        callback=note,
        disable_pbar=True,
        seed=1,
    )
    clock.remove()
    comfy.model_management.unload_all_models()
    # The sampler calls back once a step, so that from call to call there is one whole step.
    return marks[-1][0] - marks[0][0], marks[-1][1] - marks[0][1]


# -- switching -------------------------------------------------------------------------------------


def seconds_of(act: Callable[[], object]) -> float:
    """How long it takes; what it returns goes after the clock has stopped."""
    began = time.perf_counter()
    kept = act()
    ended = time.perf_counter()
    del kept
    return ended - began


def switch_to(models: Models) -> None:
    """Let these models take the place of whatever is loaded."""
    comfy.model_management.unload_all_models()
    comfy.model_management.load_models_gpu(models.patchers(), force_full_load=True)


def switch_times(paths: Sequence[str], rounds: int) -> list[tuple[float, float]]:
    """Time loads by the reader and switches, by turns, on the simulated device.

    The device is a discrete one: where memory is unified nothing of a file stays in the page
    cache, and each switch would be a cold read.

    Args:
        paths: Of two checkpoints of one size.
        rounds: How many.

    Returns:
        For each round: seconds of the reader, seconds of a switch.

    Raises:
        RuntimeError: If a file is not warm where it must be.
    """
    device = simulated_device.install()[0]
    device.is_unified = False
    comfy.model_management.set_run_device(device.device)
    models = [Models.of(path) for path in paths]
    for path, one in zip(paths, models, strict=True):
        warm(path)
        switch_to(one)
    times = []
    for index in range(rounds):
        turn = index % len(paths)
        for path in paths:
            if resident_fraction(path) < _WARM:
                raise RuntimeError(f"{path} is not in the page cache: there is too little memory")
        read = seconds_of(lambda: comfy.loading.load(paths[turn], device=device.device))  # noqa: B023 - called at once
        times.append((read, seconds_of(lambda: switch_to(models[turn]))))  # noqa: B023 - called at once
    comfy.model_management.unload_all_models()
    return times


# -- the whole -------------------------------------------------------------------------------------


def checkpoint(folder: Path, seed: int) -> Path:
    """Make or find a checkpoint of SD 1.5's size."""
    path = folder / f"sd15-{seed}.safetensors"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".part")
        layouts.write_weights(unfinished, checkpoint_specs(), seed=seed)
        unfinished.rename(path)
    return path


def measure(paths: Sequence[str], side: int, steps: int, rounds: int) -> dict[str, Any]:
    """Measure both, and judge; see the module's text."""
    whole, networks = step_times(paths[0], side, steps)
    times = switch_times(paths, rounds)
    return {
        "side": side,
        "steps": steps,
        "step_s": whole / steps,
        "network_s": networks / steps,
        "overhead": (whole - networks) / whole,
        "weight_bytes": Path(paths[0]).stat().st_size,
        "read_s": statistics.median(read for read, _ in times),
        "switch_s": statistics.median(switch for _, switch in times),
        "switch_rate_of_reader": statistics.median(read / switch for read, switch in times),
    }


def _lines(found: dict[str, Any]) -> str:
    overhead, rate, pixels = found["overhead"], found["switch_rate_of_reader"], 8 * found["side"]

    def answer(is_kept: bool) -> str:
        return "yes" if is_kept else "no"

    return f"""\
A step at {pixels} x {pixels}: {found["step_s"]:.3f} s, its forward passes {found["network_s"]:.3f} s
- outside the network: {overhead:.2%}, at most {OVERHEAD_TARGET:.0%}? \
{answer(overhead <= OVERHEAD_TARGET)}
A checkpoint of {found["weight_bytes"] / MIB:,.0f} MiB, warm: the reader {found["read_s"]:.2f} s, \
in another's place {found["switch_s"]:.2f} s
- switching: {rate:.2f} of the reader's rate, at least {SWITCH_TARGET:.2f}? \
{answer(rate >= SWITCH_TARGET)}"""


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, write JSON; returns 0."""
    arguments = _arguments(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    folder = arguments.folder or files.cache_folder() / "bench"
    with console.status(f"making files in {folder}"):
        paths = [str(checkpoint(folder, seed)) for seed in (0, 1)]
    found = measure(paths, arguments.side, arguments.steps, arguments.rounds)
    console.print(_lines(found), highlight=False)
    arguments.out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(found, indent=1)
    (arguments.out / "sampling.json").write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

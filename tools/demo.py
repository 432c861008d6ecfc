"""Draw a few pictures with the checkpoint that ships with this project: ``make demo``.

Runs an example as ``main.py --run`` does, once for each prompt, with the flags of the program itself;
the Makefile gives ``--load-strategy=file-slice``. At the end stands what is in the pictures, and what
the weights and the process took of memory.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# This is a script, and the package is not installed.
sys.path.insert(0, str(ROOT))

import comfy.options  # noqa: E402

comfy.options.enable_args_parsing()

from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import comfy.model_management  # noqa: E402
import folder_paths  # noqa: E402
from app import startup  # noqa: E402
from app.headless.failures import DONE  # noqa: E402
from app.headless.run import Outcome, Runner, load_nodes  # noqa: E402
from app.headless.workflow_file import read as read_workflow  # noqa: E402
from comfy.cli_args import args, parser  # noqa: E402
from comfy.loading import default_loader  # noqa: E402
from comfy.loading.usage import PeakSampler, in_words, sample  # noqa: E402
from tools.shapes.reading import read as read_picture  # noqa: E402

CHECKPOINT = "shapes_tiny_sd15.safetensors"
WORKFLOW = ROOT / "examples" / "workflows" / "text_to_image.json"
PROMPTS = (
    "a red circle on a white background",
    "a large blue star on a black background",
    "a small yellow triangle at the top on a navy background",
    "a green ring on the left on a beige background",
    "a purple cross on a white background",
    "a large orange square on the right on a black background",
)


class NotDrawn(Exception):
    """A run did not end well.

    Attributes:
        outcome: How it ended.
    """

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("\n".join(outcome.problems))
        self.outcome = outcome


def draw_all(prompts: Sequence[str], runner: Runner, console: Console) -> list[dict[str, Any]]:
    """Draw each prompt; tells each file as it is written.

    Args:
        prompts: One picture each.
        runner: Keeps the loaded models from one to the next.
        console: For the files' paths.

    Returns:
        A row for each: prompt, path, seconds, what is seen in it.

    Raises:
        NotDrawn: If a run does not end well.
    """
    rows = []
    for seed, prompt in enumerate(prompts, start=1):
        started = time.perf_counter()
        changes = (
            f"Prompt.text={prompt}",
            f"Sampler.seed={seed}",
            "Save.filename_prefix=demo/shapes",
        )
        outcome = runner.run(read_workflow(str(WORKFLOW)), changes)
        if outcome.status != DONE:
            raise NotDrawn(outcome)
        (path,) = outcome.files
        seen = read_picture(path)
        words = f"{seen.colour} {seen.shape or 'nothing'} on {seen.background}"
        rows.append({"prompt": prompt, "path": path, "seen": words})
        rows[-1]["seconds"] = time.perf_counter() - started
        console.print(f"{path}", soft_wrap=True, highlight=False)
    return rows


def pictures_table(rows: Sequence[dict[str, Any]]) -> Table:
    """What was asked for, and what is in the pictures."""
    table = Table("prompt", "seen in the picture", "seconds", "file", box=None)
    for row in rows:
        table.add_row(row["prompt"], row["seen"], f"{row['seconds']:.1f}", row["path"].name)
    return table


def memory_table(file_bytes: int, peak_bytes: int) -> Table:
    """The homes of the weights, and the memory of the process over what it had before."""
    table = Table("memory", "", box=None)
    loaded = comfy.model_management.current_loaded_models
    weights = sum(one.model_loaded_memory() for one in loaded)
    path = folder_paths.get_full_path_or_raise("checkpoints", CHECKPOINT)
    table.add_row("weights in the file", in_words(file_bytes))
    table.add_row("weights at home on the device", in_words(weights))
    table.add_row("staging", in_words(default_loader().options.staging_bytes) + " at most")
    table.add_row("peak of the process, activations included", in_words(peak_bytes))
    table.add_row("checkpoint", path)
    table.add_row("device", str(comfy.model_management.get_torch_device()))
    table.add_row("strategy", args.load_strategy or "auto")
    return table


def main() -> int:
    """Draw, and print the tables.

    Returns:
        0; 1 if the checkpoint is missing; else the status that ``main.py --run`` would end with.
    """
    console = Console()
    startup.prepare(parser, args)
    path = folder_paths.get_full_path("checkpoints", CHECKPOINT)
    if path is None:
        console.print(
            f"models/checkpoints/{CHECKPOINT} is missing. It is part of the repository; get it with "
            "'git checkout', or train it anew: python -m tools.train_shapes"
        )
        return 1
    load_nodes()
    before = sample().host
    # Held until the end: with its cache the models would go.
    runner = Runner()
    try:
        with PeakSampler() as sampler:
            rows = draw_all(PROMPTS, runner, console)
    except NotDrawn as err:
        console.print(str(err) or "interrupted", markup=False)
        return err.outcome.status
    console.print(pictures_table(rows))
    console.print(memory_table(os.path.getsize(path), max(0, sampler.peak_total - before)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

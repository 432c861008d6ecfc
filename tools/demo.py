"""Draw a few pictures with the checkpoint that ships with this project: ``make demo``.

Takes the flags of the program itself; the Makefile gives ``--load-strategy=file-slice``. Each PNG
holds its graph and workflow. At the end stands what the weights and the process took of memory.
"""

from __future__ import annotations

import logging
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

import torch  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402

import comfy.model_management  # noqa: E402
import folder_paths  # noqa: E402
import nodes  # noqa: E402
from comfy.cli_args import args  # noqa: E402
from comfy.loading import default_loader  # noqa: E402
from comfy.loading.usage import PeakSampler, in_words, sample  # noqa: E402
from tools.shapes.reading import read  # noqa: E402
from tools.workflows import run, text_to_image  # noqa: E402

CHECKPOINT = "shapes_tiny_sd15.safetensors"
PICTURE_PIXELS = 64
STEPS, GUIDANCE = 20, 4.0
PROMPTS = (
    "a red circle on a white background",
    "a large blue star on a black background",
    "a small yellow triangle at the top on a navy background",
    "a green ring on the left on a beige background",
    "a purple cross on a white background",
    "a large orange square on the right on a black background",
)


def draw_all(
    prompts: Sequence[str], console: Console, cache: dict[str, Any]
) -> list[dict[str, Any]]:
    """Draw each prompt; tells each file as it is written.

    Args:
        prompts: One picture each.
        console: For the files' paths.
        cache: Keeps the loaded models.

    Returns:
        A row for each: prompt, path, seconds, what is seen in it.
    """
    rows = []
    for seed, prompt in enumerate(prompts, start=1):
        started = time.perf_counter()
        graph = text_to_image(
            CHECKPOINT,
            prompt,
            seed,
            pixels=PICTURE_PIXELS,
            steps=STEPS,
            cfg=GUIDANCE,
            prefix="demo/shapes",
        )
        with torch.inference_mode():
            (record,) = run(graph, nodes.NODE_CLASS_MAPPINGS, cache)
        path = Path(folder_paths.get_output_directory(), record["subfolder"], record["filename"])
        seen = read(path)
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
        0; 1 if the checkpoint is missing; 130 after Ctrl-C.
    """
    console = Console()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    path = folder_paths.get_full_path("checkpoints", CHECKPOINT)
    if path is None:
        console.print(
            f"models/checkpoints/{CHECKPOINT} is missing. It is part of the repository; get it with "
            "'git checkout', or train it anew: python -m tools.train_shapes"
        )
        return 1
    before = sample().host
    models: dict[str, Any] = {}
    try:
        with PeakSampler() as sampler:
            rows = draw_all(PROMPTS, console, models)
    except KeyboardInterrupt:
        console.print("interrupted")
        return 130
    console.print(pictures_table(rows))
    console.print(memory_table(os.path.getsize(path), max(0, sampler.peak_total - before)))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Draw a few pictures with the checkpoint that ships with this project: ``make demo``.

Starts the server with the flags that are given to it (the Makefile gives
``--load-strategy=file-slice``), queues an example over HTTP once for each prompt, follows the work on
the websocket as the page does, and stops the server. At the end stands what is in the pictures, and
what the weights and the process took of memory.
"""

from __future__ import annotations

import argparse
import asyncio
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
# This is a script, and the package is not installed.
sys.path.insert(0, str(ROOT))

import aiohttp  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn  # noqa: E402
from rich.progress import TimeElapsedColumn as Elapsed  # noqa: E402
from rich.table import Table  # noqa: E402

from tools.demo_client import Client, NotDrawn, Picture, Work  # noqa: E402
from tools.demo_memory import memory_table  # noqa: E402
from tools.demo_server import NotServing, Serving, serving  # noqa: E402
from tools.shapes.reading import read as read_picture  # noqa: E402

CHECKPOINT = "shapes_tiny_sd15.safetensors"
EXAMPLES = ROOT / "examples"
WORKFLOW = "text_to_image.json"
PROMPTS = (
    "a red circle on a white background",
    "a large blue star on a black background",
    "a small yellow triangle at the top on a navy background",
    "a green ring on the left on a beige background",
    "a purple cross on a white background",
    "a large orange square on the right on a black background",
)
FAILED = 1
INTERRUPTED = 130


def work(text: str, seed: int) -> Work:
    """The example, with another prompt, seed and name of the file."""
    changes: dict[str, tuple[str, Any]] = {
        "Prompt": ("text", text),
        "Sampler": ("seed", seed),
        "Save": ("filename_prefix", "demo/shapes"),
    }
    graph, page = (
        json.loads((EXAMPLES / form / WORKFLOW).read_text(encoding="utf-8"))
        for form in ("workflows", "page")
    )
    inputs = {node["_meta"]["title"]: node["inputs"] for node in graph.values()}
    widgets = {node.get("title"): node["widgets_values"] for node in page["nodes"]}
    for title, (name, value) in changes.items():
        inputs[title][name] = value
        # Each of them is its node's first one.
        widgets[title][0] = value
    # The page would draw another seed.
    widgets["Sampler"][1] = "fixed"
    return Work(graph, page)


def pictures_table(prompts: Sequence[str], pictures: Sequence[Picture]) -> Table:
    """What was asked for, and what is in the pictures."""
    table = Table("prompt", "seen in the picture", "seconds", "file", box=None)
    for prompt, picture in zip(prompts, pictures, strict=True):
        seen = read_picture(io.BytesIO(picture.content))
        words = f"{seen.colour} {seen.shape or 'nothing'} on {seen.background}"
        table.add_row(prompt, words, f"{picture.seconds:.1f}", picture.name)
    return table


async def draw_all(server: Serving, folder: Path, console: Console) -> None:
    """Draw all prompts, and print files and tables.

    Args:
        server: Draws.
        folder: Where it saves pictures.
        console: Gets all that is told.

    Raises:
        NotDrawn: A prompt was refused, or failed.
        aiohttp.ClientError: The server is gone.
    """
    columns = (TextColumn("{task.description:>10}"), BarColumn(), MofNCompleteColumn(), Elapsed())
    async with aiohttp.ClientSession() as http:
        client = Client(server.url, http)
        with Progress(*columns, console=console, transient=True) as progress:
            all_work = [work(text, seed) for seed, text in enumerate(PROMPTS, start=1)]
            pictures = await client.draw(all_work, progress)
        for picture in pictures:
            path = folder / picture.subfolder / picture.name
            console.print(str(path), soft_wrap=True, highlight=False, markup=False)
        console.print(pictures_table(PROMPTS, pictures))
        console.print(await memory_table(client, server, CHECKPOINT))


def main(words: Sequence[str]) -> int:
    """Serve, draw, stop.

    Args:
        words: Flags of the program.

    Returns:
        0; 1 if something failed, 130 if the user did not want to wait.
    """
    console = Console()
    own = argparse.ArgumentParser(prog="demo.py", add_help=False, allow_abbrev=False)
    own.add_argument("--output-directory", default=str(ROOT / "output"))
    known, flags = own.parse_known_args(words)
    folder = Path(known.output_directory).resolve()
    console.print("Starting the server ...", highlight=False)
    try:
        with serving([*flags, "--output-directory", str(folder)]) as server:
            console.print(f"It is at {server.url}", highlight=False)
            asyncio.run(draw_all(server, folder, console))
    except (NotDrawn, NotServing, aiohttp.ClientError) as err:
        console.print(str(err), markup=False, highlight=False)
        return FAILED
    except KeyboardInterrupt:
        console.print("interrupted")
        return INTERRUPTED
    console.print(
        "\nThe server has stopped. For the page: make run, then open http://127.0.0.1:8188",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""The memory table of ``make demo``: where the weights are, and what the server's process took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.table import Table

from comfy.loading.usage import in_words
from tools.demo_client import Client
from tools.demo_server import Serving


async def memory_table(client: Client, server: Serving, checkpoint: str) -> Table:
    """What the server tells of a checkpoint, and what the system tells of the server.

    Args:
        client: Asks the server.
        server: Its process.
        checkpoint: Name of the file, as its loader has it.
    """
    told = await client.ask("/loading")
    file = next(file for file in told["files"] if file["name"] == checkpoint)
    table = Table("memory", "", box=None)
    for what, value in _rows(told["strategy"], file):
        table.add_row(what, value)
    grown = max(0, server.peak_memory() - server.memory_at_start)
    table.add_row("peak of the process over its start", f"{in_words(grown)}, activations included")
    return table


def _rows(strategy: Mapping[str, Any], file: Mapping[str, Any]) -> list[tuple[str, str]]:
    homes = file["homes"]
    reasons = "; ".join(file["reasons"])
    how = f"{file['strategy']} ({reasons})" if reasons else str(file["strategy"])
    rate = f" at {file['gb_per_s']:.2f} GB/s" if file["gb_per_s"] else ""
    return [
        ("checkpoint", f"{file['name']}, {in_words(file['size_bytes'])}"),
        ("strategy", how),
        ("device", strategy["device"]),
        ("read from the file", f"{in_words(file['bytes_read'])}{rate}"),
        ("weights in the file only", in_words(homes["file"])),
        ("weights on the host", in_words(homes["host"])),
        ("weights on a device of its own", in_words(homes["device"])),
        ("staging", f"{in_words(strategy['staging_bytes'])} at most"),
    ]

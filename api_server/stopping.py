"""Stopping prompts: the one that runs, and those that wait."""

from __future__ import annotations

import asyncio
from typing import Any

import nodes

_STEP_S = 0.005
# From the moment at which a prompt counts as running to its first step.
_LONGEST_START_S = 2.0


def running_ids(server: Any) -> list[str]:
    """Ids of the prompts that run."""
    return [item[1] for item in server.prompt_queue.get_current_queue_volatile()[0]]


async def interrupt(server: Any, prompt_id: str | None = None) -> bool:
    """Ask what runs to stop.

    Args:
        server: The `PromptServer`.
        prompt_id: Only if this prompt runs; None for any.

    Returns:
        Whether there was something to stop.
    """
    running = running_ids(server)
    if prompt_id is not None:
        running = [one for one in running if one == prompt_id]
    if not running:
        if prompt_id is None:
            nodes.interrupt_processing()
        return False
    # The executor takes back what was asked of the prompt before: it has to be asked after that.
    for _ in range(round(_LONGEST_START_S / _STEP_S)):
        if server.last_prompt_id in running:
            break
        await asyncio.sleep(_STEP_S)
    still = set(running_ids(server))
    if not still.intersection(running):
        return False
    nodes.interrupt_processing()
    return True


async def cancel(server: Any, prompt_id: str) -> bool:
    """Take a prompt out of the queue, or stop it if it runs.

    Returns:
        Whether it waited or ran.
    """
    if server.prompt_queue.delete_queue_item(lambda item: item[1] == prompt_id):
        return True
    return await interrupt(server, prompt_id)

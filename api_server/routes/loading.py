"""How files are loaded, and where their weights are: /loading, and the page's panel that shows it."""

from __future__ import annotations

import asyncio
import math
import os
from typing import Any

from aiohttp import web

import nodes
from api_server.utils import json_text
from app.loading_facts import loading_facts
from app.memory_history import MemoryHistory
from comfy.loading import default_loader

PANEL = "onecopy-loading"
"""The panel's name in the address of its scripts, /extensions/onecopy-loading/."""

_HERE = os.path.dirname(os.path.abspath(__file__))
PANEL_FOLDER = os.path.join(os.path.dirname(os.path.dirname(_HERE)), "comfy_extras/web/loading")


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the address, and let the page find the panel's scripts.

    Args:
        routes: Gets it.
        server: The `PromptServer`.
    """

    def is_running() -> bool:
        return bool(server.prompt_queue.get_tasks_remaining())

    def is_busy() -> bool:
        return is_running() or default_loader().journal.is_busy

    history = MemoryHistory(is_busy)
    server.add_on_prompt_handler(history.on_prompt)
    nodes.EXTENSION_WEB_DIRS.setdefault(PANEL, PANEL_FOLDER)

    @routes.get("/loading")
    async def get_loading(request: web.Request) -> web.Response:
        try:
            since = _seconds(request.query.get("since", "-1"))
        except ValueError as err:
            return json_text.refusal(str(err))
        return json_text.answer(await asyncio.to_thread(_answer, history, is_running, since))


def _answer(history: MemoryHistory, is_running: Any, since: float) -> dict[str, Any]:
    history.look()
    return loading_facts(history, is_running(), since)


def _seconds(text: str) -> float:
    """A time of the history.

    Raises:
        ValueError: It is no number.
    """
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not math.isfinite(seconds):
        raise ValueError(f"'since' must be a number of seconds, not {text[:40]!r}.")
    return seconds

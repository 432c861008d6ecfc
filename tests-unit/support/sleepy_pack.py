"""A pack for tests of the program as a process: a node that waits, and a route."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PACK = '''
import time

import comfy.model_management
from server import PromptServer


class Sleep:
    """Waits; a deaf one does not notice that it should stop."""

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"seconds": ("FLOAT", {}), "deaf": ("BOOLEAN", {})}}

    RETURN_TYPES = ()
    OUTPUT_NODE = True
    FUNCTION = "run"
    CATEGORY = "tests"

    def run(self, seconds, deaf):
        PromptServer.instance.send_sync("sleeping", {}, PromptServer.instance.client_id)
        if deaf:
            time.sleep(seconds)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            comfy.model_management.throw_exception_if_processing_interrupted()
            time.sleep(0.01)
        return {"ui": {"slept": [seconds]}}


NODE_CLASS_MAPPINGS = {"Sleep": Sleep}


@PromptServer.instance.routes.get("/sleepy")
async def sleepy(request):
    from aiohttp import web

    return web.json_response({"awake": True})
'''


def write_pack(folder: Path) -> None:
    """Put the pack into a base directory."""
    pack = folder / "custom_nodes" / "sleepy_pack"
    pack.mkdir(parents=True)
    (pack / "__init__.py").write_text(PACK)


def sleeping(seconds: float = 30.0, deaf: bool = False) -> dict[str, Any]:
    """A prompt of its node.

    Args:
        seconds: How long it waits.
        deaf: Whether it does not notice that it should stop.
    """
    return {"1": {"class_type": "Sleep", "inputs": {"seconds": seconds, "deaf": deaf}}}

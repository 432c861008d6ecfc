"""Sending prompts, and stopping what runs: /prompt, /interrupt, /free."""

from __future__ import annotations

import json
import logging
from typing import Any

from aiohttp import web

import execution
from api_server import stopping
from api_server.submitting import Refused, Submission, place, submission
from api_server.utils import json_text

logger = logging.getLogger(__name__)

_BAD = web.HTTPBadRequest.status_code
# What is wrong with a prompt may be as long as the prompt.
_LONGEST_SUMMARY = 2000


def register(routes: web.RouteTableDef, server: Any) -> None:
    """Add the addresses.

    Args:
        routes: Gets them.
        server: The `PromptServer`.
    """

    @routes.get("/prompt")
    async def get_prompt(request: web.Request) -> web.Response:
        return json_text.answer(server.get_queue_info())

    @routes.post("/prompt")
    async def post_prompt(request: web.Request) -> web.Response:
        body = server.trigger_on_prompt(await json_text.read_object(request))
        try:
            # Counted even if nothing comes of it, as pages expect.
            number, server.number = place(body, server.number)
            asked = submission(body, number, request.headers.get("Comfy-Usage-Source"))
        except Refused as err:
            logger.warning("A prompt was refused: %s", err)
            return json_text.answer({"error": err.error, "node_errors": {}}, _BAD)
        return await _queue(server, asked)

    @routes.post("/interrupt")
    async def post_interrupt(request: web.Request) -> web.Response:
        prompt_id = _prompt_id_in(await request.read())
        stopped = await stopping.interrupt(server, prompt_id)
        if stopped:
            logger.info("Asked the prompt that runs to stop.")
        return web.Response()

    @routes.post("/free")
    async def post_free(request: web.Request) -> web.Response:
        body = await json_text.read_object(request)
        for name in ("unload_models", "free_memory"):
            if body.get(name):
                server.prompt_queue.set_flag(name, body[name])
        return web.Response()


async def _queue(server: Any, asked: Submission) -> web.Response:
    valid, error, outputs, node_errors = await execution.validate_prompt(
        asked.prompt_id, asked.prompt, asked.targets
    )
    if not valid:
        logger.warning("A prompt was refused: %s", _summary(error, node_errors))
        return json_text.answer({"error": error, "node_errors": node_errors}, _BAD)
    if node_errors:
        logger.warning("Some outputs of a prompt are left out: %s", _summary(None, node_errors))
    server.prompt_queue.put(asked.item(outputs))
    return json_text.answer(
        {"prompt_id": asked.prompt_id, "number": asked.number, "node_errors": node_errors}
    )


def _summary(error: Any, node_errors: dict[str, Any]) -> str:
    """One line of the log: what is wrong, and with which nodes."""
    told = [] if not error else [str(error.get("message")), str(error.get("details") or "")]
    for node_id, entry in list(node_errors.items())[:5]:
        told += [
            f"node {node_id} ({entry['class_type']}): {one['message']} {one['details']}"
            for one in entry["errors"][:3]
        ]
    text = " ".join(" ".join(told).split())
    if len(text) > _LONGEST_SUMMARY:
        text = f"{text[:_LONGEST_SUMMARY]} ..."
    # Values of a prompt could else say to a terminal what they like.
    return "".join(one if one.isprintable() else "\ufffd" for one in text)


def _prompt_id_in(body: bytes) -> str | None:
    """The prompt that is meant; pages send no body, or one of their own."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return None
    prompt_id = value.get("prompt_id") if isinstance(value, dict) else None
    return None if prompt_id in (None, "") else str(prompt_id)

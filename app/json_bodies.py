"""JSON in requests, whatever their content type says."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from app.json_files import strict_loads

_WORDS: dict[type[Any], str] = {dict: "an object", list: "a list", str: "a text"}


def bad_request(text: str) -> web.HTTPBadRequest:
    """What to raise for a request that cannot be answered, with the reason as JSON."""
    return web.HTTPBadRequest(text=json.dumps({"error": text}), content_type="application/json")


async def read_body(request: web.Request, wanted: type[Any] = object) -> Any:
    """The JSON value in a request's body.

    Clients send JSON as a form or with no type at all.

    Args:
        request: Its body is read whole; the server limits its size.
        wanted: Type of the value.

    Raises:
        web.HTTPBadRequest: It is no JSON, or of another type.
    """
    try:
        value = strict_loads(await request.read())
    except ValueError as err:
        raise bad_request(f"The body of the request is no JSON: {err}.") from err
    if not isinstance(value, wanted):
        raise bad_request(f"The body of the request must be {_WORDS[wanted]} in JSON.")
    return value

"""JSON in requests, whatever their content type says, and the answer to those that bring none."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web

from app.json_files import strict_loads


class BadBody(web.HTTPBadRequest):
    """The body of a request is no JSON, or not of the form that is wanted."""

    def __init__(self, text: str) -> None:
        super().__init__(text=json.dumps({"error": text}), content_type="application/json")


async def read_body(request: web.Request) -> Any:
    """The JSON value in a request's body, to be kept in a file: without NaN and infinities.

    Clients send JSON as a form or with no type at all.

    Args:
        request: Its body is read whole; the server limits its size.

    Raises:
        BadBody: It is no JSON.
    """
    try:
        return strict_loads(await request.read())
    except ValueError as err:
        raise BadBody(f"The body of the request is no JSON: {err}.") from err


def as_object(value: Any) -> dict[str, Any]:
    """The value of a body that must be an object.

    Raises:
        BadBody: It is another one.
    """
    if not isinstance(value, dict):
        raise BadBody(f"The body of the request is JSON, but no object: {type(value).__name__}.")
    return value

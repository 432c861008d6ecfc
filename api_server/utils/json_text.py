"""JSON as pages read it, whatever packs put into it; and JSON out of what clients send."""

from __future__ import annotations

import asyncio
import json
import math
import sys
from collections.abc import Mapping, Set
from typing import Any

from aiohttp import web

from app.json_bodies import BadBody as BadBody
from app.json_bodies import as_object


def dumps(value: Any) -> str:
    """Strict JSON of nearly anything.

    JSON has no word for some values that Python has: NaN becomes null, infinities become the
    largest number, sets lists, numbers of other libraries plain ones, and any other object its
    text.

    Raises:
        ValueError: The value contains itself.
        RecursionError: It is too deep.
    """
    try:
        return json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return json.dumps(_plain(value, ()), allow_nan=False)


def _plain(value: Any, inside: tuple[int, ...]) -> Any:
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return _finite(value)
    if isinstance(value, (Mapping, list, tuple, Set)):
        if id(value) in inside:
            raise ValueError("A value contains itself, which JSON cannot say.")
        inside = (*inside, id(value))
    if isinstance(value, Mapping):
        return {_key(key): _plain(one, inside) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one, inside) for one in value]
    if isinstance(value, Set):
        return [_plain(one, inside) for one in sorted(value, key=str)]
    return _number(value)


def _key(key: Any) -> Any:
    return key if key is None or isinstance(key, (str, int, bool)) else str(key)


def _finite(value: float) -> float | None:
    if math.isnan(value):
        return None
    return math.copysign(sys.float_info.max, value) if math.isinf(value) else float(value)


def _number(value: Any) -> Any:
    """The plain number in a scalar of numpy or torch; the text of anything else."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            inner = item()
        except (TypeError, ValueError, RuntimeError):
            return str(value)
        if isinstance(inner, (bool, int, float)):
            return _plain(inner, ())
    return str(value)


def answer(value: Any, status: int = 200) -> web.Response:
    """A response with the JSON of a value."""
    return web.Response(text=dumps(value), status=status, content_type="application/json")


async def long_answer(entries: Mapping[str, Any]) -> web.Response:
    """As `answer`, for an object with thousands of entries: others are answered in between."""
    parts = []
    for name, value in entries.items():
        parts.append(f"{dumps(name)}: {dumps(value)}")
        await asyncio.sleep(0)
    return web.Response(text=f"{{{', '.join(parts)}}}", content_type="application/json")


def refusal(text: str, status: int = 400) -> web.Response:
    """A response that says in one sentence why a request is refused."""
    return answer({"error": text}, status)


DEEPEST = 200
"""So many levels of lists and objects may be in each other: what is deeper cannot be copied."""


async def read(request: web.Request) -> Any:
    """The JSON in a request's body, whatever type of content the request says it has.

    Raises:
        BadBody: It is none; answered with status 400.
        web.HTTPRequestEntityTooLarge: It is larger than ``--max-upload-size``.
    """
    body = await request.read()
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as err:
        raise BadBody(f"The body of the request is no JSON: {err}.") from err
    if _is_deep(value):
        raise BadBody(
            f"The body of the request has more than {DEEPEST} levels of lists or objects."
        )
    return value


def _is_deep(value: Any) -> bool:
    level = [value] if isinstance(value, (dict, list)) else []
    for _ in range(DEEPEST):
        if not level:
            return False
        level = [
            inner
            for one in level
            for inner in (one.values() if isinstance(one, dict) else one)
            if isinstance(inner, (dict, list))
        ]
    return bool(level)


async def read_object(request: web.Request) -> dict[str, Any]:
    """The JSON object in a request's body.

    Raises:
        BadBody: The body is no JSON, or JSON of another kind.
        web.HTTPRequestEntityTooLarge: It is larger than ``--max-upload-size``.
    """
    return as_object(await read(request))

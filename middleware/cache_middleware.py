"""How long browsers may keep what they get."""

from __future__ import annotations

import fnmatch

from aiohttp import web
from aiohttp.typedefs import Handler as Handler
from aiohttp.typedefs import Middleware as Middleware

ONE_HOUR = 60 * 60
ONE_DAY = 24 * ONE_HOUR

IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_ASK_AGAIN = "no-cache"
_LISTING = "index*.json"
_LAST_SUCCESS = 206
_MOVED_FOR_GOOD = (301, 308)
_MOVED_FOR_NOW = (302, 303, 307)


def cache_rule(path: str, status: int) -> str | None:
    """The Cache-Control header of an answer; None to leave it as it is.

    Scripts and listings change with each version and pack; pictures never change under a name.

    Args:
        path: Of the request, without the query.
        status: Of the answer.
    """
    name = path.rpartition("/")[2]
    if path.endswith((".js", ".css")) or fnmatch.fnmatchcase(name, _LISTING):
        return _ASK_AGAIN
    if not path.lower().endswith(IMG_EXTENSIONS):
        return None
    if status == web.HTTPNotFound.status_code:
        return f"public, max-age={ONE_HOUR}"
    if web.HTTPOk.status_code <= status <= _LAST_SUCCESS or status in _MOVED_FOR_GOOD:
        return f"public, max-age={ONE_DAY}"
    return _ASK_AGAIN if status in _MOVED_FOR_NOW else None


@web.middleware
async def cache_control(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Add the Cache-Control header where there is a rule and the handler has set none."""
    try:
        response = await handler(request)
    except web.HTTPException as err:
        _mark(request, err)
        raise
    _mark(request, response)
    return response


def _mark(request: web.Request, response: web.StreamResponse) -> None:
    rule = cache_rule(request.path, response.status)
    if rule is not None:
        response.headers.setdefault("Cache-Control", rule)

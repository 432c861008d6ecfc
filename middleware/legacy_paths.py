"""Names in the log the packs whose scripts use addresses of the old page."""

from __future__ import annotations

import logging

from aiohttp import web

from middleware.cache_middleware import Handler, Middleware

logger = logging.getLogger(__name__)

_OLD = ("/scripts/ui", "/extensions/core/")
# A page may ask for any number of paths; they are remembered to be told once.
_REMEMBERED = 1000


def create_legacy_path_middleware() -> Middleware:
    """A middleware that warns once of each old address, and changes no answer."""
    told: set[str] = set()

    @web.middleware
    async def warn(request: web.Request, handler: Handler) -> web.StreamResponse:
        path = request.path
        if path.startswith(_OLD) and path not in told and len(told) < _REMEMBERED:
            told.add(path)
            logger.warning(
                "A script asked for %r, which belongs to the old page and may go. The pack that "
                "brings the script should use what the page offers now.",
                path,
            )
        return await handler(request)

    return warn

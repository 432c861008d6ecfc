"""Lets pages of another origin use the server: ``--enable-cors-header``."""

from __future__ import annotations

from aiohttp import web

from middleware.cache_middleware import Handler, Middleware

_METHODS = "POST, GET, DELETE, PUT, OPTIONS, PATCH"
_HEADERS = "Content-Type, Authorization"


def create_cors_middleware(origin: str) -> Middleware:
    """A middleware that allows requests of pages of an origin.

    Args:
        origin: Such as "https://example.org"; "*" for all.
    """
    allowed = {
        "Access-Control-Allow-Origin": origin,
        "Access-Control-Allow-Methods": _METHODS,
        "Access-Control-Allow-Headers": _HEADERS,
        "Access-Control-Allow-Credentials": "true",
    }

    @web.middleware
    async def allow(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method == "OPTIONS":
            return web.Response(headers=allowed)
        try:
            response = await handler(request)
        except web.HTTPException as err:
            err.headers.update(allowed)
            raise
        # A websocket has sent its headers by now.
        if not response.prepared:
            response.headers.update(allowed)
        return response

    return allow

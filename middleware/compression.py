"""Smaller answers for browsers far away: ``--enable-compress-response-body``."""

from __future__ import annotations

from aiohttp import web

from middleware.cache_middleware import Handler

_TYPES = ("application/json", "text/plain")


@web.middleware
async def compress_body(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Compress JSON and text with gzip for clients that take it."""
    response = await handler(request)
    takes_it = "gzip" in request.headers.get("Accept-Encoding", "").lower()
    # One with a body of its own; files are compressed, or not, by their own rules.
    if takes_it and isinstance(response, web.Response) and response.content_type in _TYPES:
        response.enable_compression(web.ContentCoding.gzip)
    return response

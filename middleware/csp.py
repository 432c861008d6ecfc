"""Keeps the page from asking other hosts: ``--disable-api-nodes`` and ``--offline``."""

from __future__ import annotations

from aiohttp import web

from middleware.cache_middleware import Handler

_POLICY = {
    "default-src": "'self'",
    "script-src": "'self' 'unsafe-inline' 'unsafe-eval' blob:",
    "style-src": "'self' 'unsafe-inline'",
    "img-src": "'self' data: blob:",
    "font-src": "'self'",
    "connect-src": "'self' data:",
    "frame-src": "'self'",
    "object-src": "'self'",
}
POLICY = " ".join(f"{name} {sources};" for name, sources in _POLICY.items())
"""What a page may load: only from here, and what it makes itself."""


@web.middleware
async def block_other_hosts(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Tell browsers to load nothing from elsewhere."""
    if request.method == "OPTIONS":
        return web.Response()
    try:
        response = await handler(request)
    except web.HTTPException as err:
        err.headers["Content-Security-Policy"] = POLICY
        raise
    if not response.prepared:
        response.headers["Content-Security-Policy"] = POLICY
    return response

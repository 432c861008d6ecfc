"""Refuses requests that a page of another site sends to a server on the user's own machine.

Any page that the user visits could otherwise start prompts here: a browser sends such requests
although it does not show the page the answers.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import urllib.parse

from aiohttp import web

from middleware.cache_middleware import Handler

logger = logging.getLogger(__name__)

# What a browser sends as the origin of a page that has none, such as one in a sandbox.
_NO_ORIGIN = "null"


def is_loopback_address(address: str) -> bool:
    """Whether it is an IP address by which only this machine itself is reached.

    Those of no interface are, too: browsers that connect to 0.0.0.0 reach their own machine.
    """
    found = _address(address)
    return found is not None and (found.is_loopback or found.is_unspecified)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The IP address that a text is; None if it is a name."""
    try:
        found = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


async def is_loopback(host: str | None) -> bool:
    """Whether a name or address leads to this machine and nowhere else."""
    if not host:
        return False
    if _address(host) is not None:
        return is_loopback_address(host)
    loop = asyncio.get_running_loop()
    try:
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return False
    return bool(found) and all(is_loopback_address(str(entry[4][0])) for entry in found)


def is_another_origin(host: str, origin: str) -> bool:
    """Whether an Origin header names another place than the Host header.

    Ports count only if both have one: a port that is left out is the scheme's own.
    """
    try:
        asked = urllib.parse.urlsplit(f"//{host.lower()}")
        sender = urllib.parse.urlsplit(origin.lower())
        ports = asked.port, sender.port
    except ValueError:
        # No browser sends such a header.
        return True
    here, there = asked.netloc, sender.netloc
    if ports[1] is None:
        here = _without_port(asked)
    if ports[0] is None:
        there = _without_port(sender)
    return bool(here) and bool(there) and here != there


def _without_port(parts: urllib.parse.SplitResult) -> str:
    name = parts.hostname or ""
    return f"[{name}]" if ":" in name else name


async def is_foreign(request: web.Request) -> bool:
    """Whether a page of another site sends a request to this machine's own server."""
    host, origin = request.headers.get("Host"), request.headers.get("Origin")
    if not host or not origin:
        return False
    hidden = origin == _NO_ORIGIN and request.headers.get("Sec-Fetch-Site") == "cross-site"
    if not hidden and not is_another_origin(host, origin):
        return False
    try:
        name = urllib.parse.urlsplit(f"//{host}").hostname
    except ValueError:
        return True
    return await is_loopback(name)


@web.middleware
async def refuse_other_origins(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer requests of other sites' pages with 403, websockets too."""
    if await is_foreign(request):
        logger.warning(
            "A request for %r was refused: a page of %r sent it to %r. Start with "
            "--enable-cors-header to let other pages use this server.",
            request.path,
            request.headers.get("Origin"),
            request.headers.get("Host"),
        )
        return web.Response(status=web.HTTPForbidden.status_code)
    if request.method == "OPTIONS":
        return web.Response()
    return await handler(request)

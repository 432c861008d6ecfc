"""Listening: addresses, TLS, and what the log says about it."""

from __future__ import annotations

import errno
import ipaddress
import logging
import socket
import ssl
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

logger = logging.getLogger(__name__)

Address = tuple[str, int]

_ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}
# On a machine without IPv6, "::" is no reason not to serve on the other addresses.
_NOT_HERE = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)


class CannotServe(Exception):
    """The server cannot listen as it is asked to; the text says why and what to do."""


@dataclass(frozen=True)
class Bound:
    """A place where the server listens.

    Attributes:
        scheme: "http" or "https".
        address: An IP address or a name.
        port: Its number.
    """

    scheme: str
    address: str
    port: int

    @property
    def url(self) -> str:
        """What to type in a browser on this machine."""
        host = _ANYWHERE.get(self.address, self.address)
        return f"{self.scheme}://{f'[{host}]' if ':' in host else host}:{self.port}"


def addresses(listen: str, port: int) -> list[Address]:
    """The addresses that ``--listen`` names; the local one if it names none."""
    names = [name.strip().strip("[]") for name in listen.split(",")]
    # A name that is given twice cannot be bound twice.
    return [(name, port) for name in dict.fromkeys(filter(None, names))] or [("127.0.0.1", port)]


def tls_context(keyfile: str | None, certfile: str | None) -> ssl.SSLContext | None:
    """What encrypts connections, if there are both a key and a certificate.

    Raises:
        CannotServe: They cannot be used.
    """
    if not keyfile or not certfile:
        if keyfile or certfile:
            logger.warning(
                "Connections are not encrypted: that takes both --tls-keyfile and --tls-certfile."
            )
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certfile=certfile, keyfile=keyfile)
    except (OSError, ValueError) as err:
        raise CannotServe(
            f"The certificate {certfile} with the key {keyfile} cannot be used: {err}. Both must be "
            "PEM files, and belong together."
        ) from err
    return context


async def listen(
    runner: web.BaseRunner, wanted: Sequence[Address], tls: ssl.SSLContext | None = None
) -> list[Bound]:
    """Open a socket for each address.

    Args:
        runner: Set up; answers what comes in.
        wanted: Addresses and ports; port 0 means one that is free, the same for all of them.
        tls: Encrypts connections.

    Returns:
        The places, in the same order.

    Raises:
        CannotServe: An address is in use, or none can be used.
    """
    bound: list[Bound] = []
    missing: list[str] = []
    for name, port in wanted:
        number = bound[0].port if port == 0 and bound else port
        site = web.TCPSite(runner, name, number, ssl_context=tls)
        try:
            await site.start()
        except (OSError, OverflowError) as err:
            if isinstance(err, OverflowError) or _is_in_use(err):
                raise CannotServe(_why_not(name, number, err)) from err
            logger.warning("%s", _why_not(name, number, err))
            missing.append(_why_not(name, number, err))
        else:
            bound.append(Bound("https" if tls else "http", name, number or _port_of(runner)))
    if not bound:
        raise CannotServe(" ".join(missing))
    return bound


def _is_in_use(err: OSError) -> bool:
    return err.errno not in _NOT_HERE and not isinstance(err, socket.gaierror)


def _why_not(name: str, port: int, err: Exception) -> str:
    if isinstance(err, OverflowError):
        return f"There is no port {port}: give --port a number from 1 to 65535."
    if isinstance(err, OSError) and err.errno == errno.EADDRINUSE:
        return (
            f"Port {port} of {name} is in use, perhaps by this program itself: end what uses it, or "
            "choose another port with --port."
        )
    if isinstance(err, OSError) and err.errno in (errno.EACCES, errno.EPERM):
        return f"Port {port} of {name} is not allowed for this user: choose one above 1023 with --port."
    return f"Cannot serve on {name}, port {port}: {err}. See --listen and --port."


def _port_of(runner: web.BaseRunner) -> int:
    """The port that the system chose."""
    return int(runner.addresses[0][1])


def is_local(address: str) -> bool:
    """Whether only programs on this machine reach an address."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


def warn_of_strangers(bound: Sequence[Bound]) -> None:
    """Say in the log that others can use the server, if they can."""
    reachable = [place.address for place in bound if not is_local(place.address)]
    if reachable:
        logger.warning(
            "Other machines can reach this server (it listens on %s). It asks nobody for a "
            "password: whoever reaches it can run workflows and read and write its files. Serve "
            "beyond this machine only in networks that you trust.",
            ", ".join(reachable),
        )


def tell_address(bound: Sequence[Bound]) -> None:
    """Say in the log where the page is."""
    # "comfy launch --background" waits for the words before the address.
    where = " and ".join(place.url for place in bound)
    logger.info("The page is ready. To see the GUI go to: %s", where)


def open_browser(place: Bound) -> None:
    """Show the page in the user's browser; it may take its time."""

    def show() -> None:
        try:
            shown = webbrowser.open(place.url)
        except (webbrowser.Error, OSError) as err:
            logger.warning("No browser could be opened: %s. Open %s yourself.", err, place.url)
            return
        if not shown:
            logger.warning("No browser was found. Open %s yourself.", place.url)

    threading.Thread(target=show, daemon=True, name="open-browser").start()

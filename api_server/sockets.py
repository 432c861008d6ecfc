"""Pages that are connected: messages wait for each of them alone, so that none holds up another."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import Any

from aiohttp import web

logger = logging.getLogger(__name__)

Message = str | bytes

CROWDED = 512
"""With so many messages waiting, those that can be lost are."""

CROWDED_BYTES = 16 * 2**20

FULL = 8192
"""With so many waiting, a page that takes none is given up; it may connect again."""

FULL_BYTES = 64 * 2**20

STALLED_S = 2.0
"""A page that has taken no message for so long takes none."""

# One that takes them, but more slowly than they come, is given up at so many times as much.
_FAR_TOO_FULL = 4


class Outbox:
    """Messages to one page, sent in order, as fast as it takes them.

    Attributes:
        socket: Where they go.
    """

    def __init__(self, socket: web.WebSocketResponse, request: web.Request | None = None) -> None:
        """Begin with none.

        Args:
            socket: Where messages go.
            request: The request that the socket answers; its connection is cut if the page takes
                nothing. Without it, the socket is only left alone.
        """
        self.socket = socket
        self._request = request
        self._waiting: deque[Message] = deque()
        self._bytes = 0
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._taken_at = time.monotonic()

    def put(self, message: Message, can_be_lost: bool = False) -> None:
        """Send a message when its turn comes. Call it in the server's loop.

        Args:
            message: Text or bytes.
            can_be_lost: A later one says the same and more, so that this one may be left out.
        """
        if self._closed:
            return
        if can_be_lost and self._is_beyond(CROWDED, CROWDED_BYTES):
            return
        if self._is_hopeless():
            self._give_up()
            return
        if not self._waiting:
            self._taken_at = time.monotonic()
        self._waiting.append(message)
        self._bytes += len(message)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._send_all())

    @property
    def is_sent(self) -> bool:
        """Whether nothing waits."""
        return self._task is None

    def close(self) -> None:
        """Forget what waits; nothing is sent any more."""
        self._closed = True
        self._waiting.clear()
        self._bytes = 0
        if self._task is not None:
            self._task.cancel()

    def _is_beyond(self, count: int, size: int) -> bool:
        return len(self._waiting) >= count or self._bytes >= size

    def _is_hopeless(self) -> bool:
        if not self._is_beyond(FULL, FULL_BYTES):
            return False
        is_stalled = time.monotonic() - self._taken_at >= STALLED_S
        return is_stalled or self._is_beyond(_FAR_TOO_FULL * FULL, _FAR_TOO_FULL * FULL_BYTES)

    def _give_up(self) -> None:
        logger.warning(
            "A page takes its messages too slowly: %d wait. Its connection is cut.",
            len(self._waiting),
        )
        transport = None if self._request is None else self._request.transport
        self.close()
        if transport is not None:
            transport.abort()

    async def _send_all(self) -> None:
        try:
            while self._waiting:
                message = self._waiting.popleft()
                self._bytes -= len(message)
                if isinstance(message, str):
                    await self.socket.send_str(message)
                else:
                    await self.socket.send_bytes(message)
                self._taken_at = time.monotonic()
        except (OSError, RuntimeError) as err:
            # It has gone, or is about to; its reader ends by itself.
            logger.debug("A message could not be sent to a page: %s", err)
            self._closed = True
        finally:
            self._task = None


class Clients:
    """The pages that are connected, by their ids.

    Attributes:
        sockets: Socket by id; packs read it.
        metadata: By id "feature_flags", as the page sent them.
    """

    def __init__(self) -> None:
        self.sockets: dict[str, web.WebSocketResponse] = {}
        self.metadata: dict[str, dict[str, Any]] = {}
        self._outboxes: dict[str, Outbox] = {}

    def enter(self, sid: str, socket: web.WebSocketResponse, request: web.Request) -> None:
        """A page is there; it takes the place of one with the same id."""
        self._drop(sid)
        self.sockets[sid] = socket
        self.metadata[sid] = {"feature_flags": {}}
        self._outboxes[sid] = Outbox(socket, request)

    def leave(self, sid: str, socket: web.WebSocketResponse) -> None:
        """A page has gone. One that has taken its place stays."""
        if self.sockets.get(sid) is socket:
            self._drop(sid)

    def send(self, message: Message, sid: str | None, can_be_lost: bool = False) -> None:
        """Let a message wait for its turn.

        Args:
            message: Text or bytes.
            sid: Id of the page it is for; None for all. Nothing happens if it is not there.
            can_be_lost: See `Outbox.put`.
        """
        targets = list(self.sockets) if sid is None else [sid]
        for one in targets:
            if one in self.sockets:
                self._outbox(one).put(message, can_be_lost)

    def has(self, sid: str | None) -> bool:
        """Whether there is somebody to send to."""
        return bool(self.sockets) if sid is None else sid in self.sockets

    @property
    def all_is_sent(self) -> bool:
        """Whether no message waits for any page."""
        return all(outbox.is_sent for outbox in self._outboxes.values())

    async def close_all(self) -> None:
        """Say goodbye to all pages."""
        sockets = list(self.sockets.values())
        for sid in list(self.sockets):
            self._drop(sid)
        goodbyes = (socket.close(code=1001, message=b"The server stops.") for socket in sockets)
        await asyncio.gather(*goodbyes, return_exceptions=True)

    def _outbox(self, sid: str) -> Outbox:
        kept = self._outboxes.get(sid)
        # Packs may have put a socket of their own in its place.
        if kept is None or kept.socket is not self.sockets[sid]:
            kept = self._outboxes[sid] = Outbox(self.sockets[sid])
        return kept

    def _drop(self, sid: str) -> None:
        self.sockets.pop(sid, None)
        self.metadata.pop(sid, None)
        outbox = self._outboxes.pop(sid, None)
        if outbox is not None:
            outbox.close()

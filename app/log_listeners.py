"""Pages that want to see the log as it is written."""

from __future__ import annotations

import os
from typing import Any

from app import logger as app_logger

_NO_TERMINAL = os.terminal_size((80, 24))


class LogListeners:
    """Sends what is written to those who subscribed, as long as they are connected."""

    def __init__(self, server: Any) -> None:
        """Begin with nobody.

        Args:
            server: Has ``sockets`` by client id, and ``send_sync``.
        """
        self._server = server
        self._clients: set[str] = set()
        self._is_listening = False
        self._size: os.terminal_size | None = None

    @staticmethod
    def size() -> dict[str, int]:
        """Columns and rows of the terminal; of an ordinary one if there is none."""
        now = _terminal_size()
        return {"cols": now.columns, "rows": now.lines}

    def subscribe(self, client: str) -> None:
        """Send the log to a client from now on."""
        self._clients.add(client)
        if not self._is_listening:
            self._is_listening = True
            app_logger.on_flush(self._tell)

    def unsubscribe(self, client: str) -> None:
        """Send no more."""
        self._clients.discard(client)

    def _tell(self, entries: list[app_logger.Entry]) -> None:
        if not self._clients:
            return
        now = _terminal_size()
        size = None if now == self._size else self.size()
        self._size = now
        for client in list(self._clients):
            if client not in self._server.sockets:
                self.unsubscribe(client)
                continue
            self._server.send_sync("logs", {"entries": entries, "size": size}, client)


def _terminal_size() -> os.terminal_size:
    try:
        return os.get_terminal_size()
    except OSError:
        return _NO_TERMINAL

"""Short texts that a running node shows on the page; whoever has a page says how to send them."""

from __future__ import annotations

from collections.abc import Callable

Sender = Callable[[str, str], None]
"""Called with the text and the node's id."""

_senders: list[Sender] = []


def add_sender(sender: Sender) -> Callable[[], None]:
    """Let `sender` know of each text.

    Returns:
        A function that ends that.
    """
    _senders.append(sender)
    return lambda: _senders.remove(sender)


def send(text: str, node_id: str | None) -> None:
    """Show a text at a node; nobody hears of it without a page, or outside of a prompt."""
    if node_id is None:
        return
    for sender in tuple(_senders):
        sender(text, node_id)

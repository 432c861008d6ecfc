"""What the executor asks of whoever listens to it: the web server, or a program without one."""

from __future__ import annotations

from typing import Any, Protocol


class ExecutorServer(Protocol):
    """The listener of a `PromptExecutor`.

    A program without a server writes a class with these four; `send_sync` gets everything a page
    would get. It may also have ``sockets_metadata``, a dict by client: if the feature flag
    "supports_preview_metadata" is set there, pictures come with their node's id.

    Attributes:
        client_id: Who sent the running prompt; set from ``extra_data["client_id"]``. Without one
            only progress and interrupts are told.
        last_node_id: The node that runs, as the page knows it; None between prompts.
        last_prompt_id: The prompt that runs, or ran last.
    """

    client_id: str | None
    last_node_id: str | None
    last_prompt_id: str | None

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Take a message; called from the thread that runs the prompt.

        Args:
            event: Its name, or a number of `protocol.BinaryEventTypes`.
            data: A dict that JSON can hold; for pictures ``(picture, metadata)``.
            sid: The client it is for; None for everyone.
        """

"""Which node is running: known to everything that it calls, also while async nodes overlap."""

from __future__ import annotations

from contextvars import ContextVar, Token
from typing import NamedTuple

INTERRUPT_INTERVAL_S = 0.1
"""How often whoever waits for nodes looks whether the user wants to stop."""


class ExecutionContext(NamedTuple):
    """Where a call belongs.

    Attributes:
        prompt_id: Of the prompt.
        node_id: Of the node, the long one within an expansion.
        list_index: Which call of the node, where its inputs are lists; None outside of calls.
    """

    prompt_id: str
    node_id: str
    list_index: int | None


_current: ContextVar[ExecutionContext | None] = ContextVar("running_node", default=None)


def get_executing_context() -> ExecutionContext | None:
    """The node that this code runs for; None outside of nodes."""
    return _current.get()


class CurrentNodeContext:
    """Says which node the code inside a ``with`` runs for; tasks made there inherit it."""

    def __init__(self, prompt_id: str, node_id: str, list_index: int | None = None) -> None:
        self.context = ExecutionContext(prompt_id, node_id, list_index)
        self._token: Token[ExecutionContext | None] | None = None

    def __enter__(self) -> CurrentNodeContext:
        self._token = _current.set(self.context)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._token is not None:
            _current.reset(self._token)
            self._token = None

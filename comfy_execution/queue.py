"""Prompts that wait, the one that runs, and those that ran."""

from __future__ import annotations

import bisect
import copy
import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

logger = logging.getLogger(__name__)

MAXIMUM_HISTORY_SIZE = 10_000
"""After so many prompts the oldest is forgotten."""

Item = tuple[Any, ...]
"""Number, prompt id, prompt, extra data, outputs to execute, sensitive extra data."""

_PUBLIC_PARTS = 5


class ExecutionStatus(NamedTuple):
    """How a prompt ended.

    Attributes:
        status_str: "success" or "error".
        completed: Whether it ran to its end.
        messages: Pairs of an event and its data, in order.
    """

    status_str: str
    completed: bool
    messages: list[Any]


Status = ExecutionStatus
"""For annotations in the class below, which has an attribute of the longer name."""


class Server(Protocol):
    """Whom the queue tells that it changed."""

    def queue_updated(self) -> None:
        """The number of prompts that wait or run may be another one now."""


def without_sensitive(item: Item) -> Item:
    """A queue item as pages may see it: without the sensitive part of its extra data."""
    return item[:_PUBLIC_PARTS]


def _rank(item: Item) -> tuple[Any, Any]:
    # The prompt behind them has no order; equal ranks stay in the order in which they came.
    return item[0], item[1]


def _copied(item: Item) -> Item:
    """A deep copy; the item itself if a pack has put something in that cannot be copied."""
    try:
        return copy.deepcopy(item)
    except Exception:  # noqa: BLE001 - whatever that object raises, its prompt must not be lost
        logger.warning("Prompt %s holds what cannot be copied; it runs as it is.", item[1])
        return item


def _ending(status: Status | None) -> str:
    if status is None or status.status_str == "success":
        return "success"
    events = {message[0] for message in status.messages}
    return "interrupted" if "execution_interrupted" in events else "error"


class PromptQueue:
    """The queue of one server. All methods may be called from any thread.

    Attributes:
        server: Told of every change.
        mutex: Held while anything here is read or written.
        not_empty: Notified when there may be something to do.
        queue: Items that wait, lowest number first.
        currently_running: Copies of the items that run, by the number that `get` gave.
        history: What ran, by prompt id, oldest first.
        ended: How many prompts ended since the start, by "success", "error" and "interrupted"; it
            never goes down, whatever is forgotten.
        flags: What the worker is asked to do after the present prompt.
    """

    ExecutionStatus = ExecutionStatus

    def __init__(self, server: Server) -> None:
        self.server = server
        self.mutex = threading.RLock()
        self.not_empty = threading.Condition(self.mutex)
        self.task_counter = 0
        self.queue: list[Item] = []
        self.currently_running: dict[int, Item] = {}
        self.history: dict[str, dict[str, Any]] = {}
        self.flags: dict[str, Any] = {}
        self.ended = {"success": 0, "error": 0, "interrupted": 0}

    # -- work --------------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Let a prompt wait for its turn.

        Args:
            item: See `Item`.
        """
        with self.mutex:
            bisect.insort(self.queue, item, key=_rank)
            self.server.queue_updated()
            self.not_empty.notify()

    def get(self, timeout: float | None = None) -> tuple[Item, int] | None:
        """Take the next prompt; wait for one if there is none.

        Args:
            timeout: Seconds to wait at most, and not at all while a flag is set; None waits on.

        Returns:
            The item, and the number under which `task_done` knows it; None if none came.
        """
        with self.not_empty:
            while not self.queue:
                # One that was set before this began would not wake it up.
                if timeout is None or not self.flags:
                    self.not_empty.wait(timeout)
                if timeout is not None and not self.queue:
                    return None
            # Packs reorder the list in their own ways, so that its first need not be the lowest.
            item = min(self.queue, key=_rank)
            self.queue.remove(item)
            number = self.task_counter
            self.task_counter += 1
            self.currently_running[number] = _copied(item)
            self.server.queue_updated()
            return item, number

    def task_done(
        self,
        item_id: int,
        history_result: Mapping[str, Any],
        status: Status | None,
        process_item: Callable[[Item], Item] | None = None,
    ) -> None:
        """Move a prompt that ended to the history.

        Args:
            item_id: The number that `get` gave.
            history_result: "outputs" and "meta" by node.
            status: How it ended.
            process_item: Makes of the item what is kept; `without_sensitive` if None.
        """
        with self.mutex:
            item = self.currently_running.pop(item_id)
            self.ended[_ending(status)] += 1
            while len(self.history) >= max(1, MAXIMUM_HISTORY_SIZE):
                del self.history[next(iter(self.history))]
            self.history.pop(item[1], None)
            self.history[item[1]] = {
                "prompt": (process_item or without_sensitive)(item),
                "outputs": {},
                "status": None if status is None else copy.deepcopy(status._asdict()),
                **history_result,
            }
            self.server.queue_updated()

    def get_current_queue(self) -> tuple[list[Item], list[Item]]:
        """Copies of the items that run, and of those that wait, next first."""
        with self.mutex:
            running = list(self.currently_running.values())
            waiting = sorted(self.queue, key=_rank)
            return [_copied(item) for item in running], [_copied(item) for item in waiting]

    def get_current_queue_volatile(self) -> tuple[list[Item], list[Item]]:
        """As `get_current_queue`, but what is in the items is shared and must not be changed."""
        with self.mutex:
            return list(self.currently_running.values()), sorted(self.queue, key=_rank)

    def get_tasks_remaining(self) -> int:
        """How many prompts wait or run."""
        with self.mutex:
            return len(self.queue) + len(self.currently_running)

    def wipe_queue(self) -> None:
        """Forget all prompts that wait."""
        with self.mutex:
            self.queue = []
            self.server.queue_updated()

    def delete_queue_item(self, function: Callable[[Item], bool]) -> bool:
        """Forget the first prompt that waits and is meant.

        Args:
            function: Says of an item whether it is.

        Returns:
            Whether there was one.
        """
        with self.mutex:
            for position, item in enumerate(self.queue):
                if function(item):
                    del self.queue[position]
                    self.server.queue_updated()
                    return True
            return False

    # -- history -----------------------------------------------------------------------------------

    def get_history(
        self,
        prompt_id: str | None = None,
        max_items: int | None = None,
        offset: int = -1,
        map_function: Callable[[dict[str, Any]], Any] | None = None,
    ) -> dict[str, Any]:
        """Prompts that ended, oldest first.

        Args:
            prompt_id: Of the only one that is wanted; None for all.
            max_items: How many at most; None for all.
            offset: Leave out so many of the oldest; below 0, the newest `max_items` are wanted.
            map_function: Makes of an entry what is returned; a copy of it if None.

        Returns:
            Entries by prompt id; empty if there is no such prompt.
        """
        shown = map_function or copy.deepcopy
        with self.mutex:
            if prompt_id is not None:
                ids = [prompt_id] if prompt_id in self.history else []
            else:
                ids = list(self.history)
                if offset < 0:
                    offset = 0 if max_items is None else max(0, len(ids) - max_items)
                ids = ids[offset:] if max_items is None else ids[offset : offset + max_items]
            return {one: shown(self.history[one]) for one in ids}

    def wipe_history(self) -> None:
        """Forget all prompts that ended."""
        with self.mutex:
            self.history = {}

    def delete_history_item(self, id_to_delete: str) -> None:
        """Forget a prompt that ended; one that is unknown is forgotten already."""
        with self.mutex:
            self.history.pop(id_to_delete, None)

    # -- wishes ------------------------------------------------------------------------------------

    def set_flag(self, name: str, data: Any) -> None:
        """Ask the worker for something after the present prompt.

        Args:
            name: "unload_models" or "free_memory"; packs have others.
            data: Whether, or how.
        """
        with self.mutex:
            self.flags[name] = data
            self.not_empty.notify()

    def get_flags(self, reset: bool = True) -> dict[str, Any]:
        """What was asked for.

        Args:
            reset: It is then no longer asked for.
        """
        with self.mutex:
            asked = dict(self.flags)
            if reset:
                self.flags = {}
            return asked

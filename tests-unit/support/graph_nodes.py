"""Small node classes made of plain functions, and what runs graphs of them and remembers."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import execution
import nodes

Prompt = dict[str, dict[str, Any]]

_LONGEST_MEETING_S = 10.0


def node_class(
    function: Callable[..., Any],
    *inputs: str,
    optional: Sequence[str] = (),
    hidden: Mapping[str, str] | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
    returns: Sequence[str] = ("*",),
    **attributes: Any,
) -> type[Any]:
    """Make a classic node class.

    Args:
        function: Called with the inputs as keywords; may be async.
        *inputs: Names of required inputs; all take anything.
        optional: Names of optional ones.
        hidden: Types of hidden ones.
        options: Options by input.
        returns: ``RETURN_TYPES``.
        **attributes: Further attributes of the class, such as ``OUTPUT_NODE=True``.
    """
    told = options or {}

    def declared(names: Sequence[str]) -> dict[str, Any]:
        return {name: ("*", dict(told.get(name, {}))) for name in names}

    def input_types(cls: type[Any]) -> dict[str, Any]:
        return {
            "required": declared(inputs),
            "optional": declared(optional),
            "hidden": dict(hidden or {}),
        }

    body = {
        "INPUT_TYPES": classmethod(input_types),
        "RETURN_TYPES": tuple(returns),
        "FUNCTION": "run",
        "CATEGORY": "tests",
        "run": staticmethod(function),
        **attributes,
    }
    return type("NodeForTests", (), body)


def add(a: Any, b: Any) -> tuple[Any]:
    """Function of a node."""
    return (a + b,)


def keep(value: Any) -> tuple[Any]:
    """Function of a node."""
    return (value,)


def show(value: Any) -> dict[str, Any]:
    """Function of an output node."""
    return {"ui": {"value": [value]}, "result": (value,)}


BASIC: dict[str, type[Any]] = {
    "Keep": node_class(keep, "value"),
    "Add": node_class(add, "a", "b"),
    "Show": node_class(show, "value", OUTPUT_NODE=True),
    "Many": node_class(lambda value: (value,), "value", OUTPUT_IS_LIST=(True,)),
    "Gather": node_class(lambda value: (value,), "value", INPUT_IS_LIST=True),
}
"""Keep (one value), Add, Show (output), Many (list to elements), Gather (elements to list)."""


def meeting(many: int) -> type[Any]:
    """Make an async node class that keeps its value, once so many calls of it have begun.

    One after another they would end with TimeoutError.
    """
    begun: list[Any] = []

    async def run(value: Any) -> tuple[Any]:
        begun.append(value)
        latest = time.monotonic() + _LONGEST_MEETING_S
        while len(begun) < many:
            if time.monotonic() > latest:
                raise TimeoutError(f"{len(begun)} of {many} calls have begun")
            await asyncio.sleep(0.001)
        return (value,)

    return node_class(run, "value")


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    """One node of a prompt."""
    return {"class_type": class_type, "inputs": inputs}


class Listener:
    """Stands where the web server does, and keeps what it is told.

    Attributes:
        told: Event, data and client of each message.
    """

    def __init__(self) -> None:
        self.client_id: str | None = None
        self.last_node_id: str | None = None
        self.last_prompt_id: str | None = None
        self.sockets_metadata: dict[str, Any] = {}
        self.told: list[tuple[Any, Any, str | None]] = []

    def send_sync(self, event: Any, data: Any, sid: str | None = None) -> None:
        """Keep a message."""
        self.told.append((event, data, sid))

    def of(self, *events: Any) -> list[Any]:
        """Data of all messages of these kinds."""
        return [data for event, data, _ in self.told if event in events]

    def events(self) -> list[Any]:
        """Kinds of all messages but progress."""
        return [event for event, _, _ in self.told if event != "progress_state"]


class Graphs:
    """Runs prompts one after the other with one executor.

    Attributes:
        executor: Runs them.
        listener: Was told of the last one.
    """

    def __init__(self, cache_type: Any = execution.CacheType.CLASSIC, **cache_args: Any) -> None:
        self.listener = Listener()
        self.executor = execution.PromptExecutor(self.listener, cache_type, cache_args)
        self._numbers = itertools.count(1)

    def run(self, prompt: Prompt, *outputs: str, client: str | None = "me", **extra: Any) -> bool:
        """Run a prompt, told to a client; all nodes named Show are outputs if none are given.

        Returns:
            Whether it ran to its end.
        """
        self.listener.told.clear()
        chosen = outputs or tuple(
            node_id
            for node_id, one in prompt.items()
            if getattr(nodes.NODE_CLASS_MAPPINGS[one["class_type"]], "OUTPUT_NODE", False)
        )
        if client is not None:
            extra["client_id"] = client
        self.executor.execute(prompt, f"prompt {next(self._numbers)}", extra, list(chosen))
        return self.executor.success

    def ran(self) -> list[str]:
        """Ids of nodes that were called in the last prompt, in order."""
        return [data["node"] for data in self.listener.of("executing")]

    def shown(self, node_id: str = "show") -> Any:
        """What a Show node showed: its values over all calls."""
        return self.executor.history_result["outputs"][node_id]["value"]

    def error(self) -> dict[str, Any]:
        """The one error that the last prompt ended with."""
        (found,) = [one for one in self.listener.of("execution_error") if "timestamp" in one]
        return dict(found)

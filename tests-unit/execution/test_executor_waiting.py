"""Lazy inputs, async nodes, blockers: what waits, what overlaps, what is left out."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

import pytest

import comfy.model_management
from comfy_execution.graph import ExecutionBlocker
from comfy_execution.utils import get_executing_context
from support.graph_nodes import Graphs, meeting, node, node_class

LAZY = {"a": {"lazy": True}, "b": {"lazy": True}}


def _switch(ask: Any = None, **attributes: Any) -> type[Any]:
    """Gives a if the switch is on, else b, and asks for no more than it needs."""

    def asks(self: Any, on: Any, a: Any = None, b: Any = None) -> list[str]:
        return ["a"] if on else ["b"]

    def run(on: Any, a: Any = None, b: Any = None) -> tuple[Any]:
        return (a if on else b,)

    return node_class(
        run, "on", optional=("a", "b"), options=LAZY, check_lazy_status=ask or asks, **attributes
    )


def _choice(on: Any) -> dict[str, Any]:
    return {
        "a": node("Keep", value="from a"),
        "b": node("Keep", value="from b"),
        "switch": node("Switch", on=on, a=["a", 0], b=["b", 0]),
        "show": node("Show", value=["switch", 0]),
    }


# -- lazy ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("on", "chosen"), [(True, "a"), (False, "b")])
def test_only_the_lazy_input_that_is_asked_for_runs(
    graphs: Graphs, register: Any, on: bool, chosen: str
) -> None:
    register(Switch=_switch())
    assert graphs.run(_choice(on))
    assert graphs.shown() == [f"from {chosen}"]
    assert graphs.ran() == ["switch", chosen, "switch", "show"]


def test_lazy_inputs_are_asked_for_over_lists(graphs: Graphs, register: Any) -> None:
    register(Switch=_switch())
    prompt = _choice(["many", 0])
    prompt["many"] = node("Many", value=[True, False])
    assert graphs.run(prompt)
    assert graphs.shown() == ["from a", "from b"]


def test_a_lazy_node_is_asked_until_it_wants_no_more(graphs: Graphs, register: Any) -> None:
    asked: list[tuple[Any, Any]] = []

    def ask(self: Any, on: Any, a: Any = None, b: Any = None) -> list[str]:
        asked.append((a, b))
        return ["a"] if a is None else ["b"]

    register(Switch=_switch(ask))
    assert graphs.run(_choice(True))
    assert asked == [(None, None), ("from a", None), ("from a", "from b")]


def test_an_async_check_is_awaited(graphs: Graphs, register: Any) -> None:
    async def ask(self: Any, on: Any, a: Any = None, b: Any = None) -> list[str]:
        await asyncio.sleep(0.001)
        return ["b"]

    register(Switch=_switch(ask))
    assert graphs.run(_choice(False))
    assert "a" not in graphs.ran()


def test_missing_values_are_lists_of_none_where_lists_are_taken(
    classic: Graphs, register: Any
) -> None:
    asked: list[Any] = []

    def ask(self: Any, on: Any, a: Any = None, b: Any = None) -> list[str]:
        asked.append((on, a, b))
        return []

    register(Switch=_switch(ask, INPUT_IS_LIST=True))
    assert classic.run(_choice(True))
    assert asked == [([True], (None,), (None,))]


def test_a_lazy_input_that_is_known_is_there_without_asking(
    graphs: Graphs, register: Any, keeps: bool
) -> None:
    asked: list[Any] = []

    def ask(self: Any, on: Any, a: Any = None, b: Any = None) -> list[str]:
        asked.append(a)
        return ["a"]

    register(Switch=_switch(ask))
    graphs.run({"a": node("Keep", value="from a"), "show": node("Show", value=["a", 0])})
    assert graphs.run(_choice(True))
    assert asked == (["from a"] if keeps else [None, "from a"])


@pytest.mark.parametrize("wish", ["absent", "undeclared"])
def test_asking_for_what_is_no_link_is_an_error(graphs: Graphs, register: Any, wish: str) -> None:
    register(Switch=_switch(lambda self, **_: [wish]))
    prompt = _choice(True)
    prompt["switch"]["inputs"]["undeclared"] = "constant"
    assert not graphs.run(prompt)
    assert graphs.error()["exception_type"].endswith(".NodeInputError")
    assert wish in graphs.error()["exception_message"]


def test_what_an_unasked_lazy_input_leads_to_may_even_fail(graphs: Graphs, register: Any) -> None:
    register(Switch=_switch(), Fails=node_class(lambda value: 1 / 0, "value"))
    prompt = _choice(True)
    prompt["b"] = node("Fails", value=1)
    assert graphs.run(prompt)


# -- async -----------------------------------------------------------------------------------------


def test_async_nodes_overlap(graphs: Graphs, register: Any) -> None:
    register(Meets=meeting(2))
    prompt = {
        "x": node("Meets", value=1),
        "y": node("Meets", value=2),
        "add": node("Add", a=["x", 0], b=["y", 0]),
        "show": node("Show", value=["add", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [3]


def test_slices_of_an_async_node_overlap_and_stay_in_order(graphs: Graphs, register: Any) -> None:
    register(Meets=meeting(3))
    prompt = {
        "many": node("Many", value=[1, 2, 3]),
        "x": node("Meets", value=["many", 0]),
        "show": node("Show", value=["x", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [1, 2, 3]


def test_other_nodes_run_while_an_async_one_waits(graphs: Graphs, register: Any) -> None:
    ready = threading.Event()

    async def waits(value: Any) -> tuple[Any]:
        while not ready.is_set():
            await asyncio.sleep(0.001)
        return (value,)

    def opens(value: Any) -> tuple[Any]:
        ready.set()
        return (value,)

    register(Waits=node_class(waits, "value"), Opens=node_class(opens, "value"))
    prompt = {
        "w": node("Waits", value=1),
        "o": node("Opens", value=2),
        "add": node("Add", a=["w", 0], b=["o", 0]),
        "show": node("Show", value=["add", 0]),
    }
    assert graphs.run(prompt)


def test_an_async_node_that_never_waits_is_like_any_other(graphs: Graphs, register: Any) -> None:
    async def run(value: Any) -> tuple[Any]:
        return (value + 1,)

    register(Quick=node_class(run, "value"))
    assert graphs.run({"q": node("Quick", value=1), "show": node("Show", value=["q", 0])})
    assert graphs.shown() == [2]
    assert graphs.ran() == ["q", "show"]


def test_an_async_error_is_that_nodes_and_ends_the_others(graphs: Graphs, register: Any) -> None:
    ended: list[str] = []

    async def waits(value: Any) -> tuple[Any]:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise
        return (value,)

    async def fails(value: Any) -> tuple[Any]:
        await asyncio.wait_for(asyncio.sleep(60), 0.001)
        return (value,)

    register(Waits=node_class(waits, "value"), Fails=node_class(fails, "value"))
    prompt = {
        "w": node("Waits", value=1),
        "f": node("Fails", value=2),
        "add": node("Add", a=["w", 0], b=["f", 0]),
        "show": node("Show", value=["add", 0]),
    }
    assert not graphs.run(prompt)
    assert graphs.error()["node_id"] == "f"
    assert "timeout" in str(graphs.error()).lower()
    assert ended == ["cancelled"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (ValueError("the second"), "ValueError"),
        (asyncio.CancelledError("the second"), "asyncio.exceptions.CancelledError"),
    ],
)
def test_one_failing_slice_ends_the_others(
    classic: Graphs, register: Any, error: BaseException, kind: str
) -> None:
    async def run(value: Any) -> tuple[Any]:
        await asyncio.sleep(60 if value else 0.001)
        raise error

    register(Uneven=node_class(run, "value"))
    prompt = {
        "many": node("Many", value=[True, False]),
        "u": node("Uneven", value=["many", 0]),
        "show": node("Show", value=["u", 0]),
    }
    began = time.monotonic()
    assert not classic.run(prompt)
    assert time.monotonic() - began < 30
    assert classic.error()["exception_type"] == kind
    assert classic.error()["exception_message"].strip() == "the second"


def test_a_node_that_cancels_itself_fails_and_the_next_prompt_runs(
    classic: Graphs, register: Any
) -> None:
    async def run(value: Any) -> tuple[Any]:
        await asyncio.sleep(0.001)
        raise asyncio.CancelledError

    register(Cancels=node_class(run, "value"))
    prompt = {"c": node("Cancels", value=1), "show": node("Show", value=["c", 0])}
    assert not classic.run(prompt)
    assert classic.error()["node_id"] == "c"
    assert classic.run({"show": node("Show", value=1)})


def test_a_user_may_stop_an_async_node_that_never_ends(classic: Graphs, register: Any) -> None:
    async def run(value: Any) -> tuple[Any]:
        comfy.model_management.interrupt_current_processing()
        await asyncio.sleep(600)
        return (value,)

    register(Hangs=node_class(run, "value"))
    assert not classic.run({"h": node("Hangs", value=1), "show": node("Show", value=["h", 0])})
    (told,) = classic.listener.of("execution_interrupted")
    assert told["node_id"] == "h"


def test_a_user_may_stop_a_node_that_never_says_what_it_needs(
    classic: Graphs, register: Any
) -> None:
    async def ask(self: Any, value: Any) -> list[str]:
        comfy.model_management.interrupt_current_processing()
        await asyncio.sleep(600)
        return []

    register(Hangs=node_class(lambda value: (value,), "value", check_lazy_status=ask))
    assert not classic.run({"h": node("Hangs", value=1), "show": node("Show", value=["h", 0])})
    (told,) = classic.listener.of("execution_interrupted")
    assert told["node_id"] == "h"


def test_each_call_knows_where_it_belongs_also_after_waiting(
    classic: Graphs, register: Any
) -> None:
    seen: set[Any] = set()

    async def run(value: Any) -> tuple[Any]:
        await asyncio.sleep(0.001)
        seen.add(get_executing_context())
        return (value,)

    register(Where=node_class(run, "value"))
    prompt = {
        "many": node("Many", value=[1, 2]),
        "w": node("Where", value=["many", 0]),
        "v": node("Where", value="x"),
        "add": node("Gather", value=["w", 0], more=["v", 0]),
        "show": node("Show", value=["w", 0]),
        "other": node("Show", value=["v", 0]),
    }
    assert classic.run({key: one for key, one in prompt.items() if key != "add"})
    assert seen == {("prompt 1", "w", 0), ("prompt 1", "w", 1), ("prompt 1", "v", 0)}
    assert get_executing_context() is None


# -- blockers --------------------------------------------------------------------------------------


def _blocks(message: str | None, when: Any = True) -> type[Any]:
    def run(value: Any) -> Any:
        return (ExecutionBlocker(message) if value == when else value, "second")

    return node_class(run, "value", returns=("*", "*"))


def test_a_silent_blocker_leaves_out_what_follows_and_the_prompt_succeeds(
    graphs: Graphs, register: Any
) -> None:
    register(Blocks=_blocks(None))
    prompt = {
        "b": node("Blocks", value=True),
        "keep": node("Keep", value=["b", 0]),
        "show": node("Show", value=["keep", 0]),
        "other": node("Show", value=["b", 1]),
    }
    assert graphs.run(prompt)
    assert "show" not in graphs.executor.history_result["outputs"]
    assert graphs.shown("other") == ["second"]
    assert not graphs.listener.of("execution_error")


def test_a_blockers_message_is_told_once_at_the_first_blocked_node(
    graphs: Graphs, register: Any
) -> None:
    register(Blocks=_blocks("Nothing was found."))
    prompt = {
        "b": node("Blocks", value=True),
        "keep": node("Keep", value=["b", 0]),
        "show": node("Show", value=["keep", 0]),
    }
    assert graphs.run(prompt)
    (told,) = graphs.listener.of("execution_error")
    assert told["node_id"] == "keep"
    assert told["exception_type"] == "ExecutionBlocked"
    assert told["exception_message"] == "Nothing was found."
    assert (told["traceback"], told["current_inputs"]) == ([], [])
    assert "timestamp" not in told
    kinds = [event for event, _ in graphs.executor.status_messages]
    assert kinds == ["execution_start", "execution_cached", "execution_success"]


def test_only_the_blocked_elements_of_a_list_are_left_out(graphs: Graphs, register: Any) -> None:
    register(Blocks=_blocks(None, when=2))
    prompt = {
        "many": node("Many", value=[1, 2, 3]),
        "b": node("Blocks", value=["many", 0]),
        "add": node("Add", a=["b", 0], b=10),
        "show": node("Show", value=["add", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [11, 13]


def test_one_blocked_element_blocks_a_node_that_takes_lists(graphs: Graphs, register: Any) -> None:
    register(Blocks=_blocks(None, when=2))
    prompt = {
        "many": node("Many", value=[1, 2, 3]),
        "b": node("Blocks", value=["many", 0]),
        "gather": node("Gather", value=["b", 0]),
        "show": node("Show", value=["gather", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.executor.history_result["outputs"] == {}


@pytest.mark.parametrize(
    "returned", [ExecutionBlocker(None), {"result": ExecutionBlocker(None)}], ids=["bare", "dict"]
)
def test_a_bare_blocker_is_on_every_output(graphs: Graphs, register: Any, returned: Any) -> None:
    register(Blocks=node_class(lambda: returned, returns=("*", "*"), OUTPUT_IS_LIST=(True, False)))
    prompt = {
        "b": node("Blocks"),
        "show": node("Show", value=["b", 0]),
        "other": node("Show", value=["b", 1]),
    }
    assert graphs.run(prompt)
    assert graphs.executor.history_result["outputs"] == {}

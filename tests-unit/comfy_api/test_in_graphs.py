"""Schema-style nodes in running graphs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

import nodes
from comfy_api.latest import ComfyAPISync, io, ui
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder
from support.graph_nodes import BASIC, Graphs, node


class _Node(io.ComfyNode):
    """Takes a value, gives a value; what is different stands in the classes below."""

    INPUTS: Sequence[io.Input] = (io.AnyType.Input("value"),)
    SAID: dict[str, Any] = {}  # noqa: RUF012 - read only

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(cls.__name__, inputs=cls.INPUTS, outputs=[io.AnyType.Output()], **cls.SAID)

    @classmethod
    def execute(cls, **given: Any) -> Any:
        return io.NodeOutput(given)


GROWN = io.Autogrow.Input(
    "parts", template=io.Autogrow.TemplatePrefix(io.AnyType.Input("part"), "part", min=1, max=3)
)
CHOICE = io.DynamicCombo.Input(
    "how",
    options=[
        io.DynamicCombo.Option("times", [io.Int.Input("factor")]),
        io.DynamicCombo.Option("same", []),
    ],
)


class Dynamic(_Node):
    """Gives its arguments."""

    INPUTS = (GROWN, CHOICE)


class Lazy(_Node):
    """Asks for the second part only if the first is small."""

    INPUTS = (
        io.Autogrow.Input(
            "parts",
            template=io.Autogrow.TemplateNames(io.AnyType.Input("p", lazy=True), ["a", "b"]),
        ),
    )

    @classmethod
    def check_lazy_status(cls, parts: dict[str, tuple[Any, str]]) -> list[str]:
        first, name = parts["a"]
        if first is None:
            return [name]
        return [parts["b"][1]] if first < 10 else []


class Hidden(_Node):
    """Gives what it knows about its prompt."""

    SAID = {"hidden": [io.Hidden.unique_id, io.Hidden.prompt], "not_idempotent": True}  # noqa: RUF012

    @classmethod
    def execute(cls, value: Any) -> tuple[Any]:
        return ((cls.hidden.unique_id, sorted(cls.hidden.prompt), cls.hidden.dynprompt),)


class Keeping(_Node):
    """Tries to keep something on its class."""

    @classmethod
    def execute(cls, value: Any) -> tuple[Any]:
        cls.kept = value  # type: ignore[attr-defined]
        return (value,)


class Blocking(_Node):
    """Lets no even number through."""

    @classmethod
    def execute(cls, value: int) -> Any:
        return (value,) if value % 2 else ExecutionBlocker(None)


class Waiting(_Node):
    """Waits, then doubles."""

    @classmethod
    async def execute(cls, value: int) -> io.NodeOutput:
        await asyncio.sleep(0.001)
        return io.NodeOutput(value * 2)


class Expanding(_Node):
    """Adds one by a graph of a classic node."""

    SAID = {"enable_expand": True}  # noqa: RUF012

    @classmethod
    def execute(cls, value: int) -> io.NodeOutput:
        graph = GraphBuilder()
        added = graph.node("Add", a=value, b=1)
        return io.NodeOutput(added.out(0), expand=graph.finalize())


class Telling(_Node):
    """Shows a text, and how far it is."""

    SAID = {"is_output_node": True}  # noqa: RUF012

    @classmethod
    def execute(cls, value: str) -> io.NodeOutput:
        ComfyAPISync().execution.set_progress(1, 3)
        return io.NodeOutput(value, ui=ui.PreviewText(value))


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Graphs:
    own = (Dynamic, Lazy, Hidden, Keeping, Blocking, Waiting, Expanding, Telling)
    for name, kind in {**BASIC, **{one.__name__: one for one in own}}.items():
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, name, kind)
    return Graphs()


def show(source: str) -> dict[str, Any]:
    return {"show": node("Show", value=[source, 0])}


def test_values_of_dynamic_inputs_arrive_as_dicts(graphs: Graphs) -> None:
    inputs = {"parts.part0": ["one", 0], "parts.part2": 3, "how": "times", "how.factor": 4}
    prompt = {"one": node("Keep", value=1), "dynamic": node("Dynamic", **inputs)}
    assert graphs.run(prompt | show("dynamic"))
    assert graphs.shown() == [
        {"parts": {"part0": 1, "part2": 3}, "how": {"how": "times", "factor": 4}}
    ]


def test_a_list_in_a_dynamic_input_makes_a_call_per_element(graphs: Graphs) -> None:
    inputs = {"parts.part0": ["many", 0], "how": "same"}
    prompt = {
        "list": node("Keep", value=[1, 2]),
        "many": node("Many", value=["list", 0]),
        "dynamic": node("Dynamic", **inputs),
    }
    assert graphs.run(prompt | show("dynamic"))
    assert [value["parts"] for value in graphs.shown()] == [{"part0": 1}, {"part0": 2}]


@pytest.mark.parametrize(
    ("first", "ran", "parts"),
    [(1, {"a", "b"}, {"a": 1, "b": 20}), (10, {"a"}, {"a": 10, "b": None})],
)
def test_a_lazy_part_runs_only_if_asked_for(
    graphs: Graphs, first: int, ran: set[str], parts: dict[str, int]
) -> None:
    prompt = {
        "a": node("Keep", value=first),
        "b": node("Keep", value=20),
        "lazy": node("Lazy", **{"parts.a": ["a", 0], "parts.b": ["b", 0]}),
    }
    assert graphs.run(prompt | show("lazy"))
    assert set(graphs.ran()) - {"lazy", "show"} == ran
    assert graphs.shown() == [{"parts": parts}]


def test_a_node_knows_its_prompt_during_its_call(graphs: Graphs) -> None:
    assert graphs.run({"7": node("Hidden", value=1)} | show("7"))
    assert graphs.shown() == [("7", ["7", "show"], None)]
    assert Hidden.hidden.unique_id is None


def test_nothing_is_kept_on_the_class(graphs: Graphs) -> None:
    assert not graphs.run({"keeping": node("Keeping", value=1)} | show("keeping"))
    assert "'kept' cannot be set" in graphs.error()["exception_message"]


def test_a_blocked_element_leaves_the_others(graphs: Graphs) -> None:
    prompt = {
        "list": node("Keep", value=[1, 2, 3]),
        "many": node("Many", value=["list", 0]),
        "blocking": node("Blocking", value=["many", 0]),
    }
    assert graphs.run(prompt | show("blocking"))
    assert graphs.shown() == [1, 3]


def test_an_async_node_is_waited_for(graphs: Graphs) -> None:
    assert graphs.run({"waiting": node("Waiting", value=4)} | show("waiting"))
    assert graphs.shown() == [8]


def test_a_graph_stands_for_its_node(graphs: Graphs) -> None:
    assert graphs.run({"expanding": node("Expanding", value=4)} | show("expanding"))
    assert graphs.shown() == [5]


def test_what_a_node_shows_reaches_the_history(graphs: Graphs) -> None:
    assert graphs.run({"telling": node("Telling", value="hello")})
    assert graphs.executor.history_result["outputs"]["telling"] == {"text": ["hello"]}


def test_progress_of_a_blocking_call_is_its_nodes(graphs: Graphs) -> None:
    graphs.run({"telling": node("Telling", value="hello")})
    states = [told["nodes"]["telling"] for told in graphs.listener.of("progress_state")]
    assert (1, 3, "running") in [(one["value"], one["max"], one["state"]) for one in states]

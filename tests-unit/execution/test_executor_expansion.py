"""Nodes that return graphs, in every cache mode."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder
from support.graph_nodes import Graphs, meeting, node, node_class

LOOP = 300


def _expands(build: Any, *inputs: str, **attributes: Any) -> type[Any]:
    """A node whose graph `build(graph, **inputs)` makes; it returns the outputs."""

    def run(**given: Any) -> dict[str, Any]:
        graph = GraphBuilder()
        outputs = build(graph, **given)
        return {"result": tuple(outputs), "expand": graph.finalize()}

    return node_class(run, *inputs, **attributes)


def _adds(graph: GraphBuilder, a: Any, b: Any) -> list[Any]:
    return [graph.node("Add", a=a, b=graph.node("Keep", value=b).out(0)).out(0)]


def _prompt(**inputs: Any) -> dict[str, Any]:
    return {"e": node("Expands", **inputs), "show": node("Show", value=["e", 0])}


def test_a_graph_runs_in_the_place_of_its_node(graphs: Graphs, register: Any) -> None:
    register(Expands=_expands(_adds, "a", "b"))
    assert graphs.run(_prompt(a=1, b=2))
    assert graphs.shown() == [3]
    assert graphs.ran() == ["e", "e.0.0.1", "e.0.0.2", "show"]
    displayed = {one["node"]: one["display_node"] for one in graphs.listener.of("executing")}
    assert displayed["e.0.0.2"] == "e"
    state = graphs.listener.of("progress_state")[-1]["nodes"]["e.0.0.1"]
    assert (state["display_node_id"], state["parent_node_id"], state["real_node_id"]) == ("e",) * 3


def test_an_expansion_that_ran_before_does_not_run(
    graphs: Graphs, register: Any, keeps: bool
) -> None:
    register(Expands=_expands(_adds, "a", "b"))
    graphs.run(_prompt(a=1, b=2))
    graphs.run(_prompt(a=1, b=2))
    assert graphs.ran() == ([] if keeps else ["e", "e.0.0.1", "e.0.0.2", "show"])


def test_unchanged_nodes_of_an_expansion_keep_their_results(
    graphs: Graphs, register: Any, keeps: bool
) -> None:
    register(Expands=_expands(_adds, "a", "b"))
    graphs.run(_prompt(a=1, b=2))
    graphs.run(_prompt(a=5, b=2))
    assert graphs.shown() == [7]
    kept = [] if keeps else ["e.0.0.1"]
    assert graphs.ran() == ["e", *kept, "e.0.0.2", "show"]


def test_links_of_the_expanded_node_reach_into_the_graph(graphs: Graphs, register: Any) -> None:
    register(Expands=_expands(_adds, "a", "b", options={"a": {"rawLink": True}}))
    prompt = {"one": node("Keep", value=1), **_prompt(a=["one", 0], b=2)}
    assert graphs.run(prompt)
    assert graphs.shown() == [3]
    assert graphs.ran().count("one") == 1


def test_a_node_of_a_graph_may_say_nothing_of_inputs(graphs: Graphs, register: Any) -> None:
    def run() -> dict[str, Any]:
        return {"result": (["made", 0],), "expand": {"made": {"class_type": "One"}}}

    register(One=node_class(lambda: (1,)), Expands=node_class(run))
    assert graphs.run(_prompt())
    assert graphs.shown() == [1]


def test_graphs_that_nodes_build_in_threads_of_their_own_have_ids_of_their_own(
    graphs: Graphs, register: Any
) -> None:
    def run(value: Any) -> dict[str, Any]:
        with ThreadPoolExecutor(1) as threads:
            graph = threads.submit(GraphBuilder).result()
        return {"result": tuple(_adds(graph, value, 1)), "expand": graph.finalize()}

    register(Expands=node_class(run, "value"))
    other = {"other": node("Expands", value=["e", 0]), "show": node("Show", value=["other", 0])}
    assert graphs.run({**_prompt(value=1), **other})
    assert graphs.shown() == [3]
    assert "other.0.0.2" in graphs.ran()


def test_output_nodes_of_a_graph_run_and_are_shown_at_the_expanded_one(
    graphs: Graphs, register: Any
) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        graph.node("Show", "inner", value=value)
        return [value]

    register(Expands=_expands(build, "value"))
    assert graphs.run(_prompt(value=4))
    assert graphs.shown("e.0.0.inner") == [4]
    meta = graphs.executor.history_result["meta"]["e.0.0.inner"]
    assert meta == {
        "node_id": "e.0.0.inner",
        "display_node": "e",
        "parent_node": "e",
        "real_node_id": "e",
    }


def test_a_node_may_be_shown_elsewhere(graphs: Graphs, register: Any) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        inner = graph.node("Keep", value=value)
        inner.set_override_display_id("show")
        return [inner.out(0)]

    register(Expands=_expands(build, "value"))
    assert graphs.run(_prompt(value=4))
    displayed = {one["node"]: one["display_node"] for one in graphs.listener.of("executing")}
    assert displayed["e.0.0.1"] == "show"


def test_graphs_and_plain_results_mix_over_a_list(graphs: Graphs, register: Any) -> None:
    def run(value: int) -> Any:
        if value % 2:
            return (value,)
        graph = GraphBuilder()
        return {"result": (graph.node("Add", a=value, b=100).out(0),), "expand": graph.finalize()}

    register(Expands=node_class(run, "value"))
    prompt = {"many": node("Many", value=[1, 2, 3, 4]), **_prompt(value=["many", 0])}
    assert graphs.run(prompt)
    assert graphs.shown() == [1, 102, 3, 104]
    assert {"e.1.0.1", "e.3.0.1"} <= set(graphs.ran())


def test_lists_from_within_a_graph_are_joined(graphs: Graphs, register: Any) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        return [graph.node("Many", value=value).out(0)]

    register(Expands=_expands(build, "value", OUTPUT_IS_LIST=(True,)))
    prompt = {"many": node("Many", value=[[1, 2], [3]]), **_prompt(value=["many", 0])}
    assert graphs.run(prompt)
    assert graphs.shown() == [1, 2, 3]


def test_what_the_page_is_shown_comes_before_the_graph_runs(graphs: Graphs, register: Any) -> None:
    def run(value: Any) -> dict[str, Any]:
        graph = GraphBuilder()
        inner = graph.node("Keep", value=value)
        return {"ui": {"t": [1]}, "result": (inner.out(0),), "expand": graph.finalize()}

    register(Expands=node_class(run, "value"))
    assert graphs.run(_prompt(value=4))
    told = [
        data["node"]
        for event, data, _ in graphs.listener.told
        if event in ("executed", "executing")
    ]
    assert told == ["e", "e", "e.0.0.1", "show", "show"]
    assert graphs.executor.history_result["outputs"]["e"] == {"t": [1]}


def test_a_node_may_expand_to_itself_many_times(graphs: Graphs, register: Any) -> None:
    def build(graph: GraphBuilder, value: Any, left: Any) -> list[Any]:
        if left == 0:
            return [value]
        more = graph.node("Add", a=value, b=1)
        return [graph.node("Expands", value=more.out(0), left=left - 1).out(0)]

    register(Expands=_expands(build, "value", "left"))
    assert graphs.run(_prompt(value=0, left=LOOP))
    assert graphs.shown() == [LOOP]
    assert {one["display_node"] for one in graphs.listener.of("executing")} == {"e", "show"}


def test_a_graph_of_thousands_of_nodes_runs(classic: Graphs, register: Any) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        last: Any = value
        for _ in range(2000):
            last = graph.node("Add", a=last, b=1).out(0)
        return [last]

    register(Expands=_expands(build, "value"))
    assert classic.run(_prompt(value=0))
    assert classic.shown() == [2000]


def test_an_error_in_a_graph_is_told_of_the_node_the_user_knows(
    graphs: Graphs, register: Any
) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        return [graph.node("Add", a=1, b="text").out(0)]

    register(Expands=_expands(build, "value"))
    assert not graphs.run(_prompt(value=4))
    assert graphs.error()["node_id"] == "e"
    assert graphs.error()["node_type"] == "Expands"
    assert graphs.error()["exception_type"] == "TypeError"


def test_a_cycle_that_grows_is_told_of_the_node_that_made_it(graphs: Graphs, register: Any) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        first = graph.node("Keep", "first", value=value)
        second = graph.node("Keep", "second", value=first.out(0))
        first.set_input("value", second.out(0))
        return [second.out(0)]

    register(Expands=_expands(build, "value"))
    assert not graphs.run(_prompt(value=4))
    assert graphs.error()["node_id"] == "e"
    assert graphs.error()["exception_type"].endswith("graph.DependencyCycleError")
    assert "first" in graphs.error()["exception_message"]


@pytest.mark.parametrize("shown", ["e", "after"])
def test_a_graph_that_waits_for_its_own_consumer_is_a_cycle(
    graphs: Graphs, register: Any, shown: str
) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        return [graph.node("Keep", value=["after", 0]).out(0)]

    register(Expands=_expands(build, "value"))
    prompt = {
        "e": node("Expands", value=1),
        "after": node("Keep", value=["e", 0]),
        "show": node("Show", value=[shown, 0]),
    }
    assert not graphs.run(prompt)
    assert graphs.error()["node_id"] == "e"


@pytest.mark.parametrize(
    ("graph", "result", "kind"),
    [
        ({"show": node("Keep", value=1)}, 1, "DuplicateNodeError"),
        ({"new": node("Keep", value=["nowhere", 0])}, ["new", 0], "NodeNotFoundError"),
        ({"new": node("NoSuchClass", value=1)}, ["new", 0], "NodeNotFoundError"),
        ({"new": node("Keep", value=1)}, ["new", 9], "NodeInputError"),
    ],
    ids=["a taken id", "a link to nowhere", "an unknown class", "no such output"],
)
def test_a_graph_that_is_not_sound_is_an_error_of_its_node(
    classic: Graphs, register: Any, graph: Any, result: Any, kind: str
) -> None:
    register(Expands=node_class(lambda value: {"result": (result,), "expand": graph}, "value"))
    assert not classic.run(_prompt(value=1))
    assert classic.error()["node_id"] == "e"
    assert classic.error()["exception_type"].split(".")[-1] == kind


def test_blockers_pass_through_a_graph(graphs: Graphs, register: Any) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        return [graph.node("Blocks", value=value).out(0)]

    register(
        Expands=_expands(build, "value"),
        Blocks=node_class(lambda value: (ExecutionBlocker(None),), "value"),
    )
    assert graphs.run(_prompt(value=1))
    assert graphs.executor.history_result["outputs"] == {}


def test_async_nodes_of_a_graph_overlap(graphs: Graphs, register: Any) -> None:
    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        first, second = (graph.node("Meets", value=value + one) for one in (1, 2))
        return [graph.node("Add", a=first.out(0), b=second.out(0)).out(0)]

    register(Expands=_expands(build, "value"), Meets=meeting(2))
    assert graphs.run(_prompt(value=0))
    assert graphs.shown() == [3]


def test_async_calls_that_wait_first_give_out_their_own_ids(graphs: Graphs, register: Any) -> None:
    async def run(value: Any) -> dict[str, Any]:
        await asyncio.sleep(0.001)
        graph = GraphBuilder()
        inner = graph.node("Add", a=value, b=1)
        return {"result": (inner.out(0),), "expand": graph.finalize()}

    register(Expands=node_class(run, "value"))
    prompt = {
        "many": node("Many", value=[1, 2]),
        "f": node("Expands", value=5),
        "other": node("Show", value=["f", 0]),
        **_prompt(value=["many", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [2, 3]
    assert {"e.0.0.1", "e.1.0.1", "f.0.0.1"} <= set(graphs.ran())


def test_objects_of_expanded_nodes_are_kept_with_their_parent(
    classic: Graphs, register: Any
) -> None:
    made: list[str] = []

    class Inner:
        RETURN_TYPES = ("*",)
        FUNCTION = "run"
        CATEGORY = "tests"

        def __init__(self) -> None:
            made.append("one")

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"value": ("*",)}}

        def run(self, value: Any) -> tuple[Any]:
            return (value,)

    def build(graph: GraphBuilder, value: Any) -> list[Any]:
        return [graph.node("Inner", value=value).out(0)]

    register(Expands=_expands(build, "value"), Inner=Inner)
    for value in (1, 2):
        classic.run(_prompt(value=value))
    assert made == ["one"]
    classic.run({"show": node("Show", value=1)})
    classic.run(_prompt(value=3))
    assert made == ["one", "one"]


def test_a_node_may_expand_again_if_its_result_was_let_go(
    graphs: Graphs, register: Any, keeps: bool
) -> None:
    def asks(self: Any, on: Any, value: Any = None) -> list[str]:
        return ["value"]

    register(
        Expands=_expands(_adds, "a", "b"),
        Late=node_class(
            lambda on, value: ((on, value),),
            "on",
            "value",
            options={"value": {"lazy": True}},
            check_lazy_status=asks,
        ),
    )
    prompt = {
        "e": node("Expands", a=1, b=2),
        "first": node("Keep", value=["e", 0]),
        "late": node("Late", on=["first", 0], value=["e", 0]),
        "show": node("Show", value=["late", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [(3, 3)]
    assert graphs.ran().count("e") == (1 if keeps else 2)


def test_two_calls_may_not_add_the_same_id(classic: Graphs, register: Any) -> None:
    graph = {"new": node("Keep", value=1)}
    register(Expands=node_class(lambda value: {"result": (["new", 0],), "expand": graph}, "value"))
    prompt = {"many": node("Many", value=[1, 2]), **_prompt(value=["many", 0])}
    assert not classic.run(prompt)
    assert "'new'" in classic.error()["exception_message"]

"""The order of nodes, and prompts that grow."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from comfy_execution.graph import (
    DependencyCycleError,
    DynamicPrompt,
    ExecutionList,
    NodeInputError,
    NodeNotFoundError,
    TopologicalSort,
    get_input_info,
)
from support.graph_nodes import BASIC, node, node_class

LAZY = node_class(lambda **_: (1,), "now", "later", options={"later": {"lazy": True}})


async def _sleeps(value: Any) -> tuple[Any]:
    return (value,)


CLASSES = {**BASIC, "Lazy": LAZY, "Async": node_class(_sleeps, "value")}

DIAMOND = {
    "top": node("Keep", value=1),
    "left": node("Keep", value=["top", 0]),
    "right": node("Keep", value=["top", 0]),
    "add": node("Add", a=["left", 0], b=["right", 0]),
}


class _Nothing:
    """A cache in which nothing is."""

    def get(self, node_id: str) -> None:
        return None


def _order(prompt: dict[str, Any], *outputs: str) -> list[str]:
    async def walk() -> list[str]:
        steps = ExecutionList(DynamicPrompt(prompt, CLASSES), _Nothing())
        for output in outputs:
            steps.add_node(output)
        order = []
        while (node_id := await steps.next_node()) is not None:
            order.append(node_id)
            steps.pop_node(node_id)
        return order

    return asyncio.run(walk())


# -- DynamicPrompt ---------------------------------------------------------------------------------


def test_an_added_node_knows_where_it_came_from() -> None:
    prompt = DynamicPrompt({"1": node("Keep", value=1)})
    prompt.add_ephemeral_node("1.a", node("Keep", value=2), "1", "1")
    prompt.add_ephemeral_node("1.a.b", node("Keep", value=3), "1.a", "1.a")
    assert prompt.get_node("1.a.b")["inputs"] == {"value": 3}
    assert prompt.get_real_node_id("1.a.b") == prompt.get_display_node_id("1.a.b") == "1"
    assert prompt.get_parent_node_id("1.a.b") == "1.a"
    assert prompt.get_parent_node_id("1") is None
    assert prompt.has_node("1.a")
    assert not prompt.has_node("2")
    assert prompt.all_node_ids() == {"1", "1.a", "1.a.b"}
    assert prompt.get_original_prompt() == {"1": node("Keep", value=1)}


def test_a_missing_node_is_an_error_with_its_id() -> None:
    with pytest.raises(NodeNotFoundError, match="'7'"):
        DynamicPrompt({}).get_node("7")


def test_inputs_are_looked_up_in_their_section() -> None:
    found = node_class(
        lambda **_: (1,),
        "need",
        optional=["may"],
        hidden={"me": "UNIQUE_ID"},
        options={"need": {"min": 1}},
    )
    assert get_input_info(found, "need") == ("*", "required", {"min": 1})
    assert get_input_info(found, "may") == ("*", "optional", {})
    assert get_input_info(found, "me") == ("UNIQUE_ID", "hidden", {})
    assert get_input_info(found, "none") == (None, None, None)
    assert get_input_info(found, "x", {"required": {"x": ("INT",)}}) == ("INT", "required", {})


# -- TopologicalSort -------------------------------------------------------------------------------


def test_a_sort_knows_who_waits_for_whom() -> None:
    sort = TopologicalSort(DynamicPrompt(DIAMOND))
    sort.add_node("add")
    assert list(sort.pendingNodes) == ["add", "left", "top", "right"]
    assert sort.blockCount == {"add": 2, "left": 1, "right": 1, "top": 0}
    assert sort.blocking["top"] == {"left": {0: True}, "right": {0: True}}
    assert sort.get_ready_nodes() == ["top"]
    sort.pop_node("top")
    assert sort.get_ready_nodes() == ["left", "right"]
    for node_id in ("left", "right", "add"):
        assert not sort.is_empty()
        sort.pop_node(node_id)
    assert sort.is_empty()


def test_lazy_inputs_are_not_waited_for_until_asked_for() -> None:
    prompt = {
        "a": node("Keep", value=1),
        "b": node("Keep", value=2),
        "lazy": node("Lazy", now=["a", 0], later=["b", 1]),
    }
    sort = TopologicalSort(DynamicPrompt(prompt, CLASSES))
    sort.add_node("lazy")
    assert set(sort.pendingNodes) == {"lazy", "a"}
    sort.make_input_strong_link("lazy", "later")
    assert sort.blocking["b"] == {"lazy": {1: True}}
    assert sort.blockCount["lazy"] == 2
    eager = TopologicalSort(DynamicPrompt(prompt, CLASSES))
    eager.add_node("lazy", include_lazy=True)
    assert set(eager.pendingNodes) == {"lazy", "a", "b"}


@pytest.mark.parametrize("name", ["constant", "absent"])
def test_only_links_can_be_waited_for(name: str) -> None:
    sort = TopologicalSort(DynamicPrompt({"n": node("Keep", constant=1)}))
    sort.add_node("n")
    with pytest.raises(NodeInputError, match=name):
        sort.make_input_strong_link("n", name)


def test_a_sort_may_stay_within_some_nodes() -> None:
    sort = TopologicalSort(DynamicPrompt(DIAMOND))
    sort.add_node("add", subgraph_nodes=["left", "right"])
    assert set(sort.pendingNodes) == {"add", "left", "right"}


def test_a_link_to_nowhere_is_an_error() -> None:
    sort = TopologicalSort(DynamicPrompt({"n": node("Keep", value=["gone", 0])}))
    with pytest.raises(NodeNotFoundError, match="gone"):
        sort.add_node("n")


# -- ExecutionList ---------------------------------------------------------------------------------


def test_the_first_added_of_the_ready_nodes_comes_first() -> None:
    assert _order(DIAMOND, "add") == ["top", "left", "right", "add"]


def test_outputs_and_async_nodes_come_first_then_what_leads_to_them() -> None:
    prompt = {
        "far": node("Keep", value=1),
        "far2": node("Keep", value=["far", 0]),
        "far3": node("Keep", value=["far2", 0]),
        "late": node("Show", value=["far3", 0]),
        "two": node("Keep", value=2),
        "one": node("Keep", value=["two", 0]),
        "near": node("Show", value=["one", 0]),
        "direct": node("Keep", value=3),
        "soon": node("Show", value=["direct", 0]),
        "at once": node("Async", value=4),
        "last": node("Show", value=["at once", 0]),
    }
    order = _order(prompt, "late", "near", "soon", "last")
    assert order == [
        "at once",
        "last",
        "direct",
        "soon",
        "two",
        "one",
        "near",
        "far",
        "far2",
        "far3",
        "late",
    ]


def test_nodes_that_wait_for_each_other_are_named_in_the_order_of_their_links() -> None:
    prompt = {
        "a": node("Keep", value=["c", 0]),
        "b": node("Keep", value=["a", 0]),
        "c": node("Keep", value=["b", 0]),
        "out": node("Show", value=["c", 0]),
    }
    with pytest.raises(DependencyCycleError) as caught:
        _order(prompt, "out")
    ring = caught.value.node_ids
    start = ring.index("a")
    assert ring[start:] + ring[:start] == ["a", "b", "c"]


def test_a_result_is_held_until_its_last_consumer_has_run() -> None:
    async def walk() -> None:
        steps = ExecutionList(DynamicPrompt(DIAMOND, CLASSES), _Nothing())
        steps.add_node("add")
        steps.cache_update("top", "result")
        steps.pop_node("top")
        steps.pop_node("left")
        assert steps.get_cache("top", "right") == "result"
        steps.pop_node("right")
        assert steps.get_cache("top", "right") is None

    asyncio.run(walk())


def test_a_result_is_held_though_the_cache_has_dropped_it() -> None:
    class Once(dict[str, Any]):
        pass

    async def walk() -> None:
        cache = Once(top="result")
        steps = ExecutionList(DynamicPrompt(DIAMOND, CLASSES), cache)
        steps.add_node("add")
        assert "top" not in steps.pendingNodes
        cache.clear()
        assert steps.get_cache("top", "left") == "result"

    asyncio.run(walk())


def test_a_parked_node_is_not_taken_until_it_is_woken() -> None:
    async def walk() -> None:
        steps = ExecutionList(DynamicPrompt(DIAMOND, CLASSES), _Nothing())
        steps.add_node("top")
        assert await steps.next_node() == "top"
        wake = steps.park("top")
        steps.put_back("top")
        assert steps.parked_nodes() == ["top"]
        asyncio.get_running_loop().call_later(0.01, wake)
        assert await steps.next_node() == "top"
        assert steps.parked_nodes() == []

    asyncio.run(walk())

"""Links, the builder of graphs, blockers."""

from __future__ import annotations

import contextvars
from typing import Any

import numpy as np
import pytest

import comfy_execution.graph
from comfy_execution.graph_utils import ExecutionBlocker, GraphBuilder, add_graph_prefix, is_link


@pytest.mark.parametrize("value", [["1", 0], ["4.0.0.1", 1.0], ["", 2]])
def test_a_link_is_a_list_of_an_id_and_a_number(value: Any) -> None:
    assert is_link(value)


@pytest.mark.parametrize(
    "value", [("1", 0), ["1"], ["1", 0, 0], [1, 0], ["1", "0"], ["1", None], "1", None, {}]
)
def test_nothing_else_is_a_link(value: Any) -> None:
    assert not is_link(value)


def test_a_graph_is_written_as_it_stands_in_a_prompt() -> None:
    graph = GraphBuilder(prefix="p.")
    first = graph.node("Load", name="x", nothing=None)
    second = graph.node("Use", "named", image=first.out(1))
    second.set_override_display_id("9")
    second.set_input("gone", 1)
    second.set_input("gone", None)
    assert second.get_input("image") == ["p.1", 1]
    assert second.get_input("gone") is None
    assert graph.finalize() == {
        "p.1": {"class_type": "Load", "inputs": {"name": "x", "nothing": None}},
        "p.named": {
            "class_type": "Use",
            "inputs": {"image": ["p.1", 1]},
            "override_display_id": "9",
        },
    }


def test_the_same_name_gives_the_same_node() -> None:
    graph = GraphBuilder("p.")
    node = graph.node("Load", "a", x=1)
    assert graph.node("Other", "a", x=2) is node
    assert node.class_type == "Load"
    assert graph.lookup_node("a") is node
    assert graph.lookup_node("b") is None


def test_links_to_an_output_are_replaced_or_taken_away() -> None:
    graph = GraphBuilder("p.")
    first = graph.node("Load", "a")
    second = graph.node("Use", "b", x=first.out(0), y=first.out(1), z=3)
    graph.replace_node_output("a", 0, ["other", 5])
    graph.replace_node_output("a", 1, None)
    assert second.inputs == {"x": ["other", 5], "z": 3}
    graph.remove_node("a")
    assert list(graph.nodes) == ["p.b"]


def test_arrays_among_the_inputs_are_no_links() -> None:
    graph = GraphBuilder("p.")
    values = np.zeros(2)
    second = graph.node("Use", "b", x=graph.node("Load", "a").out(0), values=values)
    graph.replace_node_output("a", 0, 7)
    assert second.inputs["x"] == 7
    assert second.inputs["values"] is values


def _in_a_call(function: Any) -> Any:
    return contextvars.copy_context().run(function)


def test_builders_of_one_call_have_prefixes_of_their_own() -> None:
    def call() -> list[str]:
        GraphBuilder.set_default_prefix("7", 2)
        return [GraphBuilder().prefix, GraphBuilder().prefix]

    assert _in_a_call(call) == ["7.2.0.", "7.2.1."]


def test_a_prefix_may_be_made_by_hand() -> None:
    def call() -> list[str]:
        GraphBuilder.set_default_prefix("7", 2, 5)
        return [GraphBuilder.alloc_prefix("r", 1, 9), GraphBuilder.alloc_prefix()]

    assert _in_a_call(call) == ["r.1.9.", "7.2.6."]


def test_a_graph_is_copied_under_other_ids() -> None:
    graph = {
        "a": {"class_type": "Load", "inputs": {"name": "x"}},
        "b": {"class_type": "Use", "inputs": {"image": ["a", 0]}, "override_display_id": "3"},
    }
    copied, outputs = add_graph_prefix(graph, [["b", 1], "constant"], "p.")
    assert copied == {
        "p.a": {"class_type": "Load", "inputs": {"name": "x"}},
        "p.b": {"class_type": "Use", "inputs": {"image": ["p.a", 0]}, "override_display_id": "3"},
    }
    assert outputs == (["p.b", 1], "constant")
    assert graph["b"]["inputs"] == {"image": ["a", 0]}


def test_a_blocker_has_its_message_and_two_addresses() -> None:
    assert ExecutionBlocker("why").message == "why"
    assert comfy_execution.graph.ExecutionBlocker is ExecutionBlocker

"""Mapping over lists and special attributes of classic nodes, in every cache mode."""

from __future__ import annotations

from typing import Any

import pytest

from execution import CacheType
from support.graph_nodes import Graphs, node, node_class


def test_a_node_is_called_for_each_element_and_the_last_one_is_used_again(graphs: Graphs) -> None:
    prompt = {
        "long": node("Many", value={"__value__": [1, 2, 3]}),
        "short": node("Many", value={"__value__": [10, 20]}),
        "add": node("Add", a=["long", 0], b=["short", 0]),
        "show": node("Show", value=["add", 0]),
    }
    for name in ("long", "short"):
        prompt[name]["inputs"]["value"] = prompt[name]["inputs"]["value"]["__value__"]
    assert graphs.run(prompt)
    assert graphs.shown() == [11, 22, 23]


def test_a_node_that_takes_lists_is_called_once_with_all_of_them(
    graphs: Graphs, register: Any
) -> None:
    seen: list[Any] = []

    def run(**inputs: Any) -> tuple[Any]:
        seen.append(inputs)
        return (len(inputs["value"]),)

    register(
        Whole=node_class(run, "value", "other", hidden={"me": "UNIQUE_ID"}, INPUT_IS_LIST=True)
    )
    prompt = {
        "many": node("Many", value=[1, 2, 3]),
        "whole": node("Whole", value=["many", 0], other="x"),
        "show": node("Show", value=["whole", 0]),
    }
    assert graphs.run(prompt)
    assert seen == [{"value": [1, 2, 3], "other": ["x"], "me": ["whole"]}]
    assert graphs.shown() == [3]


def test_a_node_without_inputs_is_called_once(graphs: Graphs, register: Any) -> None:
    register(Five=node_class(lambda: (5,)))
    assert graphs.run({"five": node("Five"), "show": node("Show", value=["five", 0])})
    assert graphs.shown() == [5]


def test_a_node_whose_lists_are_all_empty_is_called_once_without_arguments(
    graphs: Graphs, register: Any
) -> None:
    register(Perhaps=node_class(lambda value="nothing": (value,), "value"))
    prompt = {
        "many": node("Many", value=[]),
        "perhaps": node("Perhaps", value=["many", 0]),
        "show": node("Show", value=["perhaps", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == ["nothing"]


def test_one_empty_list_beside_values_is_told_with_its_input(graphs: Graphs) -> None:
    prompt = {
        "many": node("Many", value=[]),
        "add": node("Add", a=["many", 0], b=1),
        "show": node("Show", value=["add", 0]),
    }
    assert not graphs.run(prompt)
    assert "'a'" in graphs.error()["exception_message"]


def test_lists_of_several_calls_are_joined(graphs: Graphs, register: Any) -> None:
    register(
        Twice=node_class(
            lambda value: ([value, value], value),
            "value",
            returns=("*", "*"),
            OUTPUT_IS_LIST=(True, False),
        )
    )
    prompt = {
        "many": node("Many", value=[1, 2]),
        "twice": node("Twice", value=["many", 0]),
        "show": node("Show", value=["twice", 0]),
        "other": node("Show", value=["twice", 1]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [1, 1, 2, 2]
    assert graphs.shown("other") == [1, 2]


def test_what_the_page_is_shown_is_joined_by_the_keys_of_the_first_call(
    graphs: Graphs, register: Any
) -> None:
    def run(value: int) -> dict[str, Any]:
        return {"ui": {"first": [value]} if value == 1 else {"first": [value], "more": [value]}}

    register(Shows=node_class(run, "value", returns=(), OUTPUT_NODE=True))
    prompt = {"many": node("Many", value=[1, 2]), "shows": node("Shows", value=["many", 0])}
    assert graphs.run(prompt)
    assert graphs.executor.history_result["outputs"]["shows"] == {"first": [1, 2]}


@pytest.mark.parametrize("returned", [None, {}, {"ui": {}}])
def test_an_output_node_may_return_nothing(graphs: Graphs, register: Any, returned: Any) -> None:
    register(Quiet=node_class(lambda: returned, returns=(), OUTPUT_NODE=True))
    assert graphs.run({"quiet": node("Quiet")})
    assert graphs.executor.history_result == {"outputs": {}, "meta": {}}


def test_none_where_outputs_are_declared_is_an_error(graphs: Graphs, register: Any) -> None:
    register(Forgets=node_class(lambda: None))
    assert not graphs.run({"f": node("Forgets"), "show": node("Show", value=["f", 0])})
    assert graphs.error()["exception_type"] == "TypeError"


def test_undeclared_links_are_waited_for_and_passed(graphs: Graphs, register: Any) -> None:
    register(Takes=node_class(lambda **all_of_it: (sorted(all_of_it.items()),), "value"))
    prompt = {
        "one": node("Keep", value=1),
        "takes": node("Takes", value=0, extra=["one", 0], dropped="constant"),
        "show": node("Show", value=["takes", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [[("extra", 1), ("value", 0)]]


def test_a_raw_link_is_passed_as_it_is(graphs: Graphs, register: Any) -> None:
    register(Raw=node_class(lambda value: (value,), "value", options={"value": {"rawLink": True}}))
    prompt = {
        "one": node("Keep", value=1),
        "raw": node("Raw", value=["one", 0]),
        "show": node("Show", value=["raw", 0]),
    }
    assert graphs.run(prompt)
    assert graphs.shown() == [["one", 0]]


def test_a_slot_that_is_not_there_gives_none(graphs: Graphs) -> None:
    prompt = {"one": node("Keep", value=1), "show": node("Show", value=["one", 7])}
    assert graphs.run(prompt)
    assert graphs.shown() == [None]


def test_an_object_keeps_what_it_remembers_while_its_id_stays(
    graphs: Graphs, register: Any
) -> None:
    class Counts:
        RETURN_TYPES = ("INT",)
        FUNCTION = "run"
        CATEGORY = "tests"

        def __init__(self) -> None:
            self.calls = 0

        @classmethod
        def INPUT_TYPES(cls) -> dict[str, Any]:
            return {"required": {"value": ("*",)}}

        def run(self, value: Any) -> tuple[int]:
            self.calls += 1
            return (self.calls,)

    register(Counts=Counts)

    def prompt(node_id: str, value: int) -> dict[str, Any]:
        return {node_id: node("Counts", value=value), "show": node("Show", value=[node_id, 0])}

    counts = []
    for node_id, value in (("a", 1), ("a", 2), ("b", 3)):
        assert graphs.run(prompt(node_id, value))
        counts += graphs.shown()
    is_kept = graphs.executor.cache_type != CacheType.NONE
    assert counts == ([1, 2, 1] if is_kept else [1, 1, 1])


def test_hidden_inputs_get_what_their_type_names(graphs: Graphs, register: Any) -> None:
    seen: dict[str, Any] = {}
    hidden = {
        "p": "PROMPT",
        "d": "DYNPROMPT",
        "i": "EXTRA_PNGINFO",
        "u": "UNIQUE_ID",
        "t": "AUTH_TOKEN_COMFY_ORG",
        "k": "API_KEY_COMFY_ORG",
        "own": "SOMETHING",
        "absent": "SOMETHING",
    }
    register(
        Sees=node_class(lambda **got: seen.update(got), hidden=hidden, returns=(), OUTPUT_NODE=True)
    )
    prompt = {"7": node("Sees", own="given")}
    assert graphs.run(prompt, extra_pnginfo={"workflow": 1}, auth_token_comfy_org="secret")
    assert seen["p"] is prompt
    assert seen["d"].get_original_prompt() is prompt
    assert seen["d"].get_node("7") is prompt["7"]
    del seen["p"], seen["d"]
    assert seen == {"i": {"workflow": 1}, "u": "7", "t": "secret", "k": None, "own": "given"}

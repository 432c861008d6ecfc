"""Graphs that cannot run: nodes that raise, links to nowhere, cycles; and which outputs need them."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.prompts import check, node, node_class, only_error

SOURCE = node_class({"value": ("INT", {"min": 0, "max": 100})}, returns=("INT", "STRING"))
SINK = node_class({"value": ("INT", {"min": 0})}, returns=(), OUTPUT_NODE=True)
CLASSES: dict[str, Any] = {"Source": SOURCE, "Sink": SINK}


def _picky(function: Any, **specs: Any) -> dict[str, Any]:
    kind = node_class(specs, OUTPUT_NODE=True, VALIDATE_INPUTS=classmethod(function))
    return {**CLASSES, "Picky": kind}


# -- what raises -----------------------------------------------------------------------------------


def _raising(cls: Any, value: int) -> bool:
    raise RuntimeError("the disk is on fire")


def _reading(cls: Any, value: int) -> bool:
    return bool(json.loads("{"))


def test_an_output_node_that_raises_is_told() -> None:
    told = only_error({"2": node("Picky", value=1)}, _picky(_raising, value=("INT",)))
    assert told["type"] == "exception_during_validation"
    assert told["details"] == "the disk is on fire"
    info = told["extra_info"]
    assert "_raising" in "".join(info.pop("traceback"))
    assert info == {"exception_type": "RuntimeError"}


def test_a_node_below_an_output_that_raises_is_told_at_that_node() -> None:
    source = node_class({"value": ("INT",)}, VALIDATE_INPUTS=classmethod(_raising))
    prompt = {"1": node("Source", value=1), "2": node("Sink", value=["1", 0])}
    told = only_error(prompt, {"Source": source, "Sink": SINK}, "1")
    assert told["type"] == "exception_during_inner_validation"
    assert told["details"] == "the disk is on fire"
    info = told["extra_info"]
    assert "_raising" in "".join(info.pop("traceback"))
    assert info == {
        "input_name": "value",
        "input_config": ["INT", {"min": 0}],
        "exception_message": "the disk is on fire",
        "exception_type": "RuntimeError",
        "linked_node": ["1", 0],
    }


def test_types_of_foreign_exceptions_have_their_module() -> None:
    source = node_class({"value": ("INT",)}, VALIDATE_INPUTS=classmethod(_reading))
    prompt = {"1": node("Source", value=1), "2": node("Sink", value=["1", 0])}
    told = only_error(prompt, {"Source": source, "Sink": SINK}, "1")
    assert told["extra_info"]["exception_type"] == "json.decoder.JSONDecodeError"


def test_a_link_to_nowhere_in_an_output_is_told_at_the_output() -> None:
    told = only_error({"2": node("Sink", value=["99", 0])}, CLASSES)
    assert (told["type"], told["details"]) == ("exception_during_validation", "'99'")
    assert told["extra_info"]["exception_type"] == "KeyError"


def test_a_link_to_nowhere_further_up_is_told_at_the_node_that_holds_it() -> None:
    classes = {**CLASSES, "Next": node_class({"value": ("INT",)})}
    prompt = {"1": node("Next", value=["99", 0]), "2": node("Sink", value=["1", 0])}
    told = only_error(prompt, classes, "1")
    assert (told["type"], told["details"]) == ("exception_during_inner_validation", "'99'")
    assert told["extra_info"]["linked_node"] == ["1", 0]


def test_a_link_to_nowhere_in_one_of_two_outputs_leaves_the_other() -> None:
    prompt = {"2": node("Sink", value=["99", 0]), "3": node("Sink", value=1)}
    valid, error, good, node_errors = check(prompt, CLASSES)
    assert (valid, error, good, list(node_errors)) == (True, None, ["3"], ["2"])


@pytest.mark.parametrize("slot", [2, -1, 0.5, "0", None])
def test_a_link_to_an_output_that_its_node_lacks_is_told(slot: Any) -> None:
    prompt = {"1": node("Source", value=1), "2": node("Sink", value=["1", slot])}
    told = only_error(prompt, CLASSES)
    assert told["type"] == "exception_during_validation"
    assert told["details"].startswith(f"Node 1 (Source) has no output {slot!r}: it has 2")


@pytest.mark.parametrize("source", [1, None, ["1"]])
def test_a_link_whose_id_is_no_text_is_told(source: Any) -> None:
    prompt = {"1": node("Source", value=1), "2": node("Sink", value=[source, 0])}
    assert only_error(prompt, CLASSES)["type"] == "exception_during_validation"


def test_a_class_whose_inputs_cannot_be_listed_is_told() -> None:
    def broken(cls: Any) -> Any:
        raise OSError("no such drive")

    kind = node_class(OUTPUT_NODE=True, INPUT_TYPES=classmethod(broken))
    told = only_error({"2": node("Broken")}, {"Broken": kind})
    assert (told["type"], told["details"]) == ("exception_during_validation", "no such drive")


# -- graphs ----------------------------------------------------------------------------------------

NEXT = {**CLASSES, "Next": node_class({"value": ("INT",)})}


def test_a_cycle_is_told_at_the_node_that_closes_it() -> None:
    prompt = {
        "1": node("Next", value=["3", 0]),
        "2": node("Sink", value=["1", 0]),
        "3": node("Next", value=["1", 0]),
    }
    told = only_error(prompt, NEXT, "3")
    assert told["type"] == "dependency_cycle"
    assert told["details"] == "value, 3 <- 1 <- 3"
    assert told["extra_info"] == {
        "input_name": "value",
        "linked_node": ["1", 0],
        "cycle": ["3", "1", "3"],
    }


def test_a_node_linked_to_itself_is_a_cycle() -> None:
    prompt = {"1": node("Next", value=["1", 0]), "2": node("Sink", value=["1", 0])}
    assert only_error(prompt, NEXT, "1")["extra_info"]["cycle"] == ["1", "1"]


def test_a_cycle_of_thousands_of_nodes_ends() -> None:
    prompt = {str(i): node("Next", value=[str((i + 1) % 5000), 0]) for i in range(5000)}
    prompt["end"] = node("Sink", value=["0", 0])
    valid, _, _, node_errors = check(prompt, NEXT)
    assert not valid
    assert list(node_errors) == ["4999"]


def test_an_output_beside_a_cycle_can_run() -> None:
    prompt = {
        "1": node("Next", value=["1", 0]),
        "2": node("Sink", value=["1", 0]),
        "3": node("Sink", value=1),
    }
    valid, _, good, node_errors = check(prompt, NEXT)
    assert (valid, good, node_errors["1"]["dependent_outputs"]) == (True, ["3"], ["2"])


def test_only_nodes_with_errors_of_their_own_are_listed_with_the_outputs_that_need_them() -> None:
    prompt = {
        "bad": node("Source", value=-1),
        "between": node("Next", value=["bad", 0]),
        "a": node("Sink", value=["between", 0]),
        "b": node("Sink", value=["bad", 0]),
        "c": node("Sink"),
        "d": node("Sink", value=1),
    }
    valid, _, good, node_errors = check(prompt, NEXT)
    assert (valid, good) == (True, ["d"])
    assert {key: entry["dependent_outputs"] for key, entry in node_errors.items()} == {
        "bad": ["a", "b"],
        "c": ["c"],
    }

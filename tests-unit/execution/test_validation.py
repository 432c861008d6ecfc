"""Prompts that can run are let through, with constants turned into the declared types."""

from __future__ import annotations

import asyncio
import copy
import json
import time
from typing import Any

import pytest

from comfy_execution.graph_utils import ExecutionBlocker, is_link
from comfy_execution.node_call import get_input_data
from comfy_execution.schema_nodes import SchemaNode
from comfy_execution.validation import validate_inputs, validate_node_input, validate_prompt
from support.prompts import check, node, node_class

SOURCE = node_class({"value": ("INT", {"default": 0, "min": 0, "max": 100})})
SINK = node_class({"value": ("INT",)}, returns=(), OUTPUT_NODE=True)
CLASSES: dict[str, Any] = {"Source": SOURCE, "Sink": SINK}


class Anything(str):
    """What packs use to accept every type."""

    def __ne__(self, other: object) -> bool:
        return False


# -- types of links --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("received", "input_type", "loose", "strict"),
    [
        ("INT", "INT", True, True),
        ("INT", "FLOAT", False, False),
        ("INT", "INT,FLOAT", True, True),
        ("INT, FLOAT", "FLOAT,STRING", True, False),
        ("FLOAT,INT", "INT, FLOAT", True, True),
        ("A,B", "C,D", False, False),
        ("*", "INT", True, True),
        ("INT", "*", True, True),
        ("INT,*", "STRING", True, True),
        ("STRING", "INT, *", True, True),
        ("COMFY_MATCHTYPE_V3", "IMAGE", True, True),
        ("IMAGE", "COMFY_MATCHTYPE_V3", True, True),
        (["a", "b"], ["a", "b"], True, True),
        (["a", "b"], ["b", "a"], False, False),
        (["a"], "COMBO", True, True),
        ("COMBO", ["a"], False, False),
        (["a"], "STRING", False, False),
        (["a"], "*", True, True),
        ("INT", 5, False, False),
        ("", "INT", False, False),
    ],
)
def test_types_fit(received: Any, input_type: Any, loose: bool, strict: bool) -> None:
    assert validate_node_input(received, input_type) is loose
    assert validate_node_input(received, input_type, strict=True) is strict


@pytest.mark.parametrize(("received", "wanted"), [(Anything("x"), "INT"), ("INT", Anything("*"))])
def test_a_type_that_is_unequal_to_nothing_fits_everything(received: Any, wanted: Any) -> None:
    assert validate_node_input(received, wanted)


def test_an_input_may_be_linked_to_any_of_several_types() -> None:
    classes = {**CLASSES, "Sink": node_class({"value": ("STRING,INT",)}, OUTPUT_NODE=True)}
    prompt = {"1": node("Source", value=1), "2": node("Sink", value=["1", 0])}
    assert check(prompt, classes) == (True, None, ["2"], {})


# -- which outputs ---------------------------------------------------------------------------------


def _two_outputs() -> dict[str, Any]:
    return {
        "1": node("Source", value=3),
        "2": node("Sink", value=["1", 0]),
        "3": node("Sink", value=4),
    }


@pytest.mark.parametrize(
    ("only", "good"),
    [(None, ["2", "3"]), (["3"], ["3"]), (["3", "1"], ["3"]), (["2", "3"], ["2", "3"])],
)
def test_only_wanted_outputs_are_checked(only: list[str] | None, good: list[str]) -> None:
    assert check(_two_outputs(), CLASSES, only) == (True, None, good, {})


def test_a_bad_output_that_is_not_wanted_does_no_harm() -> None:
    prompt = {**_two_outputs(), "4": node("Sink")}
    assert check(prompt, CLASSES, ["2"]) == (True, None, ["2"], {})


def test_nodes_that_nothing_depends_on_are_not_checked() -> None:
    prompt = {**_two_outputs(), "lonely": node("Source", value="no number")}
    assert check(prompt, CLASSES)[:2] == (True, None)


def test_good_outputs_go_on_when_others_fail() -> None:
    prompt = {**_two_outputs(), "4": node("Sink")}
    valid, error, good, node_errors = check(prompt, CLASSES)
    assert (valid, error, good) == (True, None, ["2", "3"])
    assert list(node_errors) == ["4"]


def test_only_true_itself_makes_an_output_node() -> None:
    classes = {"Odd": node_class(OUTPUT_NODE="yes"), **CLASSES}
    prompt = {"1": node("Odd"), "2": node("Sink", value=1)}
    assert check(prompt, classes)[2] == ["2"]


def test_missing_inputs_of_a_node_are_none() -> None:
    classes = {"Still": node_class(OUTPUT_NODE=True)}
    prompt: dict[str, Any] = {"1": {"class_type": "Still"}}
    assert check(prompt, classes)[2] == ["1"]
    assert prompt["1"]["inputs"] == {}


# -- constants -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "given", "kept"),
    [
        ("INT", "12", 12),
        ("INT", 3.9, 3),
        ("INT", True, 1),
        ("INT", 2**64 - 1, 2**64 - 1),
        ("FLOAT", "1.5", 1.5),
        ("FLOAT", 2, 2.0),
        ("STRING", 7, "7"),
        ("BOOLEAN", 1, True),
        ("BOOLEAN", "", False),
        ("INT", {"__value__": "5"}, 5),
        ("THINGS", {"__value__": ["a", "b", "c"]}, ["a", "b", "c"]),
        ("THINGS", {"value": [1]}, {"value": [1]}),
    ],
)
def test_constants_are_converted_in_the_prompt(kind: str, given: Any, kept: Any) -> None:
    classes = {"Sink": node_class({"value": (kind,)}, OUTPUT_NODE=True)}
    prompt = {"1": node("Sink", value=given)}
    assert check(prompt, classes)[0]
    assert prompt["1"]["inputs"]["value"] == kept
    assert isinstance(prompt["1"]["inputs"]["value"], type(kept))


def test_a_list_that_was_marked_as_a_value_is_no_link_however_it_looks() -> None:
    classes = {"Sink": node_class({"value": ("THINGS",)}, OUTPUT_NODE=True)}
    prompt = {"1": node("Sink", value={"__value__": ["99", 0]})}
    assert check(prompt, classes)[0]
    value = prompt["1"]["inputs"]["value"]
    assert value == ["99", 0]
    assert not is_link(value)
    assert not is_link(copy.deepcopy(value))
    assert json.dumps(value) == '["99", 0]'
    assert get_input_data(prompt["1"]["inputs"], classes["Sink"], "1")[0] == {"value": [["99", 0]]}
    assert check(prompt, classes)[0]


@pytest.mark.parametrize("value", [0, 7, 10])
def test_limits_are_inside(value: int) -> None:
    classes = {"Sink": node_class({"value": ("INT", {"min": 0, "max": 10})}, OUTPUT_NODE=True)}
    assert check({"1": node("Sink", value=value)}, classes)[0]


@pytest.mark.parametrize(
    ("spec", "value"),
    [
        ((["a", "b"],), "b"),
        (("COMBO", {"options": ["a", "b"]}), "a"),
        (
            ("COMBO", {"options": ["a", "b", "c"], "multiselect": True}),
            {"__value__": ["a", "b", "c"]},
        ),
        (("COMBO", {"options": [], "remote": {"route": "/list"}}), "known to the page"),
        (("COMBO", {}), "known to the page"),
        (([1, 2],), 2),
    ],
)
def test_a_choice_that_is_there_is_taken(spec: Any, value: Any) -> None:
    classes = {"Sink": node_class({"value": spec}, OUTPUT_NODE=True)}
    assert check({"1": node("Sink", value=value)}, classes)[0]


def test_optional_inputs_may_be_absent_and_undeclared_ones_are_not_looked_at() -> None:
    classes = {"Sink": node_class({}, {"value": ("INT",)}, OUTPUT_NODE=True)}
    assert check({"1": node("Sink", other=[1, 2, 3], unknown=["nowhere", 0])}, classes)[0]


def test_a_slot_may_come_as_a_whole_float() -> None:
    prompt = {"1": node("Source", value=1), "2": node("Sink", value=["1", 0.0])}
    assert check(prompt, CLASSES)[0]


# -- a class's own check ---------------------------------------------------------------------------


def _with_check(function: Any, **specs: Any) -> dict[str, Any]:
    kind = node_class(specs, OUTPUT_NODE=True, VALIDATE_INPUTS=classmethod(function))
    return {**CLASSES, "Picky": kind}


def test_own_check_sees_constants_by_name_and_none_for_links() -> None:
    seen: list[Any] = []

    def own(cls: Any, number: Any, linked: Any) -> bool:
        seen.append((number, linked))
        return True

    classes = _with_check(own, number=("INT",), linked=("INT",), other=("INT",))
    prompt = {
        "1": node("Source", value=1),
        "2": node("Picky", number="4", linked=["1", 0], other=2),
    }
    assert check(prompt, classes)[0]
    assert seen == [(4, None)]


@pytest.mark.parametrize(
    "own", [lambda cls, number: True, lambda cls, **kwargs: True], ids=["named", "kwargs"]
)
def test_own_check_takes_the_place_of_limits_and_choices(own: Any) -> None:
    classes = _with_check(own, number=("INT", {"max": 3}))
    assert check({"1": node("Picky", number=9)}, classes)[0]
    classes = _with_check(own, number=(["a"],))
    assert check({"1": node("Picky", number="b")}, classes)[0]


def test_own_check_of_another_input_leaves_limits_in_force() -> None:
    classes = _with_check(lambda cls, other: True, number=("INT", {"max": 3}), other=("INT",))
    assert not check({"1": node("Picky", number=9, other=1)}, classes)[0]


def test_own_check_of_types_gets_them_and_takes_the_place_of_ours() -> None:
    seen: list[Any] = []

    def own(cls: Any, input_types: Any) -> bool:
        seen.append(input_types)
        return True

    classes = _with_check(own, text=("STRING",), number=("INT",))
    prompt = {"1": node("Source", value=1), "2": node("Picky", text=["1", 0], number=1)}
    assert check(prompt, classes)[0]
    assert seen == [{"text": "INT"}]


def test_own_check_without_parameters_is_not_called() -> None:
    def own(cls: Any) -> bool:
        raise AssertionError("called")

    classes = _with_check(own, number=("INT",))
    assert check({"1": node("Picky", number=1)}, classes)[0]


async def _slowly(cls: Any, number: Any) -> bool:
    await asyncio.sleep(0.01)
    return bool(number == 4)


@pytest.mark.parametrize(("number", "valid"), [(4, True), (5, False)])
def test_own_check_may_be_async(number: int, valid: bool) -> None:
    classes = _with_check(_slowly, number=("INT",))
    assert check({"1": node("Picky", number=number)}, classes)[0] is valid


def test_a_blocker_from_an_own_check_is_no_refusal() -> None:
    classes = _with_check(lambda cls, number: ExecutionBlocker("later"), number=("INT",))
    assert check({"1": node("Picky", number=1)}, classes)[0]


# -- nodes with a schema ---------------------------------------------------------------------------


class _Growing(SchemaNode):
    """Has as many numbers as the prompt gives it."""

    OUTPUT_NODE = True
    RETURN_TYPES = ()
    FUNCTION = "execute"

    @classmethod
    def INPUT_TYPES_FOR(cls, given: Any) -> Any:
        """One number for each key that begins so."""
        names = [name for name in given if name.startswith("numbers.")]
        required = {name: ("INT", {"max": 9}) for name in names or ["numbers.0"]}
        return {"required": required}, {name: name for name in required}

    @classmethod
    def PREPARE_CLASS_CLONE(cls, v3_data: Any) -> Any:
        """Nothing to lock here."""
        return cls

    @classmethod
    def NEST_VALUES(cls, values: Any, paths: Any, with_keys: bool = False) -> Any:
        """All numbers in one dict."""
        return {"numbers": dict(values)}


class _Judging(_Growing):
    """Also judges them."""

    @classmethod
    def validate_inputs(cls, **kwargs: Any) -> bool | str:
        """Small sums only."""
        total = sum(kwargs["numbers"].values())
        return True if total < 10 else f"{total} is too much"


def test_dynamic_inputs_are_checked_one_by_one() -> None:
    prompt = {"1": node("Growing", **{"numbers.0": 1, "numbers.1": 10})}
    _, _, _, node_errors = check(prompt, {"Growing": _Growing})
    told = [(one["type"], one["extra_info"]["input_name"]) for one in node_errors["1"]["errors"]]
    assert told == [("value_bigger_than_max", "numbers.1")]


def test_a_dynamic_input_of_which_there_must_be_one_is_missed() -> None:
    _, _, _, node_errors = check({"1": node("Growing")}, {"Growing": _Growing})
    assert node_errors["1"]["errors"][0]["details"] == "numbers.0"


@pytest.mark.parametrize(("second", "valid"), [(5, True), (8, False)])
def test_schema_nodes_check_themselves_under_their_own_name(second: int, valid: bool) -> None:
    prompt = {"1": node("Judging", **{"numbers.0": 4, "numbers.1": second})}
    assert check(prompt, {"Judging": _Judging})[0] is valid


# -- whole graphs ----------------------------------------------------------------------------------


def test_a_chain_of_ten_thousand_nodes_is_checked() -> None:
    classes = {**CLASSES, "Next": node_class({"value": ("INT",)})}
    prompt = {"0": node("Source", value=1)}
    prompt |= {str(i): node("Next", value=[str(i - 1), 0]) for i in range(1, 10_000)}
    prompt["end"] = node("Sink", value=["9999", 0])
    started = time.process_time()
    assert check(prompt, classes) == (True, None, ["end"], {})
    assert time.process_time() - started < 3.0


def test_each_node_is_looked_at_once_however_many_depend_on_it() -> None:
    calls: list[int] = []

    def own(cls: Any, value: int) -> bool:
        calls.append(value)
        return True

    add = node_class({"a": ("INT",), "b": ("INT",)})
    source = node_class({"value": ("INT",)}, VALIDATE_INPUTS=classmethod(own))
    prompt = {"0": node("Source", value=5)}
    prompt |= {str(i): node("Add", a=[str(i - 1), 0], b=[str(i - 1), 0]) for i in range(1, 60)}
    prompt |= {"x": node("Sink", value=["59", 0]), "y": node("Sink", value=["0", 0])}
    assert check(prompt, {"Source": source, "Add": add, "Sink": SINK})[0]
    assert calls == [5]


def test_inputs_are_validated_from_one_node_with_verdicts_for_all_below() -> None:
    prompt = {"1": node("Source", value=-1), "2": node("Sink", value=["1", 0])}
    validated: dict[str, Any] = {}
    verdict = asyncio.run(validate_inputs("p", prompt, "2", validated, CLASSES))
    assert verdict == (False, [], "2") == validated["2"]
    assert validated["1"][0] is False
    assert validated["1"][1][0]["type"] == "value_smaller_than_min"


def test_verdicts_that_are_given_are_kept() -> None:
    prompt = {"1": node("Source", value=-1), "2": node("Sink", value=["1", 0])}
    validated: dict[str, Any] = {"1": (True, [], "1")}
    assert asyncio.run(validate_inputs("p", prompt, "2", validated, CLASSES))[0]


def test_inputs_of_a_node_that_is_not_there_are_an_error() -> None:
    with pytest.raises(KeyError, match="9"):
        asyncio.run(validate_inputs("p", {}, "9", {}, CLASSES))


def test_classes_may_be_any_mapping() -> None:
    outcome = asyncio.run(validate_prompt("p", {"1": node("Sink", value=1)}, None, dict(CLASSES)))
    assert outcome[2] == ["1"]

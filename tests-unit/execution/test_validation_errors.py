"""What is wrong with a prompt is told in the shapes that pages and clients read."""

from __future__ import annotations

import difflib
from typing import Any

import pytest

from comfy_execution.validation_errors import nearest
from support.prompts import check, node, node_class, only_error

SOURCE = node_class({"value": ("INT", {"min": 0, "max": 100})}, returns=("INT", "STRING"))
SINK = node_class({"value": ("INT", {"min": 0})}, returns=(), OUTPUT_NODE=True)
CLASSES: dict[str, Any] = {"Source": SOURCE, "Sink": SINK}
MODELS = [f"model{number:02}.safetensors" for number in range(24)] + ["sd/dreams.safetensors"]


def _of_input(spec: Any, **inputs: Any) -> dict[str, Any]:
    """The one error of an output node with one input, "value", and a source of two types."""
    classes = {**CLASSES, "Sink": node_class({"value": spec}, OUTPUT_NODE=True)}
    return only_error({"1": node("Source", value=1), "2": node("Sink", **inputs)}, classes)


# -- the whole prompt ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "kind"),
    [
        ({"inputs": {}}, None),
        ({"class_type": None, "inputs": {}}, None),
        ({"class_type": ["Sink"], "inputs": {}}, ["Sink"]),
        ("a node", None),
        ({"class_type": "Snik", "inputs": {}}, "Snik"),
        ({"class_type": "Sink", "inputs": [1]}, "Sink"),
    ],
)
def test_a_node_that_is_none_rejects_the_whole_prompt(bad: Any, kind: Any) -> None:
    valid, error, good, node_errors = check({"1": node("Sink", value=1), "7": bad}, CLASSES)
    assert (valid, good, node_errors) == (False, [], {})
    assert error["type"] == "invalid_prompt"
    assert "#7" in error["details"]
    assert error["extra_info"] == {"node_id": "7", "class_type": kind, "node_title": kind}


@pytest.mark.parametrize("prompt", [None, [], "text", 5])
def test_a_prompt_that_is_no_object_is_refused(prompt: Any) -> None:
    valid, error, good, node_errors = check(prompt, CLASSES)
    assert (valid, error["type"], good, node_errors) == (False, "invalid_prompt", [], {})


def test_an_unknown_class_names_the_nearest_one_and_the_title() -> None:
    prompt = {"1": {**node("source"), "_meta": {"title": "My source"}}}
    error = check(prompt, CLASSES)[1]
    assert "'source'" in error["message"]
    assert "did you mean Source?" in error["details"]
    assert error["extra_info"]["node_title"] == "My source"


def test_an_unknown_class_like_no_other_asks_for_its_pack() -> None:
    assert "pack" in check({"1": node("Zzzzzz")}, CLASSES)[1]["details"]


@pytest.mark.parametrize("only", [None, [], ["1"], ["missing"]])
def test_a_prompt_without_wanted_outputs_is_refused(only: list[str] | None) -> None:
    prompt = {"1": node("Source", value=1)}
    if only is not None:
        prompt["2"] = node("Sink", value=1)
    valid, error, good, node_errors = check(prompt, CLASSES, only)
    assert (valid, good, node_errors) == (False, [], {})
    assert error["type"] == "prompt_no_outputs"
    assert error["extra_info"] == {}


def test_the_prompt_error_lists_errors_of_output_nodes_only() -> None:
    prompt = {"1": node("Source", value=-5), "2": node("Sink", value=["1", 0]), "3": node("Sink")}
    _, error, _, node_errors = check(prompt, CLASSES)
    missing = node_errors["3"]["errors"][0]
    assert error["details"] == f"{missing['message']}: value"
    assert error["extra_info"] == {}


def test_the_prompt_error_is_without_details_if_outputs_fail_for_others() -> None:
    prompt = {"1": node("Source", value=-5), "2": node("Sink", value=["1", 0])}
    _, error, _, node_errors = check(prompt, CLASSES)
    assert error["details"] == ""
    assert list(node_errors) == ["1"]


# -- inputs ----------------------------------------------------------------------------------------


def test_a_missing_required_input_is_told() -> None:
    told = _of_input(("INT", {"min": 0}))
    assert told["type"] == "required_input_missing"
    assert told["details"] == "value"
    assert told["extra_info"] == {"input_name": "value"}


@pytest.mark.parametrize("link", [[], ["1"], ["1", 0, 0]])
def test_a_list_that_is_no_link_is_told(link: list[Any]) -> None:
    told = _of_input(("INT", {"min": 0}), value=link)
    assert told["type"] == "bad_linked_input"
    assert told["details"] == "value"
    assert told["extra_info"] == {
        "input_name": "value",
        "input_config": ["INT", {"min": 0}],
        "received_value": link,
    }


def test_a_link_of_another_type_is_told() -> None:
    told = _of_input(("INT",), value=["1", 1])
    assert told["type"] == "return_type_mismatch"
    assert told["details"] == "value, received_type(STRING) mismatch input_type(INT)"
    assert told["extra_info"] == {
        "input_name": "value",
        "input_config": ["INT", {}],
        "received_type": "STRING",
        "linked_node": ["1", 1],
    }


def test_a_link_to_a_long_list_of_choices_does_not_repeat_it() -> None:
    told = _of_input((MODELS,), value=["1", 1])
    assert told["details"] == "value, received_type(STRING) mismatch input_type(list of length 25)"


@pytest.mark.parametrize(
    ("kind", "value", "reason"),
    [
        ("INT", "many", "invalid literal"),
        ("INT", None, "NoneType"),
        ("INT", {"a": 1}, "dict"),
        ("FLOAT", "wide", "could not convert"),
        ("INT", "1e400", "invalid literal"),
    ],
)
def test_a_value_of_another_type_is_told(kind: str, value: Any, reason: str) -> None:
    told = _of_input((kind,), value=value)
    assert told["type"] == "invalid_input_type"
    assert told["details"].startswith(f"value, {value!r}, ")
    info = told["extra_info"]
    assert reason in info.pop("exception_message")
    assert info == {
        "input_name": "value",
        "input_config": [kind, {}],
        "received_value": value,
    }


def test_infinity_is_no_whole_number() -> None:
    classes = {"Sink": node_class({"value": ("INT",)}, OUTPUT_NODE=True)}
    _, _, _, node_errors = check({"1": node("Sink", value=float("inf"))}, classes)
    assert node_errors["1"]["errors"][0]["type"] == "invalid_input_type"


@pytest.mark.parametrize(
    ("value", "kind"), [("-1", "value_smaller_than_min"), (8.5, "value_bigger_than_max")]
)
def test_a_value_outside_its_limits_is_told(value: Any, kind: str) -> None:
    told = _of_input(("FLOAT", {"min": 0.0, "max": 8.0}), value=value)
    assert told["type"] == kind
    assert told["details"] == "value"
    assert told["extra_info"] == {
        "input_name": "value",
        "input_config": ["FLOAT", {"min": 0.0, "max": 8.0}],
        "received_value": float(value),
    }


@pytest.mark.parametrize(
    "spec", [(["euler", "heun"],), ("COMBO", {"options": ["euler", "heun"]})], ids=["v1", "v3"]
)
def test_a_value_that_is_no_choice_is_told(spec: Any) -> None:
    told = _of_input(spec, value="eler")
    assert told["type"] == "value_not_in_list"
    assert told["details"] == "value: 'eler' not in ['euler', 'heun']; did you mean 'euler'?"
    assert told["extra_info"] == {
        "input_name": "value",
        "input_config": [spec[0], spec[1] if len(spec) > 1 else {}],
        "received_value": "eler",
    }


@pytest.mark.parametrize(("count", "is_long"), [(20, False), (21, True)])
def test_a_long_list_of_choices_is_told_by_its_length(count: int, is_long: bool) -> None:
    told = _of_input(([f"{number}" for number in range(count)],), value="other")
    assert (f"(list of length {count})" in told["details"]) is is_long
    assert (told["extra_info"]["input_config"] is None) is is_long


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("dreams.safetensors", "sd/dreams.safetensors"),
        ("SD\\Dreams.SafeTensors", "sd/dreams.safetensors"),
        ("sd/dreamz.safetensors", "sd/dreams.safetensors"),
    ],
)
def test_a_missing_file_names_the_one_that_was_meant(given: str, meant: str) -> None:
    told = _of_input((MODELS,), value=given)
    assert told["details"].endswith(f"did you mean {meant!r}?")


@pytest.mark.parametrize("given", [None, 5, "qqqq"])
def test_a_value_like_no_choice_names_none(given: Any) -> None:
    assert "did you mean" not in _of_input((MODELS,), value=given)["details"]


def test_each_wrong_one_of_several_choices_is_told() -> None:
    spec = ("COMBO", {"options": ["a", "b"], "multiselect": True})
    told = _of_input(spec, value={"__value__": ["a", "c", "b"]})
    assert told["extra_info"]["received_value"] == "c"


def test_all_faults_of_a_node_are_told_at_once() -> None:
    specs = {"a": ("INT",), "b": ("INT", {"max": 1}), "c": (["x"],)}
    classes = {"Sink": node_class(specs, OUTPUT_NODE=True)}
    _, _, _, node_errors = check({"1": node("Sink", b=2, c="y")}, classes)
    kinds = [one["type"] for one in node_errors["1"]["errors"]]
    assert kinds == ["required_input_missing", "value_bigger_than_max", "value_not_in_list"]


# -- a class's own check ---------------------------------------------------------------------------


def _picky(function: Any, **specs: Any) -> dict[str, Any]:
    kind = node_class(specs, OUTPUT_NODE=True, VALIDATE_INPUTS=classmethod(function))
    return {**CLASSES, "Picky": kind}


@pytest.mark.parametrize(
    ("verdict", "details"),
    [(False, "value"), ("too blue", "value - too blue"), (None, "value - None")],
)
def test_a_refusal_by_the_node_is_told_with_its_reason(verdict: Any, details: str) -> None:
    classes = _picky(lambda cls, value: verdict, value=("INT",))
    told = only_error({"2": node("Picky", value=1)}, classes)
    assert told["type"] == "custom_validation_failed"
    assert told["details"] == details
    assert told["extra_info"] == {"input_name": "value"}


def test_a_refusal_of_types_is_told() -> None:
    classes = _picky(lambda cls, input_types: "no text", value=("INT",))
    prompt = {"1": node("Source", value=1), "2": node("Picky", value=["1", 1])}
    told = only_error(prompt, classes)
    assert told["details"] == "input_types - no text"


def test_a_refusal_by_a_check_of_all_inputs_is_told_for_each() -> None:
    classes = _picky(lambda cls, **kwargs: False, a=("INT",), b=("INT",))
    _, _, _, node_errors = check({"1": node("Picky", a=1, b=2)}, classes)
    assert [one["details"] for one in node_errors["1"]["errors"]] == ["a", "b"]


@pytest.mark.parametrize("inputs", [{}, {"value": "no number"}])
def test_a_node_is_not_asked_about_values_that_are_missing_or_unreadable(inputs: Any) -> None:
    classes = _picky(lambda cls, value: value > 3, value=("INT",))
    told = only_error({"2": node("Picky", **inputs)}, classes)
    assert told["type"] in ("required_input_missing", "invalid_input_type")


@pytest.mark.parametrize("word", ["stile_0042.safetensors", "stile_0042" + "é" * 100_000])
def test_among_thousands_of_names_few_are_compared_in_full(
    monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    compared: list[int] = []
    get_close_matches = difflib.get_close_matches

    def spy(word: str, possibilities: list[str], n: int) -> list[str]:
        compared.append(max(len(word), len(possibilities)))
        return get_close_matches(word, possibilities, n)

    monkeypatch.setattr(difflib, "get_close_matches", spy)
    names = [f"style_{number:04}.safetensors" for number in range(5000)]
    found = nearest(word, names)
    assert found[:1] == (["style_0042.safetensors"] if len(word) < 100 else [])
    assert compared[0] <= 255

"""Nodes of the schema-style interface are checked like classic ones, dynamic inputs in parts."""

from __future__ import annotations

from typing import Any

import pytest

from comfy_api.latest import io
from support.prompts import check, node, node_class

CLASSIC = node_class({"name": (["a.png", "b.png"],)}, returns=("IMAGE", "INT"))


class _Sink(io.ComfyNode):
    """An output with one input of most kinds, and a dynamic one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """See nodes."""
        words = io.String.Input("word", default="")
        return io.Schema(
            node_id="Sink",
            is_output_node=True,
            inputs=[
                io.Int.Input("count", default=1, min=1, max=9),
                io.Combo.Input("mode", options=["fast", "slow"]),
                io.Image.Input("image", optional=True),
                io.Autogrow.Input(
                    "words", template=io.Autogrow.TemplatePrefix(words, "w", min=1, max=3)
                ),
                io.DynamicCombo.Input(
                    "kind",
                    options=[
                        io.DynamicCombo.Option("plain", []),
                        io.DynamicCombo.Option("sized", [io.Int.Input("size", max=8)]),
                    ],
                ),
            ],
        )

    @classmethod
    def execute(cls, **inputs: Any) -> io.NodeOutput:
        """Nothing to do."""
        return io.NodeOutput()


class _Picky(_Sink):
    """Judges the words, all together."""

    @classmethod
    def validate_inputs(cls, words: dict[str, str]) -> bool | str:
        """Not more than five letters."""
        letters = "".join(words.values())
        return True if len(letters) <= 5 else f"{letters} is too long"


class _PickyLater(_Sink):
    """The same, asked for later."""

    @classmethod
    async def validate_inputs(cls, count: int) -> bool | str:
        """An odd count."""
        return count % 2 == 1 or "the count is even"


CLASSES = {"Classic": CLASSIC, "Sink": _Sink, "Picky": _Picky, "PickyLater": _PickyLater}
GOOD = {"count": "3", "mode": "fast", "words.w0": "a", "kind": "plain"}


def _errors(class_type: str = "Sink", **changes: Any) -> list[tuple[str, str]]:
    inputs = {key: value for key, value in {**GOOD, **changes}.items() if value is not None}
    prompt = {"1": node("Classic", name="a.png"), "2": node(class_type, **inputs)}
    _, _, _, node_errors = check(prompt, CLASSES)
    found = node_errors.get("2", {"errors": []})["errors"]
    return [(one["type"], one["details"]) for one in found]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"image": ["1", 0]},
        {"count": ["1", 1]},
        {"words.w1": "b", "words.w2": "c"},
        {"kind": "sized", "kind.size": 8},
    ],
)
def test_sound_inputs_pass(changes: dict[str, Any]) -> None:
    assert _errors(**changes) == []


@pytest.mark.parametrize(
    ("changes", "kind", "details"),
    [
        ({"count": 0}, "value_smaller_than_min", "count"),
        ({"count": "x"}, "invalid_input_type", "count, 'x'"),
        ({"mode": "fats"}, "value_not_in_list", "mode: 'fats'"),
        ({"mode": None}, "required_input_missing", "mode"),
        ({"image": ["1", 1]}, "return_type_mismatch", "image, received_type(INT)"),
        ({"words.w0": None}, "required_input_missing", "words.w0"),
        ({"kind": "odd"}, "value_not_in_list", "kind: 'odd'"),
        ({"kind": "sized"}, "required_input_missing", "kind.size"),
        ({"kind": "sized", "kind.size": 9}, "value_bigger_than_max", "kind.size"),
    ],
)
def test_each_fault_is_told(changes: dict[str, Any], kind: str, details: str) -> None:
    ((told, where),) = _errors(**changes)
    assert told == kind
    assert where.startswith(details)


def test_constants_are_converted_in_the_prompt() -> None:
    prompt = {"2": node("Sink", **{**GOOD, "words.w0": 5})}
    assert check(prompt, CLASSES)[0]
    assert prompt["2"]["inputs"]["count"] == 3
    assert prompt["2"]["inputs"]["words.w0"] == "5"


def test_an_own_check_gets_the_parts_of_a_dynamic_input_in_one_dict() -> None:
    assert _errors("Picky", **{"words.w0": "ab", "words.w1": "cde"}) == []
    told = _errors("Picky", **{"words.w0": "abc", "words.w1": "def"})
    assert told == [
        ("custom_validation_failed", "words.w0 - abcdef is too long"),
        ("custom_validation_failed", "words.w1 - abcdef is too long"),
    ]


def test_an_own_check_may_be_async_and_takes_the_place_of_limits() -> None:
    assert _errors("PickyLater", count=11) == []
    assert _errors("PickyLater", count=2) == [
        ("custom_validation_failed", "count - the count is even")
    ]


def test_an_own_check_is_not_asked_about_parts_that_are_missing() -> None:
    assert _errors("Picky", **{"words.w0": None}) == [("required_input_missing", "words.w0")]

"""What tells two results apart."""

from __future__ import annotations

import asyncio
import enum
import math
from typing import Any, ClassVar

import numpy
import pytest

from comfy_api.latest import io
from comfy_execution.cache_keys import (
    CacheKeySetID,
    CacheKeySetInputSignature,
    Unhashable,
    to_hashable,
)
from comfy_execution.prompts import DynamicPrompt
from support.graph_nodes import BASIC, node, node_class

OWN = node_class(lambda value, me: (value,), "value", hidden={"me": "UNIQUE_ID"})
ONCE = node_class(lambda value: (value,), "value", NOT_IDEMPOTENT=True)
CLASSES = {**BASIC, "Own": OWN, "Once": ONCE}


class _Says:
    """Tells what changed, by node."""

    def __init__(self, answers: dict[str, Any] | None = None) -> None:
        self.answers = answers or {}

    async def get(self, node_id: str) -> Any:
        return self.answers.get(node_id, False)


def _keys(prompt: dict[str, Any], changed: dict[str, Any] | None = None) -> dict[str, Any]:
    keys = CacheKeySetInputSignature(DynamicPrompt(prompt, CLASSES), prompt, _Says(changed))
    asyncio.run(keys.add_keys(prompt))
    return keys.keys


def _key(value: Any) -> Any:
    return _keys({"n": node("Keep", value=value)})["n"]


class _Colour(enum.Enum):
    RED = 1


@pytest.mark.parametrize(
    "value", [1, 1.5, "text", True, None, [1, [2, "x"]], {"a": [1], "b": {"c": 2}}, b"bytes"]
)
def test_equal_constants_have_one_key(value: Any) -> None:
    kept = _key(value)
    assert _key(value) is kept


def test_the_order_of_inputs_and_keys_does_not_matter() -> None:
    one = _keys({"n": node("Add", a=1, b={"x": 1, "y": 2})})
    other = _keys({"m": node("Add", b={"y": 2, "x": 1}, a=1)})
    assert one["n"] is other["m"]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 2),
        (1, True),
        (1, 1.0),
        (0.0, -0.0),
        ("1", 1),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 2}),
        (None, ""),
    ],
)
def test_different_constants_have_different_keys(one: Any, other: Any) -> None:
    first = _key(one)
    assert _key(other) is not first


@pytest.mark.parametrize(
    "value",
    [math.nan, object(), _Colour.RED, [1, math.nan], {"deep": [object()]}],
    ids=["NaN", "object", "enum", "NaN in a list", "object in a dict"],
)
def test_what_cannot_be_compared_never_has_the_same_key(value: Any) -> None:
    first = _key(value)
    assert _key(value) is not first


class _Any(str):
    """A type's name as packs write it: unequal to nothing."""

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return hash(str(self))


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (numpy.float64(0.5), 0.5),
        (numpy.float32(0.5), 0.5),
        (numpy.int64(3), 3),
        (_Any("word"), "word"),
        ([_Any("word")], ["word"]),
    ],
)
def test_numbers_of_numpy_and_kinds_of_text_count_by_what_they_hold(value: Any, plain: Any) -> None:
    assert to_hashable(value) == to_hashable(plain)
    assert to_hashable(_Any("word")) != "other"


def test_unknown_values_equal_nothing_but_themselves() -> None:
    found = to_hashable(math.nan)
    assert isinstance(found, Unhashable)
    assert found != to_hashable(math.nan)
    assert to_hashable({1, 2}) == to_hashable({2, 1})


def _two(first: Any, slot: int = 0, class_type: str = "Keep", ids: str = "ab") -> dict[str, Any]:
    return {ids[0]: node(class_type, value=first), ids[1]: node("Keep", value=[ids[0], slot])}


def test_a_key_depends_on_ancestors_not_on_their_ids() -> None:
    kept = _keys(_two(1))
    assert _keys(_two(1, ids="xy"))["y"] is kept["b"]
    assert _keys(_two(2))["b"] is not kept["b"]
    assert _keys(_two(1, slot=1))["b"] is not kept["b"]
    assert _keys(_two(1, class_type="Many"))["b"] is not kept["b"]


def test_a_change_of_an_ancestor_changes_the_key() -> None:
    first = _keys(_two(1), {"a": ["v1"]})
    assert _keys(_two(1), {"a": ["v1"]})["b"] is first["b"]
    assert _keys(_two(1), {"a": ["v2"]})["b"] is not first["b"]
    always = _keys(_two(1), {"a": math.nan})
    assert _keys(_two(1), {"a": math.nan})["b"] is not always["b"]


@pytest.mark.parametrize("class_type", ["Own", "Once"])
def test_some_classes_put_their_id_into_the_key(class_type: str) -> None:
    first = _keys(_two(1, class_type=class_type))
    assert _keys(_two(1, class_type=class_type))["b"] is first["b"]
    assert _keys(_two(1, class_type=class_type, ids="xb"))["b"] is not first["b"]


def test_nodes_in_a_cycle_have_keys_that_nothing_matches() -> None:
    prompt = {"a": node("Keep", value=["b", 0]), "b": node("Keep", value=["a", 0])}
    first = _keys(prompt)
    assert set(first) == {"a", "b"}
    assert _keys(prompt)["a"] is not first["a"]


def test_a_link_to_nowhere_has_a_key_that_nothing_matches() -> None:
    prompt = {"a": node("Keep", value=["gone", 0])}
    first = _keys(prompt)
    assert _keys(prompt)["a"] is not first["a"]


def test_a_chain_deeper_than_the_stack_has_keys() -> None:
    prompt = {str(i): node("Keep", value=[str(i - 1), 0] if i else 1) for i in range(20_000)}
    first = _keys(prompt)
    assert _keys(prompt)["19999"] is first["19999"]


def test_keys_by_id_are_ids_and_classes() -> None:
    keys = CacheKeySetID(DynamicPrompt(_two(1), CLASSES), ["a"], _Says())
    asyncio.run(keys.add_keys(["a", "gone"]))
    assert keys.keys == {"a": ("a", "Keep")}
    assert keys.get_data_key("b") is None
    assert keys.get_subcache_key("a") == ("a", "Keep")
    assert keys.all_node_ids() == {"a"}


def test_a_key_does_not_ask_a_schema_style_node_for_its_inputs() -> None:
    class Lists(io.ComfyNode):
        asked: ClassVar[list[Any]] = []

        @classmethod
        def define_schema(cls) -> io.Schema:
            cls.asked.append(cls)
            return io.Schema("Lists", inputs=[io.Int.Input("value")])

        @classmethod
        def execute(cls, value: int) -> None:
            pass

    prompt = {str(number): node("Lists", value=number) for number in range(5)}
    keys = CacheKeySetInputSignature(DynamicPrompt(prompt, {"Lists": Lists}), prompt, _Says())
    asyncio.run(keys.add_keys(prompt))
    assert len(set(keys.keys.values())) == len(prompt)
    # Once for what does not change: its listing of files may take long.
    assert len(Lists.asked) == 1

"""JSON values are laid over each other."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from utils.json_util import merge_json_recursive


@pytest.mark.parametrize(
    ("base", "update", "wanted"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": 1}, {"a": 2}, {"a": 2}),
        ({"a": {"x": 1, "y": 2}}, {"a": {"y": 3, "z": 4}}, {"a": {"x": 1, "y": 3, "z": 4}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [1, 2, 3]}),
        ({"a": {"b": {"c": [1]}}}, {"a": {"b": {"c": [2]}}}, {"a": {"b": {"c": [1, 2]}}}),
        ({"a": [1]}, {"a": "text"}, {"a": "text"}),
        ({"a": {"x": 1}}, {"a": None}, {"a": None}),
        ({"a": None}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({"a": "text"}, {"a": {"x": 1}}, {"a": {"x": 1}}),
        ({}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {}, {"a": 1}),
        ({"a": [{"x": 1}]}, {"a": [{"x": 2}]}, {"a": [{"x": 1}, {"x": 2}]}),
        ({"a": 1}, "text", "text"),
        ("text", {"a": 1}, {"a": 1}),
    ],
)
def test_dicts_merge_lists_follow_each_other_and_the_rest_is_replaced(
    base: Any, update: Any, wanted: Any
) -> None:
    assert merge_json_recursive(base, update) == wanted


def test_what_is_merged_stays_as_it_was() -> None:
    base, update = {"a": {"x": [1]}, "b": 1}, {"a": {"x": [2], "y": 3}, "c": {}}
    kept = copy.deepcopy((base, update))
    merged = merge_json_recursive(base, update)
    merged["new"] = merged["a"]["new"] = 1
    merged["a"]["x"].append(9)
    assert (base, update) == kept


def test_keys_keep_their_order_with_new_ones_last() -> None:
    assert list(merge_json_recursive({"b": 1, "a": 2}, {"c": 3, "a": 4})) == ["b", "a", "c"]

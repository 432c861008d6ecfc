"""Callbacks, wrappers, and the tables that hold them."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from comfy import patcher_extension as extension


def test_wrappers_run_from_the_outside_inwards_and_may_change_what_passes() -> None:
    seen: list[str] = []

    def outer(executor: Any, x: int, *, add: int) -> int:
        seen.append("outer")
        return int(executor(x * 2, add=add)) + 1

    def inner(executor: Any, x: int, *, add: int) -> int:
        seen.append("inner")
        return int(executor(x, add=add + 10))

    def function(x: int, *, add: int) -> int:
        seen.append("function")
        return x + add

    run = extension.WrapperExecutor.new_executor(function, [outer, inner])
    assert run.execute(3, add=100) == 3 * 2 + 110 + 1
    assert seen == ["outer", "inner", "function"]


def test_a_wrapper_may_leave_the_function_out_or_call_it_twice() -> None:
    calls: list[int] = []
    run = extension.WrapperExecutor.new_executor(calls.append, [lambda executor, x: x])
    assert run.execute(5) == 5
    assert calls == []
    twice = extension.WrapperExecutor.new_executor(
        calls.append, [lambda executor, x: (executor(x), executor(x))]
    )
    twice.execute(7)
    assert calls == [7, 7]


def test_a_wrapper_sees_the_object_whose_method_it_surrounds() -> None:
    class Guider:
        def sample(self) -> str:
            return "sampled"

    guider = Guider()
    seen = []

    def wrapper(executor: Any) -> Any:
        seen.append((executor.class_obj, executor.original))
        return executor()

    run = extension.WrapperExecutor.new_class_executor(guider.sample, guider, [wrapper])
    assert run.execute() == "sampled"
    assert seen == [(guider, guider.sample)]


@pytest.mark.parametrize("kind", ["wrapper", "callback"])
@pytest.mark.parametrize("is_model_options", [False, True])
def test_functions_are_found_by_type_and_key(kind: str, is_model_options: bool) -> None:
    options: dict[str, Any] = {}
    add = getattr(extension, f"add_{kind}")
    add_with_key = getattr(extension, f"add_{kind}_with_key")
    get_with_key = getattr(extension, f"get_{kind}s_with_key")
    get_all = getattr(extension, f"get_all_{kind}s")
    add("one", min, options, is_model_options)
    add_with_key("one", "pack", max, options, is_model_options)
    add_with_key("two", "pack", len, options, is_model_options)
    assert get_all("one", options, is_model_options) == [min, max]
    assert get_with_key("one", "pack", options, is_model_options) == [max]
    assert get_with_key("one", "other", options, is_model_options) == []
    place = options["transformer_options"] if is_model_options else options
    assert place[f"{kind}s"]["two"] == {"pack": [len]}


def test_looking_up_changes_nothing() -> None:
    options: dict[str, Any] = {}
    assert extension.get_all_wrappers("x", options, is_model_options=True) == []
    assert extension.get_all_callbacks("x", options) == []
    assert options == {}


def test_merging_joins_lists_and_dicts_and_leaves_both_as_they_were() -> None:
    one = {"a": {"x": [1]}, "b": 1, "c": [1]}
    two = {"a": {"x": [2], "y": [3]}, "b": 2, "d": {"z": [4]}}
    before = copy.deepcopy((one, two))
    merged = extension.merge_nested_dicts(one, two)
    assert merged == {"a": {"x": [1, 2], "y": [3]}, "b": 2, "c": [1], "d": {"z": [4]}}
    merged["a"]["y"].append(9)
    merged["d"]["z"].append(9)
    assert (one, two) == before
    assert extension.merge_nested_dicts(one, two, copy_dict1=False) is one
    assert one["a"] == {"x": [1, 2], "y": [3]}


def test_a_copy_shares_values_but_no_table() -> None:
    value = object()
    original = {"a": {"b": [value]}}
    copied = extension.copy_nested_dicts(original)
    copied["a"]["b"].append(1)
    assert original == {"a": {"b": [value]}}
    assert copied["a"]["b"][0] is value

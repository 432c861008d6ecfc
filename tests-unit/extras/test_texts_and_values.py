"""Texts are joined, cut and searched; values and choices are given on; anything is shown."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from comfy_extras import nodes_logic, nodes_nop, nodes_preview_any, nodes_primitive, nodes_string


@pytest.mark.parametrize(
    ("node", "inputs", "wanted"),
    [
        (nodes_string.StringConcatenate, ("a", "b", ", "), "a, b"),
        (nodes_string.StringConcatenate, ("", "", ""), ""),
        (nodes_string.StringSubstring, ("abcdef", 1, 3), "bc"),
        (nodes_string.StringSubstring, ("abcdef", -2, 99), "ef"),
        (nodes_string.StringLength, ("a\n b",), 4),
        (nodes_string.CaseConverter, ("on a Hill", "UPPERCASE"), "ON A HILL"),
        (nodes_string.CaseConverter, ("on a Hill", "lowercase"), "on a hill"),
        (nodes_string.CaseConverter, ("on a Hill", "Capitalize"), "On a hill"),
        (nodes_string.CaseConverter, ("on a Hill", "Title Case"), "On A Hill"),
        (nodes_string.StringTrim, ("\n a b ", "Both"), "a b"),
        (nodes_string.StringTrim, (" a ", "Left"), "a "),
        (nodes_string.StringTrim, (" a ", "Right"), " a"),
        (nodes_string.StringReplace, ("a.a", "a", "bb"), "bb.bb"),
        (nodes_string.StringContains, ("A Cat", "cat", True), False),
        (nodes_string.StringContains, ("A Cat", "cat", False), True),
        (nodes_string.StringCompare, ("A Cat", "a", "Starts With", True), False),
        (nodes_string.StringCompare, ("A Cat", "a", "Starts With", False), True),
        (nodes_string.StringCompare, ("A Cat", "Cat", "Ends With", True), True),
        (nodes_string.StringCompare, ("Cat", "cat", "Equal", False), True),
        (nodes_string.StringCompare, ("Cat", "Cats", "Equal", True), False),
    ],
)
def test_texts_are_changed_and_compared(node: Any, inputs: tuple[Any, ...], wanted: Any) -> None:
    assert node.execute(*inputs).result == (wanted,)


TEXT = "red fox,\nRed hen"


@pytest.mark.parametrize(
    ("pattern", "switches", "wanted"),
    [
        ("RED", (True, False, False), True),
        ("RED", (False, False, False), False),
        ("^red hen", (True, False, False), False),
        ("^red hen", (True, True, False), True),
        ("fox.*hen", (True, False, False), False),
        ("fox.*hen", (True, False, True), True),
    ],
)
def test_patterns_are_found(pattern: str, switches: tuple[bool, bool, bool], wanted: bool) -> None:
    assert nodes_string.RegexMatch.execute(TEXT, pattern, *switches)[0] is wanted


@pytest.mark.parametrize(
    ("pattern", "mode", "group", "wanted"),
    [
        (r"r\w+ \w+", "First Match", 1, "red fox"),
        (r"r\w+ \w+", "All Matches", 1, "red fox\nRed hen"),
        (r"(r\w+) (\w+)", "First Match", 1, "red fox"),
        (r"(r\w+) (\w+)", "All Matches", 2, "red\nRed"),
        (r"(r\w+) (\w+)", "First Group", 2, "fox"),
        (r"(r\w+) (\w+)", "All Groups", 2, "fox\nhen"),
        (r"(r\w+) (\w+)", "All Groups", 0, "red fox\nRed hen"),
        (r"(r\w+) (\w+)", "First Group", 3, ""),
        (r"(r\w+) (\w+)|x", "First Group", 2, "fox"),
        ("blue", "First Match", 1, ""),
        ("blue", "All Groups", 1, ""),
    ],
)
def test_finds_are_extracted(pattern: str, mode: str, group: int, wanted: str) -> None:
    found = nodes_string.RegexExtract.execute(TEXT, pattern, mode, True, False, False, group)
    assert found[0] == wanted


@pytest.mark.parametrize(("count", "wanted"), [(0, "fox red,\nhen Red"), (1, "fox red,\nRed hen")])
def test_finds_are_replaced(count: int, wanted: str) -> None:
    node = nodes_string.RegexReplace
    assert node.execute(TEXT, r"(r\w+) (\w+)", r"\2 \1", count=count)[0] == wanted


def test_what_is_no_pattern_is_named() -> None:
    with pytest.raises(ValueError, match=r"'\(a', is not a regular expression"):
        nodes_string.RegexMatch.execute("a", "(a", True, False, False)


@pytest.mark.parametrize("replace", [r"\d", r"\3", r"\g<name>"])
def test_what_cannot_replace_a_find_is_named(replace: str) -> None:
    with pytest.raises(ValueError, match=r"The input replace, .* cannot stand for what is found"):
        nodes_string.RegexReplace.execute("abc", "b", replace)


@pytest.mark.parametrize(
    ("node", "value"),
    [
        (nodes_primitive.String, "a"),
        (nodes_primitive.StringMultiline, "a\nb"),
        (nodes_primitive.Int, 2**63 - 1),
        (nodes_primitive.Float, -0.5),
        (nodes_primitive.Boolean, False),
        (nodes_logic.CustomComboNode, "any text"),
        (nodes_nop.WanBlockSwap, "a model"),
    ],
)
def test_values_are_given_on(node: Any, value: Any) -> None:
    assert node.execute(value).result == (value,)


@pytest.mark.parametrize(("switch", "wanted"), [(True, "on_true"), (False, "on_false")])
def test_switch_asks_for_the_chosen_branch_only(switch: bool, wanted: str) -> None:
    node = nodes_logic.SwitchNode
    assert node.check_lazy_status(switch, None, None) == [wanted]
    assert node.check_lazy_status(switch, **{wanted: 5}) == []
    assert node.execute(switch, on_false="on_false", on_true="on_true").result == (wanted,)


def test_choice_may_be_any_text() -> None:
    assert nodes_logic.CustomComboNode.validate_inputs("not in the list") is True


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("a text", "a text"),
        (None, "None"),
        (True, "True"),
        (1.5, "1.5"),
        ({"ä": [1, 2]}, '{\n    "ä": [\n        1,\n        2\n    ]\n}'),
        (torch.tensor([1, 2]), "tensor([1, 2])"),
    ],
)
def test_anything_is_shown_as_text(value: Any, wanted: str) -> None:
    assert nodes_preview_any.PreviewAny().main(value) == {"ui": {"text": (wanted,)}}

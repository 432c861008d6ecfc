from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy.prompt_weights import (
    escape_important,
    parse_prompt,
    token_weights,
    unescape_important,
)


@pytest.mark.parametrize(
    ("prompt", "segments"),
    [
        ("", []),
        ("a cat", [("a cat", 1.0)]),
        ("(a)", [("a", 1.1)]),
        ("((a))", [("a", 1.21)]),
        ("(a:1.3)", [("a", 1.3)]),
        ("(a: 0.5 )", [("a", 0.5)]),
        ("(a:-1)", [("a", -1.0)]),
        ("(a:0)", [("a", 0.0)]),
        ("a (b:1.2) c", [("a ", 1.0), ("b", 1.2), (" c", 1.0)]),
        ("(a (b) c)", [("a ", 1.1), ("b", 1.21), (" c", 1.1)]),
        ("(a (b:1.5) c:0.8)", [("a ", 0.8), ("b", 1.5), (" c", 0.8)]),
        ("((a:2))", [("a", 2.0)]),
        ("((a):2)", [("a", 2.2)]),
        ("(a)(b)", [("a", 1.1), ("b", 1.1)]),
        ("(10:30 pm:1.2)", [("10:30 pm", 1.2)]),
        ("(embedding:x:1.2)", [("embedding:x", 1.2)]),
        ("(a:b)", [("a:b", 1.1)]),
        ("(a:)", [("a:", 1.1)]),
        ("(:1.2)", [(":1.2", 1.1)]),
        ("(a:nan)", [("a:nan", 1.1)]),
        ("(a:inf)", [("a:inf", 1.1)]),
        ("()", []),
        ("[a]", [("[a]", 1.0)]),
        (r"\(a\)", [("(a)", 1.0)]),
        (r"(\(a\):1.4)", [("(a)", 1.4)]),
        (r"a \\(b)", [(r"a \(b)", 1.0)]),
        ("(a", [("(a", 1.0)]),
        ("a) b", [("a) b", 1.0)]),
        ("a) (b:1.2)", [("a) ", 1.0), ("b", 1.2)]),
        ("(a (b:1.2)", [("(a ", 1.0), ("b", 1.2)]),
    ],
)
def test_prompt_is_split_by_weight(prompt: str, segments: list[tuple[str, float]]) -> None:
    parsed = parse_prompt(prompt)
    assert [text for text, _ in parsed] == [text for text, _ in segments]
    assert [weight for _, weight in parsed] == pytest.approx([weight for _, weight in segments])


def test_weight_around_the_prompt_is_the_start() -> None:
    assert token_weights("a (b)", 2.0) == [("a ", 2.0), ("b", 2.2)]


@given(st.text(alphabet="ab\\()", max_size=30))
def test_escaping_is_undone_up_to_the_backslashes(text: str) -> None:
    plain = text.replace("\\(", "(").replace("\\)", ")")
    assert unescape_important(escape_important(text)) == plain


@given(st.text(alphabet="ab ():.12", max_size=40))
def test_no_prompt_breaks_the_parser_and_letters_are_kept(text: str) -> None:
    letters = "".join(segment for segment, _ in parse_prompt(text))
    assert [c for c in letters if c in "ab"] == [c for c in text if c in "ab"]


def test_nesting_has_no_limit() -> None:
    depth = 5000
    [(text, weight)] = parse_prompt("(" * depth + "a:1.5" + ")" * depth)
    assert (text, weight) == ("a", 1.5)

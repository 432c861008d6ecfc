"""Strict JSON: what is refused that Python's own parser accepts, and what values become."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy.loading.strict_json import MAX_DEPTH, JsonProblem, Members, decode


def _plain(value: object) -> object:
    if isinstance(value, Members):
        return {key: _plain(item) for key, item in value}
    return [_plain(item) for item in value] if isinstance(value, list) else value


_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 62), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False, width=32)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
)


@given(_VALUES, st.booleans())
def test_every_value_comes_back(value: object, is_ascii: bool) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii)
    assert _plain(decode(text.encode())) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "[Infinity]",
        '{"a":-Infinity}',
        '"\\ud800"',
        '["\\udc00"]',
        '{"\\uD834":1}',
        '{"a":[["\\uDD1E\\uD834"]]}',
        "1e999",
        "9" * 310,
        "0." + "0" * 4300,
        "01",
        "[1,]",
        "\ufeff1",
        "1 2",
        "1\0",
        '"\t"',
        "nul",
    ],
)
def test_invalid_text_is_refused(text: str) -> None:
    with pytest.raises(JsonProblem):
        decode(text.encode())


def test_text_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(UnicodeDecodeError):
        decode(b'"\xed\xa0\x80"')


def test_pairs_are_kept_with_duplicates_in_order() -> None:
    assert decode(b'{"b":1,"a":2,"b":{}}') == (("b", 1), ("a", 2), ("b", ()))


def test_hook_makes_the_objects() -> None:
    assert decode(b'[{"a":{"b":1}}]', dict) == [{"a": {"b": 1}}]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", int),
        ("18446744073709551615", int),
        ("18446744073709551616", float),
        ("123456789012345678901234567890", float),
        ("-9223372036854775808", int),
        ("-0", float),
        ("1.0", float),
        ("2e0", float),
        ("true", bool),
    ],
)
def test_numbers_are_told_apart_as_by_serde(text: str, kind: type) -> None:
    assert type(decode(text.encode())) is kind


def test_minus_zero_keeps_its_sign() -> None:
    assert math.copysign(1, decode(b"-0")) == -1  # type: ignore[arg-type]


@pytest.mark.parametrize("pair", ["[]", "{}"])
@pytest.mark.parametrize(("depth", "accepted"), [(MAX_DEPTH, True), (MAX_DEPTH + 1, False)])
def test_depth_is_limited_exactly(pair: str, depth: int, accepted: bool) -> None:
    opening = "[" if pair == "[]" else '{"[{":'
    text = opening * depth + "1" + pair[1] * depth
    if accepted:
        decode(text.encode())
        return
    with pytest.raises(JsonProblem, match="nested more than 127 deep"):
        decode(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        '"' + "[" * 500 + '"',
        '"\\"' + "[" * 500 + '"',
        '["\\\\","' + "{" * 500 + '"]',
        '{"' + "[" * 500 + '":"' + "]" * 500 + '"}',
        "[" + "[]," * 500 + "[]]",
    ],
)
def test_brackets_in_strings_and_in_a_row_do_not_nest(text: str) -> None:
    assert _plain(decode(text.encode())) == json.loads(text)


def test_depth_is_counted_across_pieces() -> None:
    row = "[]," * 600_000
    assert decode(f"[{row}{'[' * 126}{']' * 126}]".encode())
    with pytest.raises(JsonProblem, match="nested more than 127 deep"):
        decode(f"[{row}{'[' * 127}{']' * 127}]".encode())

"""Headers at random: our verdict is that of safetensors, or stricter as documented."""

from __future__ import annotations

import json
from typing import Any

import safetensors
from hypothesis import example, given, settings
from hypothesis import strategies as st

from comfy.loading import header
from comfy.loading.encodings import ENCODINGS
from comfy.loading.errors import HeaderProblem, InvalidWeightFile
from support.bad_headers import BAD_HEADERS, STRICTER
from support.header_parts import VALID_TEXT, entry, packed, safetensors_verdict, with_length

# Rules that are checked tensor by tensor. Between two tensors with the same place safetensors
# takes either first, so that one file may break now one of these rules, now another.
_OF_TENSORS = frozenset(
    {
        HeaderProblem.INVALID_OFFSET,
        HeaderProblem.VALIDATION_OVERFLOW,
        HeaderProblem.MISALIGNED_SLICE,
        HeaderProblem.TENSOR_INVALID_INFO,
    }
)


def _read(content: bytes, *, compat: bool = False) -> header.ParsedHeader:
    length = header.header_length(content[:8], len(content), path="fuzz.safetensors")
    raw = content[8 : 8 + length]
    return header.parse(raw, len(content), path="fuzz.safetensors", compat=compat)


def _verdict(content: bytes, *, compat: bool = False) -> HeaderProblem | None:
    try:
        _read(content, compat=compat)
    except InvalidWeightFile as err:
        assert err.path == "fuzz.safetensors"
        assert str(err)
        return err.problem
    return None


def _agree(content: bytes) -> None:
    """Check both verdicts, and for a valid file everything that the table says."""
    theirs, mine = safetensors_verdict(content), _verdict(content)
    lenient = _verdict(content, compat=True)
    if theirs is None:
        assert mine is None or mine in STRICTER
        assert lenient is None
        _compare_tables(content)
    else:
        assert lenient is mine
        assert mine is theirs or (_has_twins(content) and {mine, theirs} <= _OF_TENSORS)


def _has_twins(content: bytes) -> bool:
    table = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    table.pop("__metadata__", None)
    places = [
        str(item["data_offsets"] if isinstance(item, dict) else item[2]) for item in table.values()
    ]
    return len(places) != len(set(places))


def _compare_tables(content: bytes) -> None:
    parsed = _read(content, compat=True)
    start = 8 + parsed.header_bytes
    mine = {
        name: (item.encoding.name, list(item.shape), content[start + item.begin : start + item.end])
        for name, item in parsed.entries.items()
    }
    theirs = {
        name: (item["dtype"], item["shape"], bytes(item["data"]))
        for name, item in safetensors.deserialize(content)
    }
    assert mine == theirs


_VALID = packed(
    {
        "__metadata__": {"format": "pt", "é": "\N{GRINNING FACE}"},
        "model.a": entry("F32", [1, 2], [0, 8]),
        "model.b[0]": entry("F4", [4], [8, 10]),
        'model."c"': entry("BOOL", [], [10, 11]),
        "empty": entry("F16", [0, 3], [11, 11]),
    },
    bytes(11),
)
_LENGTH = int.from_bytes(_VALID[:8], "little")
# Bytes that JSON gives a meaning, so that a change more often leaves something readable.
_BYTE = st.sampled_from(list(b'{}[]",:\\0123456789-+.eEtfn/ud8 \n\t\0\x1f\x7f\xc3\xa9\xed\xa0'))


@st.composite
def _mutated(draw: st.DrawFn) -> bytes:
    raw = bytearray(_VALID[8 : 8 + _LENGTH])
    for _ in range(draw(st.integers(1, 3))):
        place = draw(st.integers(0, len(raw)))
        action = draw(st.sampled_from(["digit"] * 4 + ["replace", "insert", "delete", "double"]))
        if action == "digit":
            digits = [at for at, byte in enumerate(raw) if chr(byte).isdigit()]
            raw[draw(st.sampled_from(digits or [0]))] = ord(draw(st.sampled_from("0123456789")))
        elif action == "insert":
            raw[place:place] = bytes([draw(_BYTE)])
        elif action == "replace":
            raw[place : place + 1] = bytes([draw(_BYTE)])
        else:
            end = place + draw(st.integers(1, 60))
            raw[place:end] = raw[place:end] * (2 if action == "double" else 0)
    length = draw(st.sampled_from([None] * 9) | st.integers(0, len(raw) + 20))
    return with_length(bytes(raw), _VALID[8 + _LENGTH :], length)


_SMALL = st.integers(0, 12)
_NUMBER = _SMALL | st.sampled_from([(1 << 63) - 1, (1 << 64) - 1, 1 << 64, -1, 1.0, -0.0, True])
_DIMENSION = st.sampled_from([0, 1, 2, 3, 4, 8, 1 << 31, 1 << 40, 1 << 60])
_JUNK: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)


@st.composite
def _described(draw: st.DrawFn, begin: int) -> tuple[object, int]:
    """A tensor that lies where it should, most of the time; and its end."""
    encoding = ENCODINGS[draw(st.sampled_from(sorted(ENCODINGS)))]
    shape = draw(st.lists(_DIMENSION | st.integers(0, 4), max_size=3))
    bits = encoding.bits
    for dimension in shape:
        bits *= dimension
    end = begin + (bits // 8 if bits < 1 << 12 else draw(_SMALL))
    fields: dict[str, Any] = entry(encoding.name, shape, [begin, end])
    oddity = draw(st.integers(0, 40))
    if oddity == 0:
        fields["data_offsets"] = draw(st.lists(_NUMBER, max_size=3))
    elif oddity == 1:
        fields["shape"] = draw(st.lists(_NUMBER, max_size=3))
    elif oddity == 2:
        fields["dtype"] = draw(st.sampled_from(["f32", "", "U8", {"U8": None}, {"U8": 1}, None]))
    elif oddity == 3:
        fields[draw(st.sampled_from(["x", "dtype", "shape", "data_offsets"]))] = draw(_JUNK)
    elif oddity == 4:
        del fields[draw(st.sampled_from(["dtype", "shape", "data_offsets"]))]
    elif oddity == 5:
        return list(fields.values()), end
    elif oddity == 6:
        return draw(_JUNK), begin
    return fields, end


def _dump(pairs: list[tuple[str, object]]) -> str:
    """An object with all its pairs, duplicates too."""
    return "{" + ",".join(f"{json.dumps(key)}:{json.dumps(item)}" for key, item in pairs) + "}"


@st.composite
def _structured(draw: st.DrawFn) -> bytes:
    pairs: list[tuple[str, object]] = []
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 1, 1, 2]))):
        strings = st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=2)
        junk = draw(st.integers(0, 9)) == 0
        pairs.append(("__metadata__", draw(_JUNK if junk else strings)))
    end = 0
    for _ in range(draw(st.integers(0, 4))):
        begin = end + draw(st.sampled_from([0] * 12 + [1, -1]))
        described, end = draw(_described(max(begin, 0)))
        pairs.append((draw(st.sampled_from(["a", "b", "c", "d", "e", "é", ""])), described))
    pairs = draw(st.permutations(pairs))
    text = draw(st.sampled_from([""] * 8 + [" ", "\n"])) + _dump(pairs)
    text += draw(st.sampled_from([""] * 12 + [" \n", "\0", ","]))
    size = max(0, end + draw(st.sampled_from([0] * 8 + [1, -1])))
    return with_length(text.encode(), bytes(min(size, 1 << 13)))


@settings(max_examples=200)
@given(_mutated())
@example(_VALID)
def test_changed_bytes_are_judged_as_by_safetensors(content: bytes) -> None:
    _agree(content)


@settings(max_examples=200)
@given(_structured())
@example(with_length(VALID_TEXT.encode(), b"\0\0"))
def test_random_tables_are_judged_as_by_safetensors(content: bytes) -> None:
    _agree(content)


@given(st.binary(max_size=20), st.booleans())
def test_random_bytes_are_judged_as_by_safetensors(content: bytes, is_header: bool) -> None:
    _agree(with_length(content) if is_header else content)


@given(st.text(alphabet='{}[]",:\\0123456789-+.eEtrufalsn \n', max_size=30))
def test_random_texts_in_an_unknown_field_are_judged_as_by_safetensors(text: str) -> None:
    whole = VALID_TEXT.replace('"dtype"', f'"x":{text},"dtype"')
    _agree(with_length(whole.encode(), b"\0\0"))


@given(st.sampled_from(BAD_HEADERS), st.data())
def test_cut_bad_files_are_judged_as_by_safetensors(case: Any, data: st.DataObject) -> None:
    content = case.content[:4096]
    _agree(content[: data.draw(st.integers(0, len(content)))])

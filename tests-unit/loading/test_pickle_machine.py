"""The pickle machine: what it builds, and what it refuses to do."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy.loading import pickle_machine
from comfy.loading.pickle_machine import (
    Constructor,
    Inert,
    PickleMachine,
    PickleProblem,
    UnsafeName,
)
from comfy.loading.pickle_names import Names


def _no_tensors(*_: object) -> tuple[object, int]:
    raise PickleProblem("no tensors here")


NAMES = {
    "a.call": Constructor("a.call", lambda *arguments: list(arguments)),
    "a.fail": Constructor("a.fail", lambda: [][1]),
    "a.inert": Inert("a.inert"),
}


def _find(module: str, name: str) -> object:
    try:
        return NAMES[f"{module}.{name}"]
    except KeyError:
        raise UnsafeName(f"{module}.{name}") from None


def _run(data: bytes) -> object:
    return PickleMachine(io.BytesIO(data), _find, lambda identity: ("id", identity)).run()


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
    | st.binary().map(bytearray),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])) | st.integers(), inner)
    ),
    max_leaves=20,
)


@given(value=PLAIN, protocol=st.integers(2, 5))
def test_plain_values_are_built_as_by_python(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    names = Names(_no_tensors, _no_tensors)
    machine = PickleMachine(io.BytesIO(data), names.find, _no_tensors)
    built = machine.run()
    assert built == pickle.loads(data) == value
    assert repr(built) == repr(value)


@given(value=st.sets(st.integers() | st.binary()), protocol=st.integers(2, 5))
def test_sets_are_built_as_by_python(value: set[object], protocol: int) -> None:
    names = Names(_no_tensors, _no_tensors)
    data = pickle.dumps(value, protocol)
    assert PickleMachine(io.BytesIO(data), names.find, _no_tensors).run() == value


@pytest.mark.parametrize("protocol", [4, 5])
def test_frozen_sets_are_built(protocol: int) -> None:
    value = [frozenset({1, 2}), frozenset()]
    assert _run(pickle.dumps(value, protocol)) == value


@pytest.mark.parametrize(
    ("instructions", "value"),
    [
        (b"I123\n.", 123),
        (b"I-9223372036854775808\n.", -(1 << 63)),
        (b"I01\n.", True),
        (b"I00\n.", False),
        (b"U\x02hi.", "hi"),
        (b"T\x02\0\0\0hi.", "hi"),
        (b"NN0.", None),
        (b"K\x01(NN1.", 1),
        (b"K\x012\x86.", (1, 1)),
        (b"ca\ncall\n(K\x01K\x02tR.", [1, 2]),
        (b"ca\ncall\nK\x05\x85\x81.", [5]),
        (b"\x8c\x01a\x8c\x04call\x93)R.", []),
        (b"ca\ninert\n.", Inert("a.inert")),
        (b"X\x01\0\0\0kQ.", ("id", "k")),
        (b"]r\xff\xff\xff\xffK\x01aj\xff\xff\xff\xff\x86.", ([1], [1])),
    ],
)
def test_instructions_of_other_writers_are_known(instructions: bytes, value: object) -> None:
    assert _run(b"\x80\x02" + instructions) == value


def test_several_pickles_follow_each_other() -> None:
    stream = io.BytesIO(pickle.dumps(1, 2) + pickle.dumps([2], 2) + b"rest")
    machine = PickleMachine(stream, _find, _no_tensors)
    assert (machine.run(), machine.run()) == (1, [2])
    assert stream.read() == b"rest"


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"", "it ends where 1 more bytes"),
        (b"K\x01.", "does not begin with a protocol"),
        (b"\x80\x06N.", "does not begin with a protocol"),
        (b"\x80\x02", "it ends where 1 more bytes"),
        (b"\x80\x02N", "it ends where 1 more bytes"),
        (b"\x80\x02.", "do not fit together"),
        (b"\x80\x02(.", "do not fit together"),
        (b"\x80\x02t.", "do not fit together"),
        (b"\x80\x02(a.", "do not fit together"),
        (b"\x80\x02h\x01.", "do not fit together"),
        (b"\x80\x02q\x01.", "do not fit together"),
        (b"\x80\x02R.", "do not fit together"),
        (b"\x80\x02}K\x01s.", "do not fit together"),
        (b"\x80\x02}(K\x01u.", "a key in it has no value"),
        (b"\x80\x02K\x01K\x02a.", "it fills a int as if it were a list"),
        (b"\x80\x02](NNu.", "it fills a list as if it were a dict"),
        (b"\x80\x02]Ne(.", "do not fit together"),
        (b"\x80\x02X\x05\0\0\0hi.", "it ends where 5 more bytes"),
        (b"\x80\x02X\x02\0\0\0\xff\xff.", "do not fit together"),
        (b"\x80\x02X\xff\xff\xff\xff.", "longer than 100,000,000 bytes"),
        (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "longer than 100,000,000 bytes"),
        (b"\x80\x05\x96" + b"\xff" * 8 + b".", "longer than 100,000,000 bytes"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "longer than 100,000,000 bytes"),
        (b"\x80\x02I" + b"9" * 1000 + b"\n.", "an integer in it is too long"),
        (b"\x80\x02Ione\n.", "b'one' is not an integer"),
        (b"\x80\x02I1", "a name in it has no end"),
        (b"\x80\x02ca\n", "a name in it has no end"),
        (b"\x80\x02c" + b"a" * 2000 + b"\nb\n.", "a name in it has no end"),
        (b"\x80\x02cb\nc\n.", "it asks for 'b.c'"),
        (b"\x80\x02ca\xff\nc\n.", "do not fit together"),
        (b"\x80\x04K\x01K\x02\x93.", "a name in it is not a text"),
        (b"\x80\x02ca\ninert\n)R.", "it calls 'a.inert', which may not be called"),
        (b"\x80\x02ca\ninert\n)\x81.", "it calls 'a.inert', which may not be called"),
        (b"\x80\x02K\x01)R.", "it calls 'int', which may not be called"),
        (b"\x80\x02ca\ncall\nK\x01R.", "it calls 'a.call', which may not be called"),
        (b"\x80\x02ca\nfail\n)R.", "it calls 'a.fail' in a wrong way"),
        (b"\x80\x02ca\ncall\n}X\x01\0\0\0kK\x01sb.", "it changes the state of a Constructor"),
        (b"\x80\x02ca\ninert\n}b.", "it changes the state of a Inert"),
        (b"\x80\x02]}b.", "it changes the state of a list"),
        (b"\x80\x02}]Ns.", "a list is used as a key"),
        (b"\x80\x02})\x85\x85Ns.", "a tuple is used as a key"),
        (b"\x80\x02}ca\ncall\nNs.", "a Constructor is used as a key"),
        (b"\x80\x04\x8f(]\x90.", "a list is used as a key"),
        (b"\x80\x04(]\x91.", "a list is used as a key"),
        (b"\x80\x02ia\nb\n.", "instruction 0x69"),
        (b"\x80\x02(o.", "instruction 0x6f"),
        (b"\x80\x02P1\n.", "instruction 0x50"),
        (b"\x80\x02S'os'\n.", "instruction 0x53"),
        (b"\x80\x02\x82\x01.", "instruction 0x82"),
        (b"\x80\x04\x92.", "instruction 0x92"),
        (b"\x80\x05\x97.", "instruction 0x97"),
        (b"\x80\x02\xff.", "instruction 0xff"),
    ],
)
def test_wrong_or_harmful_instructions_are_refused(data: bytes, told: str) -> None:
    with pytest.raises(PickleProblem, match=told):
        _run(data)


def test_deep_key_does_not_overflow_the_stack() -> None:
    data = b"\x80\x02})" + b"\x85" * 200_000 + b"Ns."
    with pytest.raises(PickleProblem, match="a tuple is used as a key"):
        _run(data)


def test_memo_takes_no_more_than_what_is_put_there() -> None:
    data = b"\x80\x02Nr" + struct.pack("<I", 0xFFFFFFFF) + b"."
    tracemalloc.start()
    try:
        assert _run(data) is None
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 16


def test_endless_pickle_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_machine, "MAX_INSTRUCTIONS", 100)
    assert _run(b"\x80\x02" + b"N" * 99 + b".") is None
    with pytest.raises(PickleProblem, match="more than 100 instructions"):
        _run(b"\x80\x02" + b"N" * 100 + b".")


@given(st.binary(max_size=60))
def test_any_bytes_are_built_or_refused(data: bytes) -> None:
    try:
        _run(b"\x80\x02" + data)
    except PickleProblem as err:
        assert str(err)

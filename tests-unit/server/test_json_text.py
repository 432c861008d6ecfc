"""JSON of whatever packs put into answers."""

from __future__ import annotations

import asyncio
import enum
import json
from typing import Any

import numpy as np
import pytest
import torch

from api_server.utils.json_text import answer, dumps, long_answer

LARGEST = 1.7976931348623157e308


class Kind(str, enum.Enum):
    IMAGE = "IMAGE"


class Thing:
    def __str__(self) -> str:
        return "a thing"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ({"a": [1, 2.5, None, True, "ü"]}, {"a": [1, 2.5, None, True, "ü"]}),
        ((1, (2, 3)), [1, [2, 3]]),
        (float("nan"), None),
        ({"x": float("inf"), "y": [-float("inf")]}, {"x": LARGEST, "y": [-LARGEST]}),
        ({3, 1, 2}, [1, 2, 3]),
        ([np.float32(0.5), np.int64(7), np.bool_(True)], [0.5, 7, True]),
        (np.float64("nan"), None),
        (torch.tensor(3), 3),
        ({1: "a", None: "b", (1, 2): "c"}, {"1": "a", "null": "b", "(1, 2)": "c"}),
        (Kind.IMAGE, "IMAGE"),
        ([Thing(), Thing], ["a thing", str(Thing)]),
        (b"raw", "b'raw'"),
        (2**70, 2**70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_everything_has_a_form_in_strict_json(value: Any, wanted: Any) -> None:
    def refuse(word: str) -> Any:
        raise AssertionError(word)

    assert json.loads(dumps(value), parse_constant=refuse) == wanted


def test_arrays_are_named_and_not_spelled_out() -> None:
    assert json.loads(dumps({"x": torch.zeros(2)})) == {"x": str(torch.zeros(2))}


def test_the_same_value_may_stand_in_two_places() -> None:
    shared = [float("nan")]
    assert json.loads(dumps([shared, shared])) == [[None], [None]]


def test_what_contains_itself_has_none() -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(ValueError, match="contains itself"):
        dumps(endless)


def test_a_long_answer_says_what_a_short_one_does() -> None:
    entries = {"a": 1, 'with "marks"': [float("nan")], "ü": {"deep": {1}}}
    for told in (entries, {}):
        made = asyncio.run(long_answer(told))
        assert (made.text, made.content_type) == (answer(told).text, "application/json")


def test_others_have_their_turn_at_each_entry_of_a_long_answer() -> None:
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> None:
        beside = asyncio.create_task(other())
        await long_answer(dict.fromkeys(map(str, range(100))))
        beside.cancel()

    asyncio.run(both())
    assert turns >= 100

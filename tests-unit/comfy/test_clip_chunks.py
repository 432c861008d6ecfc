from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from comfy.clip_chunks import ChunkFormat, Token, chunks_of

FORM = ChunkFormat(start=-1, end=-2, pad=-3, max_length=12, max_word_length=4)


def words(*lengths: int) -> list[list[Token]]:
    """Words whose tokens count up from 0, over all of them."""
    made: list[list[Token]] = []
    count = 0
    for number, length in enumerate(lengths, start=1):
        made.append([(count + i, 1.0, number) for i in range(length)])
        count += length
    return made


def contents(lengths: tuple[int, ...]) -> list[list[int]]:
    return [
        [token for token, _, number in chunk if number]
        for chunk in chunks_of(words(*lengths), FORM)
    ]


@pytest.mark.parametrize(
    ("lengths", "filled"),
    [
        ((), [0]),
        ((10,), [10]),
        ((9, 1), [10]),
        ((9, 3), [9, 3]),  # short words stay whole
        ((9, 4), [10, 3]),  # long ones are parted
        ((25,), [10, 10, 5]),
        ((10, 4), [10, 4]),
        ((8, 3, 3), [8, 6]),
    ],
)
def test_words_are_laid_into_chunks(lengths: tuple[int, ...], filled: list[int]) -> None:
    assert [len(chunk) for chunk in contents(lengths)] == filled


@given(st.lists(st.integers(0, 30), max_size=12))
def test_chunks_hold_all_tokens_in_order_between_markers(lengths: list[int]) -> None:
    chunks = chunks_of(words(*lengths), FORM)
    kept = [token for chunk in chunks for token, _, number in chunk if number]
    assert kept == list(range(sum(lengths)))
    for chunk in chunks:
        ids = [token for token, _, _ in chunk]
        end = ids.index(-2)
        assert len(ids) == 12
        assert ids[0] == -1
        assert ids[end + 1 :] == [-3] * (11 - end)


def test_a_word_longer_than_a_chunk_is_parted_even_if_it_counts_as_short() -> None:
    form = ChunkFormat(start=-1, end=-2, pad=-3, max_length=5)
    assert len(chunks_of(words(7), form)) == 3

"""Small things that nodes share."""

from __future__ import annotations

import hashlib

import pytest
import torch
from PIL import ImageFile

import node_helpers


def test_set_values_leave_the_given_conditioning_alone() -> None:
    given = [[torch.zeros(1), {"a": 1}]]
    made = node_helpers.conditioning_set_values(given, {"b": 2})
    assert made[0][1] == {"a": 1, "b": 2}
    assert given[0][1] == {"a": 1}
    assert made[0][0] is given[0][0]


@pytest.mark.parametrize(("append", "result"), [(False, [2]), (True, [1, 2])])
def test_lists_are_appended_only_when_asked(append: bool, result: list[int]) -> None:
    made = node_helpers.conditioning_set_values([["c", {"a": [1]}]], {"a": [2]}, append=append)
    assert made[0][1]["a"] == result


def test_a_refused_picture_is_tried_again_as_a_cut_one() -> None:
    tries = []

    def load(name: str) -> str:
        tries.append(ImageFile.LOAD_TRUNCATED_IMAGES)
        if not ImageFile.LOAD_TRUNCATED_IMAGES:
            raise OSError("cut short")
        return name

    assert node_helpers.pillow(load, "picture") == "picture"
    assert tries == [False, True]
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_a_picture_refused_twice_is_an_error() -> None:
    def load(name: str) -> None:
        raise ValueError(name)

    with pytest.raises(ValueError, match="picture"):
        node_helpers.pillow(load, "picture")
    assert not ImageFile.LOAD_TRUNCATED_IMAGES


def test_the_hash_is_the_flags() -> None:
    assert node_helpers.hasher()(b"x").hexdigest() == hashlib.sha256(b"x").hexdigest()


@pytest.mark.parametrize(
    ("word", "dtype"),
    [("fp32", torch.float32), ("fp16", torch.float16), ("bf16", torch.bfloat16), ("x", None)],
)
def test_words_mean_dtypes(word: str, dtype: torch.dtype | None) -> None:
    assert node_helpers.string_to_torch_dtype(word) is dtype


@pytest.mark.parametrize(("mine", "other"), [(3, 4), (4, 3), (3, 3)])
def test_channels_become_equal(mine: int, other: int) -> None:
    destination, source = node_helpers.image_alpha_fix(
        torch.zeros(1, 2, 2, mine), torch.zeros(1, 2, 2, other)
    )
    assert destination.shape[-1] == source.shape[-1] == mine
    assert source[..., other:].eq(1).all()
    assert source[..., : min(mine, other)].eq(0).all()

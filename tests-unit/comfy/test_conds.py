"""Which conditioning values join in a batch, and what they become."""

from __future__ import annotations

import pytest
import torch

from comfy.conds import CONDConstant, CONDCrossAttn, CONDList, CONDNoiseShape, CONDRegular


def test_rows_are_repeated_and_cut_to_the_batch() -> None:
    value = CONDRegular(torch.tensor([[1.0], [2.0]]))
    assert value.process_cond(batch_size=3).cond.tolist() == [[1.0], [2.0], [1.0]]
    assert value.process_cond(batch_size=1).cond.tolist() == [[1.0]]


def test_subclass_stays_itself_when_processed() -> None:
    class Mine(CONDRegular):
        pass

    assert isinstance(Mine(torch.zeros(1, 2)).process_cond(batch_size=2), Mine)


def test_area_is_cut_out_of_what_is_laid_out_as_the_latent() -> None:
    plane = torch.arange(20.0).reshape(1, 1, 4, 5)
    cut = CONDNoiseShape(plane).process_cond(batch_size=2, area=(2, 3, 1, 2)).cond
    assert cut.shape == (2, 1, 2, 3)
    assert torch.equal(cut[1], plane[0, :, 1:3, 2:5])
    assert torch.equal(CONDNoiseShape(plane).process_cond(batch_size=1, area=None).cond, plane)


@pytest.mark.parametrize(
    ("mine", "its", "joins"),
    [
        ((1, 77, 8), (1, 77, 8), True),
        ((1, 77, 8), (1, 154, 8), True),
        ((1, 154, 8), (1, 231, 8), True),
        ((1, 77, 8), (1, 308, 8), True),
        ((1, 77, 8), (1, 385, 8), False),
        ((1, 76, 8), (1, 77, 8), False),
        ((1, 77, 8), (1, 77, 9), False),
        ((1, 77, 8), (2, 77, 8), False),
    ],
)
def test_prompts_of_near_lengths_join(
    mine: tuple[int, ...], its: tuple[int, ...], joins: bool
) -> None:
    assert CONDCrossAttn(torch.zeros(mine)).can_concat(CONDCrossAttn(torch.zeros(its))) is joins


def test_repeated_tokens_give_the_same_attention() -> None:
    random = torch.Generator().manual_seed(0)
    short = torch.randn(1, 3, 4, generator=random)
    long = torch.randn(1, 6, 4, generator=random)
    query = torch.randn(1, 5, 4, generator=random)
    joined = CONDCrossAttn(long).concat([CONDCrossAttn(short)])
    assert joined.shape == (2, 6, 4)
    attend = torch.nn.functional.scaled_dot_product_attention
    torch.testing.assert_close(attend(query, joined[1:], joined[1:]), attend(query, short, short))


@pytest.mark.parametrize(
    ("mine", "its", "joins"),
    [
        (3, 3, True),
        (3, 4, False),
        (torch.ones(2), torch.ones(2), True),
        (torch.ones(2), torch.zeros(2), False),
        (torch.ones(2), torch.ones(3), False),
        (None, None, True),
    ],
)
def test_constants_join_when_they_are_equal(mine: object, its: object, joins: bool) -> None:
    assert CONDConstant(mine).can_concat(CONDConstant(its)) is joins
    assert CONDConstant(mine).process_cond(batch_size=4).concat([CONDConstant(its)]) is mine
    assert CONDConstant(mine).size() == [1]


def test_lists_join_place_by_place() -> None:
    mine = CONDList([torch.zeros(1, 2), torch.zeros(1, 3)]).process_cond(batch_size=2)
    its = CONDList([torch.ones(2, 2), torch.ones(2, 3)])
    assert mine.can_concat(its)
    assert [tensor.shape for tensor in mine.concat([its])] == [(4, 2), (4, 3)]
    assert mine.size() == [1, 1, 10]
    assert not mine.can_concat(CONDList([torch.ones(2, 2)]))
    assert not mine.can_concat(CONDList([torch.ones(2, 2), torch.ones(2, 4)]))


@pytest.mark.parametrize("shape", [(1, 2), (3, 4, 5)])
def test_size_is_the_shape(shape: tuple[int, ...]) -> None:
    assert CONDRegular(torch.zeros(shape)).size() == list(shape)
    assert not CONDRegular(torch.zeros(shape)).can_concat(CONDRegular(torch.zeros(7)))

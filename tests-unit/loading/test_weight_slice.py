"""Ranges of weight files that are tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from comfy.loading.errors import NotASlice
from comfy.loading.weight_file import FileTable, WeightFile
from comfy.loading.weight_slice import WeightSlice


@pytest.fixture
def file(tmp_path: Path) -> WeightFile:
    path = tmp_path / "model.bin"
    path.write_bytes(bytes(range(200)))
    return FileTable().open(path)


def make_slice(file: WeightFile, shape: tuple[int, ...]) -> WeightSlice:
    nbytes = 4 * torch.Size(shape).numel()
    return WeightSlice(file, 8, nbytes, torch.float32, shape, "F32", "w")


def test_narrow_gives_the_rows(file: WeightFile) -> None:
    part = make_slice(file, (6, 5)).narrow(2, 3)
    assert (part.offset, part.nbytes, part.shape) == (8 + 2 * 20, 60, (3, 5))
    assert part.end == part.offset + 60


@pytest.mark.parametrize(("start", "length"), [(-1, 2), (5, 2), (0, 7), (2, -1)])
def test_narrow_outside_is_no_slice(file: WeightFile, start: int, length: int) -> None:
    with pytest.raises(NotASlice) as caught:
        make_slice(file, (6, 5)).narrow(start, length)
    assert caught.value.tensor == "w"


def test_narrow_of_a_scalar_is_no_slice(file: WeightFile) -> None:
    with pytest.raises(NotASlice):
        make_slice(file, ()).narrow(0, 1)


def test_view_keeps_the_bytes(file: WeightFile) -> None:
    part = make_slice(file, (6, 5)).view((30,))
    assert (part.offset, part.nbytes, part.shape) == (8, 120, (30,))


def test_view_of_another_size_is_no_slice(file: WeightFile) -> None:
    with pytest.raises(NotASlice):
        make_slice(file, (6, 5)).view((7,))

"""Windows cover every byte once, in file order, within the limit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from comfy.loading.page_cache import DIRECT_BLOCK_BYTES
from comfy.loading.pages import round_down
from comfy.loading.weight_file import FileTable, WeightFile
from comfy.loading.weight_slice import WeightSlice
from comfy.loading.windows import MAX_GAP_BYTES, Window, plan_windows

LIMIT = 64 * 1024


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> WeightFile:
    path = tmp_path_factory.mktemp("windows") / "x"
    path.write_bytes(b"x")
    return FileTable().open(path)


def slices_of(file: WeightFile, spans: list[tuple[int, int]], item: int = 1) -> list[WeightSlice]:
    dtype = {1: torch.uint8, 2: torch.float16, 4: torch.float32, 8: torch.int64}[item]
    return [
        WeightSlice(file, offset, nbytes, dtype, (nbytes // item,), "") for offset, nbytes in spans
    ]


def check(slices: list[WeightSlice], windows: list[Window]) -> None:
    covered = [0] * len(slices)
    for window in windows:
        assert (
            window.offset + window.nbytes - round_down(window.offset, DIRECT_BLOCK_BYTES) <= LIMIT
        )
        for piece in window.pieces:
            wanted = slices[piece.index]
            assert wanted.offset + piece.start == window.offset + piece.position
            assert 0 <= piece.position <= piece.position + piece.nbytes <= window.nbytes
            assert piece.start == covered[piece.index]
            assert piece.start % wanted.dtype.itemsize == 0
            covered[piece.index] += piece.nbytes
    assert covered == [one.nbytes for one in slices]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3 * MAX_GAP_BYTES), st.integers(0, 200_000)), max_size=12),
    st.sampled_from([1, 2, 4, 8]),
    st.integers(0, 9),
)
def test_every_byte_is_in_exactly_one_piece(
    file: WeightFile, gaps_and_sizes: list[tuple[int, int]], item: int, start: int
) -> None:
    spans, position = [], start
    for gap, size in gaps_and_sizes:
        position += gap
        spans.append((position, size // item * item))
        position += spans[-1][1]
    slices = slices_of(file, spans, item)
    check(slices, list(plan_windows(slices, LIMIT)))


def test_small_neighbours_share_a_window(file: WeightFile) -> None:
    slices = slices_of(file, [(i * 100, 100) for i in range(50)])
    windows = list(plan_windows(slices, LIMIT))
    assert len(windows) == 1
    assert len(windows[0].pieces) == 50


def test_large_gap_is_not_read(file: WeightFile) -> None:
    slices = slices_of(file, [(0, 100), (100 + MAX_GAP_BYTES + 1, 100)])
    assert [one.nbytes for one in plan_windows(slices, LIMIT)] == [100, 100]


def test_windows_of_a_large_tensor_end_at_blocks(file: WeightFile) -> None:
    slices = slices_of(file, [(1000, 300_000)], item=4)
    windows = list(plan_windows(slices, LIMIT))
    assert all((one.offset + one.nbytes) % DIRECT_BLOCK_BYTES == 0 for one in windows[:-1])


def test_tensors_that_share_bytes_are_both_covered(file: WeightFile) -> None:
    slices = slices_of(file, [(0, 150_000), (0, 150_000), (1000, 100_000)])
    check(slices, list(plan_windows(slices, LIMIT)))


def test_empty_slices_need_no_window(file: WeightFile) -> None:
    assert list(plan_windows(slices_of(file, [(0, 0), (50, 0)]), LIMIT)) == []

"""Tiles: how many, where, how they are blended."""

from __future__ import annotations

import pytest
import torch

from comfy.tiles import get_tiled_scale_steps, tiled_scale, tiled_scale_multidim


class Count:
    calls = 0

    def update(self, value: int) -> None:
        self.calls += value


def enlarge(tile: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.interpolate(tile, scale_factor=4, mode="nearest")


@pytest.mark.parametrize(
    ("size", "tile", "overlap"),
    [
        ((64, 64), 64, 8),
        ((100, 70), 32, 8),
        ((65, 64), 64, 0),
        ((33, 90), 16, 15),
        ((40, 9), 24, 4),
    ],
)
def test_function_that_looks_at_single_pixels_gives_what_it_gives_on_the_whole(
    size: tuple[int, int], tile: int, overlap: int
) -> None:
    samples, count = torch.rand(2, 3, *size), Count()
    result = tiled_scale(samples, enlarge, tile, tile, overlap, 4, 3, pbar=count)
    assert torch.allclose(result, enlarge(samples), atol=1e-6)
    assert count.calls == 2 * get_tiled_scale_steps(size[1], size[0], tile, tile, overlap)


@pytest.mark.parametrize(
    ("width", "height", "steps"),
    [(64, 64, 1), (65, 64, 2), (120, 64, 2), (121, 64, 3), (200, 200, 16)],
)
def test_steps_are_counted(width: int, height: int, steps: int) -> None:
    assert get_tiled_scale_steps(width, height, 64, 64, 8) == steps


def test_what_fits_one_tile_is_one_direct_call() -> None:
    seen: list[torch.Size] = []

    def function(tile: torch.Tensor) -> torch.Tensor:
        seen.append(tile.shape)
        return tile

    samples = torch.rand(1, 3, 20, 30)
    result = tiled_scale(samples, function, 30, 20, 8, 1)
    assert seen == [samples.shape] and torch.equal(result, samples)


def test_tiles_overlap_by_at_least_what_was_asked() -> None:
    sizes: list[int] = []

    def function(tile: torch.Tensor) -> torch.Tensor:
        sizes.append(tile.shape[-1])
        return tile

    tiled_scale_multidim(torch.rand(1, 1, 100), function, (40,), 10, 1, 1)
    assert sizes == [40, 40, 40]  # at 0, 30 and 60


def test_seam_is_blended_along_a_straight_line() -> None:
    values = iter([0.0, 1.0])

    def function(tile: torch.Tensor) -> torch.Tensor:
        return torch.full_like(tile, next(values))

    result = tiled_scale_multidim(torch.zeros(1, 1, 28), function, (16,), 4, 1, 1).flatten()
    # Weights 4/4 3/4 2/4 1/4 of the first meet 1/4 2/4 3/4 4/4 of the second.
    expected = [0.0] * 12 + [0.2, 0.4, 0.6, 0.8] + [1.0] * 12
    assert result.tolist() == pytest.approx(expected)


def test_amounts_may_be_functions_for_each_axis() -> None:
    def frames(size: float) -> float:
        return max(0, size * 8 - 7)

    def decode(tile: torch.Tensor) -> torch.Tensor:
        size = (int(frames(tile.shape[2])), tile.shape[3] * 2)
        return torch.nn.functional.interpolate(tile, size=size)

    samples = torch.rand(1, 1, 9, 12)
    result = tiled_scale_multidim(
        samples, decode, (4, 8), (1, 2), (frames, 2), 1, index_formulas=(8, 2)
    )
    assert result.shape == (1, 1, 65, 24)
    assert result.isfinite().all()


def test_downscaling_divides() -> None:
    samples = torch.rand(1, 3, 96, 64)
    pool = torch.nn.AvgPool2d(8)
    result = tiled_scale_multidim(samples, pool, (32, 32), 16, 8, 3, downscale=True)
    assert torch.allclose(result, pool(samples), atol=1e-6)


def test_half_precision_is_added_up_in_fp32() -> None:
    samples = torch.rand(1, 3, 70, 70)
    result = tiled_scale(samples, lambda tile: tile.half(), 32, 32, 8, 1)
    assert result.dtype == torch.float32
    assert torch.allclose(result, samples.half().float(), atol=1e-6)


def test_result_lies_on_the_output_device(simgpu: object) -> None:
    samples = torch.rand(1, 3, 20, 20)
    result = tiled_scale(samples, enlarge, 16, 16, 4, output_device="simgpu:0")
    assert result.device == torch.device("simgpu:0")
    assert torch.allclose(result.cpu(), enlarge(samples), atol=1e-6)


def test_tiles_no_larger_than_their_overlap_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot overlap"):
        tiled_scale(torch.rand(1, 3, 64, 64), enlarge, 8, 8, 8)

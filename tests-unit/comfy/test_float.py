"""Stochastic rounding to eight bits: its mean, its neighbours, its range, its repeatability."""

from __future__ import annotations

import pytest
import torch

from comfy.float import FLOAT8_TYPES, stochastic_rounding
from support.simulated_device import SimulatedDevice

COUNT = 200_000


@pytest.mark.parametrize("dtype", FLOAT8_TYPES)
@pytest.mark.parametrize("value", [0.3, -1.7, 100.3, 0.0011, -0.00003, 0.0])
def test_the_mean_of_many_roundings_is_the_value(dtype: torch.dtype, value: float) -> None:
    many = stochastic_rounding(torch.full((COUNT,), value), dtype, seed=3).double()
    spread = float(many.max() - many.min())
    # Five standard errors of a variable that takes two values, `spread` apart.
    assert abs(float(many.mean()) - value) <= 5 * 0.5 * spread / COUNT**0.5 + 1e-9
    assert len(many.unique()) <= 2


@pytest.mark.parametrize("dtype", FLOAT8_TYPES)
def test_every_number_of_the_format_stays_what_it_is(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    every = every[torch.isfinite(every)]
    assert torch.equal(stochastic_rounding(every, dtype, seed=1).float(), every)


@pytest.mark.parametrize("dtype", FLOAT8_TYPES)
def test_each_value_goes_to_one_of_its_two_neighbours(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    grid = every[torch.isfinite(every)].unique()
    values = torch.randn(5000, generator=torch.Generator().manual_seed(5)) * 3
    rounded = stochastic_rounding(values, dtype, seed=2).float()
    above = torch.searchsorted(grid, values)
    is_upper, is_lower = rounded == grid[above], rounded == grid[above - 1]
    assert bool((is_upper | is_lower).all())
    assert bool(is_upper.any())
    assert bool(is_lower.any())


def test_what_is_out_of_range_becomes_the_largest_number() -> None:
    values = torch.tensor([1e6, -1e6, 448.0, float("inf")])
    rounded = stochastic_rounding(values, torch.float8_e4m3fn).float()
    assert rounded.tolist() == [448.0, -448.0, 448.0, 448.0]


def test_the_seed_decides_and_so_does_nothing_else(simgpu: SimulatedDevice) -> None:
    values = torch.randn(3, 1 << 19, generator=torch.Generator().manual_seed(9))
    once = stochastic_rounding(values, torch.float8_e4m3fn, seed=1).view(torch.uint8)
    torch.manual_seed(77)
    again = stochastic_rounding(values, torch.float8_e4m3fn, seed=1).view(torch.uint8)
    there = stochastic_rounding(values.to(simgpu.device), torch.float8_e4m3fn, seed=1)
    other = stochastic_rounding(values, torch.float8_e4m3fn, seed=2).view(torch.uint8)
    assert torch.equal(once, again)
    assert torch.equal(once, there.cpu().view(torch.uint8))
    assert not torch.equal(once, other)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_wider_formats_round_to_nearest(dtype: torch.dtype) -> None:
    values = torch.randn(100)
    assert torch.equal(stochastic_rounding(values, dtype, seed=1), values.to(dtype))

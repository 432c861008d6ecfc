"""The embedding of timesteps; groups of norms."""

from __future__ import annotations

import math

import pytest
import torch

from comfy.ldm.modules.diffusionmodules.util import norm_groups, timestep_embedding


@pytest.mark.parametrize("t", [0.0, 1.0, 12.5, 999.0])
@pytest.mark.parametrize(("dim", "period"), [(8, 10000.0), (320, 10000.0), (6, 100.0)])
def test_cosines_stand_before_sines(t: float, dim: int, period: float) -> None:
    half = dim // 2
    frequencies = [period ** (-k / half) for k in range(half)]
    wanted = [math.cos(t * f) for f in frequencies] + [math.sin(t * f) for f in frequencies]
    got = timestep_embedding(torch.tensor([0.5, t]), dim, period)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got[1], torch.tensor(wanted), atol=2e-4, rtol=0)


def test_an_odd_width_ends_with_zero() -> None:
    t = torch.tensor([1.0, 2.0])
    got = timestep_embedding(t, 7)
    assert torch.equal(got[:, :6], timestep_embedding(t, 6))
    assert torch.equal(got[:, 6], torch.zeros(2))


def test_integers_are_embedded_as_numbers() -> None:
    assert torch.equal(
        timestep_embedding(torch.tensor([7]), 8), timestep_embedding(torch.tensor([7.0]), 8)
    )


def test_it_may_only_repeat() -> None:
    got = timestep_embedding(torch.tensor([1.0, 2.0]), 3, repeat_only=True)
    assert got.tolist() == [[1.0] * 3, [2.0] * 3]


@pytest.mark.parametrize(
    ("channels", "groups"), [(1280, 32), (320, 32), (128, 32), (96, 24), (64, 16), (32, 8), (3, 1)]
)
def test_no_group_of_a_narrow_network_is_a_single_channel(channels: int, groups: int) -> None:
    assert norm_groups(channels) == groups

"""Brownian noise: increments of one path, seeded."""

from __future__ import annotations

import pytest
import torch

from comfy.k_diffusion.noise import BatchedBrownianTree, BrownianTreeNoiseSampler

X = torch.zeros(3, 40, dtype=torch.float64)


def test_increments_add_up_and_turn_their_sign() -> None:
    tree = BatchedBrownianTree(X, 0.1, 10.0, seed=4)
    whole = tree(0.1, 8.0)
    assert torch.allclose(tree(0.1, 3.0) + tree(3.0, 8.0), whole)
    assert torch.equal(tree(8.0, 0.1), -whole)


def test_the_path_does_not_depend_on_what_was_asked_before() -> None:
    first, second = (BatchedBrownianTree(X, 0.0, 4.0, seed=4) for _ in range(2))
    second(0.3, 1.7)
    assert torch.equal(first(1.0, 2.0), second(1.0, 2.0))
    assert not torch.equal(first(1.0, 2.0), BatchedBrownianTree(X, 0.0, 4.0, seed=5)(1.0, 2.0))
    unseeded = BatchedBrownianTree(X, 0.0, 4.0)
    assert not torch.equal(unseeded(0.0, 4.0), BatchedBrownianTree(X, 0.0, 4.0)(0.0, 4.0))


def test_each_sample_may_have_a_seed() -> None:
    batch = BatchedBrownianTree(X, 0.0, 4.0, seed=[7, 8, 7])(1.0, 2.0)
    single = BatchedBrownianTree(X[:1], 0.0, 4.0, seed=[8])(1.0, 2.0)
    assert torch.equal(batch[0], batch[2])
    assert torch.equal(batch[1], single[0])
    assert not torch.equal(batch[0], batch[1])
    with pytest.raises(ValueError, match="2 seeds were given for a batch of 3"):
        BatchedBrownianTree(X, 0.0, 4.0, seed=[1, 2])


def test_noise_has_unit_variance_whatever_the_step() -> None:
    x = torch.zeros(4000)
    noise = BrownianTreeNoiseSampler(x, 0.1, 10.0, seed=3)
    steps = [noise(10.0, 4.0), noise(4.0, 3.9), noise(0.11, 0.1)]
    for step in steps:
        assert step.mean().item() == pytest.approx(0, abs=4 / 4000**0.5)
        assert step.var().item() == pytest.approx(1, rel=4 * (2 / 4000) ** 0.5)
        assert step.dtype == torch.float32
    assert abs((steps[0] * steps[1]).mean().item()) < 4 / 4000**0.5


def test_levels_a_rounding_error_outside_are_taken_for_the_ends() -> None:
    sampler = BrownianTreeNoiseSampler(X, torch.tensor(0.0291675), torch.tensor(14.614642), seed=1)
    assert torch.isfinite(sampler(torch.tensor(14.61465), torch.tensor(0.02916))).all()


def test_time_may_be_transformed() -> None:
    plain = BrownianTreeNoiseSampler(X, 1.0, 100.0, seed=1, transform=lambda s: s / 10)
    inner = BatchedBrownianTree(X, 0.1, 10.0, seed=1)
    assert torch.allclose(plain(50.0, 10.0), inner(5.0, 1.0) / 2.0)

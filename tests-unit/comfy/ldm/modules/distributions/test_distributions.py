"""Distributions of latents."""

from __future__ import annotations

import torch
from torch.distributions import Normal, kl_divergence

from comfy.ldm.modules.distributions.distributions import DiagonalGaussianDistribution


def parameters() -> torch.Tensor:
    return torch.randn(2, 8, 3, 5, generator=torch.Generator().manual_seed(0))


def test_means_stand_before_logarithms_of_variances() -> None:
    given = parameters()
    posterior = DiagonalGaussianDistribution(given)
    assert torch.equal(posterior.mode(), given[:, :4])
    torch.testing.assert_close(posterior.var, given[:, 4:].exp())
    torch.testing.assert_close(posterior.std, given[:, 4:].exp().sqrt())


def test_variances_stay_finite() -> None:
    extreme = torch.tensor([0.0, 0.0, -1e5, 1e5]).reshape(1, 4, 1, 1)
    posterior = DiagonalGaussianDistribution(extreme)
    assert posterior.logvar.flatten().tolist() == [-30.0, 20.0]
    assert torch.isfinite(posterior.var).all()


def test_the_divergence_is_that_from_the_standard_normal_distribution() -> None:
    posterior = DiagonalGaussianDistribution(parameters())
    standard = Normal(torch.zeros(()), torch.ones(()))
    wanted = kl_divergence(Normal(posterior.mean, posterior.std), standard).flatten(1).sum(1)
    torch.testing.assert_close(posterior.kl(), wanted)


def test_samples_have_mean_and_deviation_and_depend_on_the_seed() -> None:
    posterior = DiagonalGaussianDistribution(torch.tensor([3.0, -1.0]).reshape(1, 2, 1, 1))
    generator = torch.Generator().manual_seed(1)
    samples = torch.cat([posterior.sample(generator) for _ in range(4000)]).flatten()
    # Within five standard errors.
    std = float(torch.tensor(-0.5).exp())
    assert abs(samples.mean() - 3.0) < 5 * std / 4000**0.5
    assert abs(samples.std() - std) < 5 * std / 8000**0.5
    again = posterior.sample(torch.Generator().manual_seed(1))
    assert torch.equal(again.flatten(), samples[:1])


def test_a_deterministic_one_has_no_variance() -> None:
    posterior = DiagonalGaussianDistribution(parameters(), deterministic=True)
    assert torch.equal(posterior.sample(), posterior.mode())
    assert posterior.kl().tolist() == [0.0, 0.0]

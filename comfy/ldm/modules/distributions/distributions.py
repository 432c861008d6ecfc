"""What a variational encoder says about a latent."""

from __future__ import annotations

import torch


class DiagonalGaussianDistribution:
    """Independent normal distributions.

    Attributes:
        mean: [batch, channels, height, width].
        logvar: Logarithm of the variance, between -30 and 20.
        std: Standard deviation.
        var: Variance.
    """

    def __init__(self, parameters: torch.Tensor, deterministic: bool = False) -> None:
        """Take them from an encoder.

        Args:
            parameters: [batch, 2 * channels, height, width]: means, then logarithms of variances.
            deterministic: The variance is zero.
        """
        self.mean, logvar = parameters.chunk(2, dim=1)
        self.logvar = logvar.clamp(-30.0, 20.0)
        self.deterministic = deterministic
        self.std = torch.exp(0.5 * self.logvar)
        self.var = torch.exp(self.logvar)
        if deterministic:
            self.std = self.var = torch.zeros_like(self.mean)

    def sample(self, generator: torch.Generator | None = None) -> torch.Tensor:
        """Draw; noise of the means' dtype, from torch's global generator if None."""
        noise = torch.randn(
            self.mean.shape, generator=generator, dtype=self.mean.dtype, device=self.mean.device
        )
        return self.mean + self.std * noise

    def mode(self) -> torch.Tensor:
        """The most likely latent: the mean."""
        return self.mean

    def kl(self) -> torch.Tensor:
        """Kullback-Leibler divergence from the standard normal distribution, [batch], in nats.

        Source: Kingma, Welling: Auto-encoding variational Bayes (2013), appendix B.
        """
        if self.deterministic:
            return self.mean.new_zeros(self.mean.shape[0])
        terms = self.mean.square() + self.var - 1.0 - self.logvar
        return 0.5 * terms.flatten(1).sum(1)

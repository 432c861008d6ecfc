"""What a network predicts: from its output F to D, the denoised estimate samplers work with.

Everywhere sigma is the standard deviation of the noise in the state x.
"""

from __future__ import annotations

import torch


def reshape_sigma(sigma: torch.Tensor, noise_dim: int) -> torch.Tensor:
    """Give sigma (scalar, [B] or already [B, 1, ...]) the trailing axes to scale a latent."""
    if sigma.ndim == 0 or sigma.ndim >= noise_dim:
        return sigma
    return sigma.reshape(sigma.shape + (1,) * (noise_dim - sigma.ndim))


class EPS:
    """The network predicts the noise: D = x - sigma F, on an input of unit variance."""

    sigma_data = 1.0

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scale the noisy latent to what the network takes: x / sqrt(sigma^2 + sigma_data^2)."""
        sigma = reshape_sigma(sigma, noise.ndim)
        return noise / (sigma**2 + self.sigma_data**2) ** 0.5

    def calculate_denoised(
        self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor
    ) -> torch.Tensor:
        """Turn the network's output into D; `model_input` is the noisy latent, unscaled."""
        return model_input - model_output * reshape_sigma(sigma, model_output.ndim)

    def noise_scaling(
        self,
        sigma: torch.Tensor,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        max_denoise: bool = False,
    ) -> torch.Tensor:
        """Start from a latent L and unit noise n: L + sigma n.

        Args:
            sigma: the first noise level.
            noise: unit normal noise.
            latent_image: the latent to start from, zeros for an empty one.
            max_denoise: the run starts at the highest level, where the network saw sqrt(1 + sigma^2) n.
        """
        sigma = reshape_sigma(sigma, noise.ndim)
        return latent_image + noise * ((1.0 + sigma**2) ** 0.5 if max_denoise else sigma)

    def inverse_noise_scaling(self, sigma: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Turn the state at the last noise level back into a latent."""
        return latent


class V_PREDICTION(EPS):
    """The network predicts v (Salimans and Ho 2022, "Progressive Distillation", appendix D)."""

    def calculate_denoised(
        self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor
    ) -> torch.Tensor:
        """D = x sd^2 / (sigma^2 + sd^2) - F sigma sd / sqrt(sigma^2 + sd^2)."""
        skip, out = self._preconditioning(reshape_sigma(sigma, model_output.ndim))
        return model_input * skip - model_output * out

    def _preconditioning(self, sigma: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total = sigma**2 + self.sigma_data**2
        return self.sigma_data**2 / total, sigma * self.sigma_data / total**0.5


class EDM(V_PREDICTION):
    """The network is preconditioned as in Karras et al. 2022, table 1: v with the sign turned."""

    def calculate_denoised(
        self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor
    ) -> torch.Tensor:
        """D = x sd^2 / (sigma^2 + sd^2) + F sigma sd / sqrt(sigma^2 + sd^2)."""
        skip, out = self._preconditioning(reshape_sigma(sigma, model_output.ndim))
        return model_input * skip + model_output * out


class CONST:
    """Rectified flow (Liu et al. 2022): x = sigma n + (1 - sigma) L, F is the velocity n - L."""

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The network takes the state as it is."""
        return noise

    def calculate_denoised(
        self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor
    ) -> torch.Tensor:
        """D = x - sigma F."""
        return model_input - model_output * reshape_sigma(sigma, model_output.ndim)

    def noise_scaling(
        self,
        sigma: torch.Tensor,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        max_denoise: bool = False,
    ) -> torch.Tensor:
        """Start from a latent L and unit noise n: sigma n + (1 - sigma) L."""
        sigma = reshape_sigma(sigma, noise.ndim)
        return sigma * noise + (1.0 - sigma) * latent_image

    def inverse_noise_scaling(self, sigma: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Undo the factor (1 - sigma) of the latent at the last noise level."""
        return latent / (1.0 - reshape_sigma(sigma, latent.ndim))


class X0(EPS):
    """The network predicts the clean latent itself."""

    def calculate_denoised(
        self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor
    ) -> torch.Tensor:
        """D = F."""
        return model_output


class IMG_TO_IMG(X0):
    """The network maps a latent to a latent; neither side is scaled."""

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """The network takes the state as it is."""
        return noise


class COSMOS_RFLOW:
    """Rectified flow seen by samplers as L + sigma n.

    With u = sigma / (1 + sigma) the flow's state is z = (1 - u) x, and D = z - u F.
    """

    def calculate_input(self, sigma: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        """Scale to the flow's state: x / (1 + sigma)."""
        return noise / (1.0 + reshape_sigma(sigma, noise.ndim))

    def calculate_denoised(
        self, sigma: torch.Tensor, model_output: torch.Tensor, model_input: torch.Tensor
    ) -> torch.Tensor:
        """D = (x - sigma F) / (1 + sigma)."""
        sigma = reshape_sigma(sigma, model_output.ndim)
        return (model_input - sigma * model_output) / (1.0 + sigma)

    def noise_scaling(
        self,
        sigma: torch.Tensor,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        max_denoise: bool = False,
    ) -> torch.Tensor:
        """Start from a latent L and unit noise n: L + sigma n."""
        return latent_image + reshape_sigma(sigma, noise.ndim) * noise

    def inverse_noise_scaling(self, sigma: torch.Tensor, latent: torch.Tensor) -> torch.Tensor:
        """Turn the state at the last noise level back into a latent."""
        return latent

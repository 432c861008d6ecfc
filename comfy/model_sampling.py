"""What a network predicts, and which noise levels its time steps stand for.

A model's sampling object is one class of each half put together, as in
`class EpsDiscrete(ModelSamplingDiscrete, EPS)`. The first half is in `comfy.predictions`; the second,
how sigma and the network's time step map to each other, is here.
"""

from __future__ import annotations

import math
from typing import Any

import torch

from comfy.predictions import (
    CONST,
    COSMOS_RFLOW,
    EDM,
    EPS,
    IMG_TO_IMG,
    V_PREDICTION,
    X0,
    reshape_sigma,
)

__all__ = [
    "CONST",
    "COSMOS_RFLOW",
    "EDM",
    "EPS",
    "IMG_TO_IMG",
    "V_PREDICTION",
    "X0",
    "ModelSamplingContinuousEDM",
    "ModelSamplingContinuousV",
    "ModelSamplingCosmosRFlow",
    "ModelSamplingDiscrete",
    "ModelSamplingDiscreteEDM",
    "ModelSamplingDiscreteFlow",
    "ModelSamplingFlux",
    "StableCascadeSampling",
    "flux_time_shift",
    "rescale_zero_terminal_snr_sigmas",
    "reshape_sigma",
    "time_snr_shift",
]

# Stands for "before the first step" where a percentage of a run becomes a noise level.
BEFORE_ALL_SIGMAS = 999999999.9


def _settings(model_config: Any) -> dict[str, Any]:
    return {} if model_config is None else model_config.sampling_settings


class _Table(torch.nn.Module):
    """A list of noise levels, ascending; samplers and schedulers read `sigmas`."""

    sigmas: torch.Tensor
    log_sigmas: torch.Tensor

    def set_sigmas(self, sigmas: torch.Tensor) -> None:
        """Replace the table: [N] ascending, kept as fp32 and not part of the state dict."""
        self.register_buffer("sigmas", sigmas.float(), persistent=False)
        self.register_buffer("log_sigmas", sigmas.log().float(), persistent=False)

    @property
    def sigma_min(self) -> torch.Tensor:
        """The lowest noise level above zero."""
        return self.sigmas[0]

    @property
    def sigma_max(self) -> torch.Tensor:
        """The highest noise level."""
        return self.sigmas[-1]


def scaled_linear_sigmas(linear_start: float, linear_end: float, timesteps: int) -> torch.Tensor:
    """The noise levels of a variance preserving chain whose sqrt(beta) is linear; fp64 [timesteps].

    Source: Rombach et al. 2022 (latent diffusion); sigma_i = sqrt((1 - a_i) / a_i) with
    a_i = prod(1 - beta_j).
    """
    roots = torch.linspace(linear_start**0.5, linear_end**0.5, timesteps, dtype=torch.float64)
    return sigmas_from_betas(roots**2)


def sigmas_from_betas(betas: torch.Tensor) -> torch.Tensor:
    """The noise levels sqrt((1 - a) / a), a = prod(1 - beta), of a chain of steps; fp64."""
    alphas_cumprod = torch.cumprod(1.0 - betas.double(), dim=0)
    return ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5


def rescale_zero_terminal_snr_sigmas(sigmas: torch.Tensor) -> torch.Tensor:
    """Shift and stretch sqrt(a) so that the last level is (nearly) pure noise.

    The last a is set to 4.9e-8 instead of 0, which keeps sigma finite: 4518.76.

    Source: Lin et al. 2023, "Common Diffusion Noise Schedules and Sample Steps are Flawed", alg. 1.
    """
    roots = (1.0 / (sigmas.double() ** 2 + 1.0)) ** 0.5
    first, last = roots[0], roots[-1]
    alphas_cumprod = ((roots - last) * first / (first - last)) ** 2
    alphas_cumprod[-1] = 4.8973451890853435e-08
    return ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5


class ModelSamplingDiscrete(_Table):
    """Time steps 0 .. N-1 of a trained chain; between them log sigma is linear.

    `model_config.sampling_settings` may hold beta_schedule ("linear": sqrt(beta) is linear),
    linear_start, linear_end, timesteps and zsnr.
    """

    def __init__(self, model_config: Any = None, zsnr: bool | None = None) -> None:
        super().__init__()
        settings = _settings(model_config)
        schedule = settings.get("beta_schedule", "linear")
        if schedule != "linear":
            raise ValueError(f"The beta schedule {schedule!r} is not known; 'linear' is.")
        self.linear_start = settings.get("linear_start", 0.00085)
        self.linear_end = settings.get("linear_end", 0.012)
        self.zsnr = settings.get("zsnr", False) if zsnr is None else zsnr
        sigmas = scaled_linear_sigmas(
            self.linear_start, self.linear_end, settings.get("timesteps", 1000)
        )
        self.set_sigmas(rescale_zero_terminal_snr_sigmas(sigmas) if self.zsnr else sigmas)

    @property
    def num_timesteps(self) -> int:
        """How many steps the chain has."""
        return len(self.sigmas)

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """The index of the table's level nearest in log sigma; integer, shape of `sigma`."""
        log_sigmas = self.log_sigmas.to(sigma.device)
        distances = (sigma.log().reshape(-1, 1) - log_sigmas).abs()
        return distances.argmin(dim=1).reshape(sigma.shape).to(sigma.device)

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """The level at a (fractional) time step, by linear interpolation of log sigma; fp32."""
        log_sigmas = self.log_sigmas.to(timestep.device)
        t = timestep.float().clamp(0, len(log_sigmas) - 1)
        low = t.floor().long()
        return torch.lerp(log_sigmas[low], log_sigmas[t.ceil().long()], t - low).exp()

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after this part (0 .. 1) of the chain's time steps."""
        if percent <= 0.0:
            return BEFORE_ALL_SIGMAS
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor((1.0 - percent) * (self.num_timesteps - 1))).item()


class ModelSamplingDiscreteEDM(ModelSamplingDiscrete):
    """A trained chain's levels, given to the network as ln(sigma) / 4."""

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """t = ln(sigma) / 4."""
        return sigma.log() * 0.25

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """Sigma = exp(4 t)."""
        return (timestep.float() * 4.0).exp()

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after this part (0 .. 1) of the chain's time steps."""
        if percent <= 0.0:
            return BEFORE_ALL_SIGMAS
        if percent >= 1.0:
            return 0.0
        index = torch.tensor((1.0 - percent) * (self.num_timesteps - 1))
        return ModelSamplingDiscrete.sigma(self, index).item()


class ModelSamplingContinuousEDM(_Table):
    """Any level between two bounds; the network gets ln(sigma) / 4 (Karras et al. 2022)."""

    default_bounds = (0.002, 120.0)

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        settings = _settings(model_config)
        low, high = self.default_bounds
        self.set_parameters(
            settings.get("sigma_min", low),
            settings.get("sigma_max", high),
            settings.get("sigma_data", 1.0),
        )

    def set_parameters(self, sigma_min: float, sigma_max: float, sigma_data: float) -> None:
        """Set the bounds and the data's standard deviation; the table has 1000 levels."""
        self.sigma_data = sigma_data
        bounds = math.log(sigma_min), math.log(sigma_max)
        self.set_sigmas(torch.linspace(*bounds, 1000, dtype=torch.float64).exp())

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """t = ln(sigma) / 4."""
        return sigma.log() * 0.25

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """Sigma = exp(4 t)."""
        return (timestep.float() * 4.0).exp()

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after this part (0 .. 1) of the way, which is even in log sigma."""
        if percent <= 0.0:
            return BEFORE_ALL_SIGMAS
        if percent >= 1.0:
            return 0.0
        low, high = self.log_sigmas[0].item(), self.log_sigmas[-1].item()
        return math.exp(low + (high - low) * (1.0 - percent))


class ModelSamplingContinuousV(ModelSamplingContinuousEDM):
    """Any level between two bounds; the network gets the angle 2 atan(sigma) / pi."""

    default_bounds = (0.03, 500.0)

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """t = 2 atan(sigma) / pi, in 0 .. 1."""
        return sigma.atan() / (math.pi * 0.5)

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """Sigma = tan(pi t / 2)."""
        return (timestep.float() * (math.pi * 0.5)).tan()


def time_snr_shift(alpha: float, t: Any) -> Any:
    """Shift the flow time t (0 .. 1, float or tensor) towards noise: a t / (1 + (a - 1) t).

    Source: Esser et al. 2024 (Stable Diffusion 3), equation 23.
    """
    return t if alpha == 1.0 else alpha * t / (1.0 + (alpha - 1.0) * t)


def flux_time_shift(mu: float, sigma: float, t: Any) -> Any:
    """Shift the flow time t (0 .. 1, float or tensor): e^mu / (e^mu + (1/t - 1)^sigma)."""
    return math.exp(mu) / (math.exp(mu) + (1.0 / t - 1.0) ** sigma)


class ModelSamplingDiscreteFlow(_Table):
    """Flow with a constant shift: sigma(t) = shift(t / multiplier), table t = 1/N .. 1.

    `timestep` is sigma * multiplier: the network is given the shifted time.
    """

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        settings = _settings(model_config)
        self.set_parameters(
            shift=settings.get("shift", 1.0),
            timesteps=settings.get("timesteps", 1000),
            multiplier=settings.get("multiplier", 1000),
        )

    def set_parameters(
        self, shift: float = 1.0, timesteps: int = 1000, multiplier: float = 1000
    ) -> None:
        """Set the shift, the table's length and what the network calls the end of time."""
        self.shift, self.multiplier = shift, multiplier
        unit = torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps
        self.set_sigmas(self.sigma(unit * multiplier))

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """t = sigma * multiplier."""
        return sigma * self.multiplier

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """The shifted noise level of the time t = timestep / multiplier."""
        return time_snr_shift(self.shift, timestep / self.multiplier)

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after this part (0 .. 1) of the time."""
        if percent <= 0.0:
            return 1.0
        if percent >= 1.0:
            return 0.0
        return time_snr_shift(self.shift, 1.0 - percent)


class ModelSamplingFlux(_Table):
    """Flow whose shift is given as mu: the odds of t are multiplied by e^mu."""

    def __init__(self, model_config: Any = None) -> None:
        super().__init__()
        self.set_parameters(shift=_settings(model_config).get("shift", 1.15))

    def set_parameters(self, shift: float = 1.15, timesteps: int = 10000) -> None:
        """Set mu and the table's length."""
        self.shift = shift
        self.set_sigmas(self.sigma(torch.arange(1, timesteps + 1, dtype=torch.float64) / timesteps))

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """t = sigma."""
        return sigma

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """The shifted noise level of a time in 0 .. 1."""
        return flux_time_shift(self.shift, 1.0, timestep)

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after this part (0 .. 1) of the time."""
        if percent <= 0.0:
            return 1.0
        if percent >= 1.0:
            return 0.0
        return flux_time_shift(self.shift, 1.0, 1.0 - percent)


class ModelSamplingCosmosRFlow(ModelSamplingContinuousEDM):
    """Levels as in EDM; the network gets the flow's time sigma / (1 + sigma)."""

    default_bounds = (0.002, 80.0)

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """t = sigma / (1 + sigma)."""
        return sigma / (1.0 + sigma)

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """Sigma = t / (1 - t), at most the highest level."""
        return (timestep / (1.0 - timestep)).clamp(max=self.sigma_max.to(timestep.device))


class StableCascadeSampling(ModelSamplingDiscrete):
    """The cosine chain of Nichol and Dhariwal 2021, its log SNR shifted for larger pictures.

    a(t) = cos^2((t + s) / (1 + s) pi/2) / a(0), s = .008; a shift k divides the SNR by k^2
    (Hoogeboom et al. 2023, "simple diffusion", equation 4).
    """

    offset = 0.008
    bounds = (0.0001, 0.9999)

    def __init__(self, model_config: Any = None) -> None:
        torch.nn.Module.__init__(self)
        self.set_parameters(_settings(model_config).get("shift", 1.0))

    def set_parameters(self, shift: float = 1.0) -> None:
        """Set the shift; the table has 10000 levels."""
        self.shift = shift
        self.set_sigmas(self.sigma(torch.arange(1, 10001, dtype=torch.float64) / 10000))

    def _start(self) -> float:
        return math.cos(self.offset / (1.0 + self.offset) * math.pi * 0.5) ** 2

    def sigma(self, timestep: torch.Tensor) -> torch.Tensor:
        """The noise level shift * sqrt((1 - a) / a) at a time in 0 .. 1."""
        angle = (timestep + self.offset) / (1.0 + self.offset) * math.pi * 0.5
        alphas_cumprod = (angle.cos() ** 2 / self._start()).clamp(*self.bounds)
        return self.shift * ((1.0 - alphas_cumprod) / alphas_cumprod) ** 0.5

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        """The time in 0 .. 1 at which the chain has this noise level."""
        alphas_cumprod = 1.0 / ((sigma / self.shift) ** 2 + 1.0)
        angle = (alphas_cumprod * self._start()).clamp(0.0, 1.0).sqrt().acos()
        return angle / (math.pi * 0.5) * (1.0 + self.offset) - self.offset

    def percent_to_sigma(self, percent: float) -> float:
        """The noise level after this part (0 .. 1) of the time."""
        if percent <= 0.0:
            return BEFORE_ALL_SIGMAS
        if percent >= 1.0:
            return 0.0
        return self.sigma(torch.tensor(1.0 - percent, dtype=torch.float64)).item()

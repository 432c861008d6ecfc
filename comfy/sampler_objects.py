"""What a SAMPLER is: a function of k-diffusion's kind, and the model as such functions see it."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

SEEDS = 1 << 64


class KSamplerX0Inpaint:
    """A guider as a denoiser D(x, sigma) that keeps what a mask leaves alone.

    Attributes:
        inner_model: The guider.
        sigmas: [steps + 1], the schedule.
        latent_image: What is kept, as the network sees it; None without a mask.
        noise: Of the kept part, of the latent's shape.
    """

    def __init__(self, model: Any, sigmas: torch.Tensor) -> None:
        self.inner_model = model
        self.sigmas = sigmas
        self.latent_image: Any = None
        self.noise: Any = None

    def __call__(
        self,
        x: torch.Tensor,
        sigma: torch.Tensor,
        denoise_mask: torch.Tensor | None,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
        seed: int | None = None,
    ) -> torch.Tensor:
        """Denoise.

        Args:
            x: [B, C, ...], the noisy latent.
            sigma: [B].
            denoise_mask: Of x's shape; 1 is changed, 0 is kept, between them they mix.
            model_options: Of the patcher; `denoise_mask_function` may change the mask.
            seed: Of the run.
        """
        if denoise_mask is None:
            return self.inner_model(x, sigma, model_options=model_options, seed=seed)
        if "denoise_mask_function" in model_options:
            denoise_mask = model_options["denoise_mask_function"](
                sigma,
                denoise_mask,
                extra_options={"model": self.inner_model, "sigmas": self.sigmas},
            )
        kept = 1.0 - denoise_mask
        noised = self.inner_model.inner_model.scale_latent_inpaint(
            x=x, sigma=sigma, noise=self.noise, latent_image=self.latent_image
        )
        x = x * denoise_mask + noised * kept
        out = self.inner_model(x, sigma, model_options=model_options, seed=seed)
        return out * denoise_mask + self.latent_image * kept


class Sampler:
    """Takes noise to a latent; packs subclass it."""

    def sample(
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: torch.Tensor,
        latent_image: torch.Tensor | None = None,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        """Run; see `KSAMPLER.sample`."""
        raise NotImplementedError(f"{type(self).__name__} has no method sample.")

    def max_denoise(self, model_wrap: Any, sigmas: torch.Tensor) -> bool:
        """Whether the schedule starts where nothing of the latent is left."""
        highest = float(model_wrap.inner_model.model_sampling.sigma_max)
        first = float(sigmas[0])
        return math.isclose(highest, first, rel_tol=1e-5) or first > highest


class KSAMPLER(Sampler):
    """A sampler made of a function ``f(model, x, sigmas, extra_args, callback, disable, ...)``.

    Args:
        sampler_function: Of k-diffusion's kind.
        extra_options: Its further keyword arguments.
        inpaint_options: "random": the kept part gets noise of its own instead of the run's.
    """

    def __init__(
        self,
        sampler_function: Callable[..., torch.Tensor],
        extra_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
        inpaint_options: dict[str, Any] = {},  # noqa: B006 - the same
    ) -> None:
        self.sampler_function = sampler_function
        self.extra_options = extra_options
        self.inpaint_options = inpaint_options

    def sample(
        self,
        model_wrap: Any,
        sigmas: torch.Tensor,
        extra_args: dict[str, Any],
        callback: Any,
        noise: torch.Tensor,
        latent_image: torch.Tensor | None = None,
        denoise_mask: torch.Tensor | None = None,
        disable_pbar: bool = False,
    ) -> torch.Tensor:
        """Run.

        Args:
            model_wrap: The guider.
            sigmas: [steps + 1], descending.
            extra_args: `model_options` and `seed`; the mask is added.
            callback: Called as ``callback(step, denoised, x, steps)``, or None.
            noise: [B, C, ...], unit normal.
            latent_image: Of the same shape, as the network sees it.
            denoise_mask: Of the same shape, or None.
            disable_pbar: Draw no bar.
        """
        extra_args["denoise_mask"] = denoise_mask
        model_k = KSamplerX0Inpaint(model_wrap, sigmas)
        model_k.latent_image = latent_image
        model_k.noise = noise
        if self.inpaint_options.get("random", False):
            model_k.noise = _other_noise(noise, extra_args.get("seed"))
        sampling = model_wrap.inner_model.model_sampling
        x = sampling.noise_scaling(
            sigmas[0], noise, latent_image, self.max_denoise(model_wrap, sigmas)
        )
        steps = len(sigmas) - 1

        def told(state: dict[str, Any]) -> None:
            callback(state["i"], state["denoised"], state["x"], steps)

        samples = self.sampler_function(
            model_k,
            x,
            sigmas,
            extra_args=extra_args,
            callback=None if callback is None else told,
            disable=disable_pbar,
            **self.extra_options,
        )
        return sampling.inverse_noise_scaling(sigmas[-1], samples)


def _other_noise(noise: torch.Tensor, seed: int | None) -> torch.Tensor:
    """Noise of the same shape from the next seed."""
    generator = torch.manual_seed(((41 if seed is None else seed) + 1) % SEEDS)
    return torch.randn(noise.shape, generator=generator, device="cpu").to(noise)


def sampler_name(sampler: Any) -> str:
    """How to call a sampler in a message."""
    function = getattr(sampler, "sampler_function", None)
    name = getattr(function, "__name__", None) or type(sampler).__name__
    return str(name).removeprefix("sample_")

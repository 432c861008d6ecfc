"""Sampling: from noise, or from a latent, to a latent."""

from __future__ import annotations

from typing import Any

import torch

import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview

_MOST_STEPS = 10000


def common_ksampler(
    model: Any,
    seed: int,
    steps: int,
    cfg: float,
    sampler_name: str,
    scheduler: str,
    positive: list[Any],
    negative: list[Any],
    latent: dict[str, Any],
    denoise: float = 1.0,
    disable_noise: bool = False,
    start_step: int | None = None,
    last_step: int | None = None,
    force_full_denoise: bool = False,
) -> tuple[dict[str, Any]]:
    """Sample as the KSampler nodes do; packs call it, too.

    Args:
        model: A patcher.
        seed: Of the noise, 0 to 2^64 - 1.
        latent: With ``samples`` [B, C, h, w], and where they are known ``noise_mask`` (1 where to
            paint) and ``batch_index`` (which picture of a larger batch each row is).
        disable_noise: Add none: the latent has its noise already.

    Returns:
        The latent with new samples, float32.

    See `comfy.samplers.KSampler` for the other arguments.
    """
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"])
    how = (steps, cfg, sampler_name, scheduler)
    sampled = comfy.sample.sample(
        model,
        _noise(samples, None if disable_noise else seed, latent.get("batch_index")),
        *how,
        positive,
        negative,
        samples,
        denoise=denoise,
        disable_noise=disable_noise,
        start_step=start_step,
        last_step=last_step,
        force_full_denoise=force_full_denoise,
        noise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    return ({**latent, "samples": sampled},)


def _noise(samples: torch.Tensor, seed: int | None, numbers: list[int] | None) -> torch.Tensor:
    """Noise for each row of a batch; zeros without a seed."""
    if seed is None:
        return torch.zeros_like(samples, device="cpu")
    return comfy.sample.prepare_noise(samples, seed, numbers)


def _seed() -> tuple[str, dict[str, Any]]:
    return "INT", {"default": 0, "min": 0, "max": 2**64 - 1, "control_after_generate": True}


def _run_inputs() -> dict[str, Any]:
    """What both samplers ask for between the seed and the latent."""
    scale = {"default": 8.0, "min": 0.0, "max": 100.0, "step": 0.1, "round": 0.01}
    return {
        "steps": ("INT", {"default": 20, "min": 1, "max": _MOST_STEPS}),
        "cfg": ("FLOAT", scale),
        "sampler_name": (comfy.samplers.KSampler.SAMPLERS,),
        "scheduler": (comfy.samplers.KSampler.SCHEDULERS,),
        "positive": ("CONDITIONING",),
        "negative": ("CONDITIONING",),
        "latent_image": ("LATENT",),
    }


class KSampler:
    """Denoises a latent, wholly or in part."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        part = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.01}
        return {
            "required": {
                "model": ("MODEL",),
                "seed": _seed(),
                **_run_inputs(),
                "denoise": ("FLOAT", part),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "sampling"
    DESCRIPTION = "Denoises the latent under the guidance of the positive and negative prompt."

    def sample(
        self,
        model: Any,
        seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: list[Any],
        negative: list[Any],
        latent_image: dict[str, Any],
        denoise: float = 1.0,
    ) -> tuple[dict[str, Any]]:
        """See `common_ksampler`."""
        return common_ksampler(
            model,
            seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            denoise=denoise,
        )


class KSamplerAdvanced:
    """Runs a part of a schedule, so that several samplers can share one."""

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """See nodes."""
        return {
            "required": {
                "model": ("MODEL",),
                "add_noise": (["enable", "disable"],),
                "noise_seed": _seed(),
                **_run_inputs(),
                "start_at_step": ("INT", {"default": 0, "min": 0, "max": _MOST_STEPS}),
                "end_at_step": ("INT", {"default": _MOST_STEPS, "min": 0, "max": _MOST_STEPS}),
                "return_with_leftover_noise": (["disable", "enable"],),
            }
        }

    RETURN_TYPES = ("LATENT",)
    FUNCTION = "sample"
    CATEGORY = "sampling"

    def sample(
        self,
        model: Any,
        add_noise: str,
        noise_seed: int,
        steps: int,
        cfg: float,
        sampler_name: str,
        scheduler: str,
        positive: list[Any],
        negative: list[Any],
        latent_image: dict[str, Any],
        start_at_step: int,
        end_at_step: int,
        return_with_leftover_noise: str,
        denoise: float = 1.0,
    ) -> tuple[dict[str, Any]]:
        """Run the steps from `start_at_step` to before `end_at_step`.

        Args:
            add_noise: "disable" for a latent that has its noise from an earlier part.
            return_with_leftover_noise: "enable" for a part that another will go on with; else the
                last step removes all noise.

        See `common_ksampler` for the other arguments.
        """
        return common_ksampler(
            model,
            noise_seed,
            steps,
            cfg,
            sampler_name,
            scheduler,
            positive,
            negative,
            latent_image,
            denoise=denoise,
            disable_noise=add_noise == "disable",
            start_step=start_at_step,
            last_step=end_at_step,
            force_full_denoise=return_with_leftover_noise == "disable",
        )


NODE_CLASS_MAPPINGS = {"KSampler": KSampler, "KSamplerAdvanced": KSamplerAdvanced}
NODE_DISPLAY_NAME_MAPPINGS = {
    "KSampler": "KSampler",
    "KSamplerAdvanced": "KSampler (Advanced)",
}

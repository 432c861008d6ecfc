"""Sampling: guidance, samplers and schedulers by name, and the run from noise to latent.

Packs replace `sampling_function`, `calc_cond_batch`, `calculate_sigmas`, `sample`, `KSampler` and
others here, subclass `CFGGuider` and `Sampler`, and add names to the lists. So names are looked up
when they are used, and functions are called through this module.
"""

from __future__ import annotations

import math
from typing import Any

import torch

import comfy.k_diffusion.sampling
from comfy import guidance, schedulers
from comfy.cond_areas import (
    create_cond_with_same_area_if_none,
    get_area_and_mult,
    resolve_areas_and_cond_masks,
    resolve_areas_and_cond_masks_multidim,
)
from comfy.cond_batches import can_concat_cond, cond_cat, denoise_conds
from comfy.conditioning import (
    apply_empty_x_to_equal_area,
    calculate_start_end_timesteps,
    encode_model_conds,
    pre_run_control,
    process_conds,
)
from comfy.extra_samplers import uni_pc
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from comfy.sampler_objects import KSAMPLER, KSamplerX0Inpaint, Sampler
from comfy.sampling_run import SamplingRun, cast_to_load_options
from comfy.schedulers import (
    SCHEDULER_HANDLERS,
    SCHEDULER_NAMES,
    SchedulerHandler,
    beta_scheduler,
    ddim_scheduler,
    kl_optimal_scheduler,
    linear_quadratic_schedule,
    normal_scheduler,
    simple_scheduler,
)

# fmt: off
__all__ = [
    "KSAMPLER", "KSAMPLER_NAMES", "SAMPLER_NAMES", "SCHEDULER_HANDLERS", "SCHEDULER_NAMES",
    "CFGGuider", "KSampler", "KSamplerX0Inpaint", "Sampler", "SchedulerHandler",
    "apply_empty_x_to_equal_area", "beta_scheduler", "calc_cond_batch", "calc_cond_uncond_batch",
    "calculate_sigmas", "calculate_start_end_timesteps", "can_concat_cond", "cast_to_load_options",
    "cfg_function", "cond_cat", "create_cond_with_same_area_if_none", "ddim_scheduler",
    "encode_model_conds", "get_area_and_mult", "kl_optimal_scheduler", "ksampler",
    "linear_quadratic_schedule", "normal_scheduler", "pre_run_control", "process_conds",
    "resolve_areas_and_cond_masks", "resolve_areas_and_cond_masks_multidim", "sample",
    "sampler_object", "sampling_function", "simple_scheduler",
]
Conditioning = list[Any]

KSAMPLER_NAMES = [
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2",
    "exp_heun_2_x0", "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast",
    "dpm_adaptive", "dpmpp_2s_ancestral", "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde",
    "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde", "dpmpp_2m_sde_gpu",
    "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm",
    "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp",
    "res_multistep_ancestral", "res_multistep_ancestral_cfg_pp", "gradient_estimation",
    "gradient_estimation_cfg_pp", "er_sde", "seeds_2", "seeds_3", "sa_solver", "sa_solver_pece",
]
# fmt: on
SAMPLER_NAMES = [*KSAMPLER_NAMES, "ddim", "uni_pc", "uni_pc_bh2"]


def calculate_sigmas(model_sampling: Any, scheduler_name: str, steps: int) -> torch.Tensor:
    """The noise levels of a run: fp32 on the CPU, descending, the last one 0 as a rule.

    Raises:
        ValueError: No scheduler has this name.
    """
    return schedulers.calculate_sigmas(model_sampling, scheduler_name, steps)


def calc_cond_batch(
    model: Any,
    conds: list[Any],
    x_in: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any],
) -> list[torch.Tensor]:
    """Denoise a latent under each list of conditions, see `cond_batches.denoise_conds`."""
    executor = WrapperExecutor.new_executor(
        denoise_conds,
        get_all_wrappers(WrappersMP.CALC_COND_BATCH, model_options, is_model_options=True),
    )
    return executor.execute(model, conds, x_in, timestep, model_options)


def calc_cond_uncond_batch(
    model: Any,
    cond: Any,
    uncond: Any,
    x_in: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any],
) -> tuple[torch.Tensor, ...]:
    """Deprecated: `calc_cond_batch` for two lists."""
    return tuple(calc_cond_batch(model, [cond, uncond], x_in, timestep, model_options))


def cfg_function(
    model: Any,
    cond_pred: torch.Tensor,
    uncond_pred: torch.Tensor,
    cond_scale: float,
    x: torch.Tensor,
    timestep: torch.Tensor,
    model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
    cond: Any = None,
    uncond: Any = None,
) -> torch.Tensor:
    """Guide: D = D_neg + s (D_pos - D_neg), or what a pack does instead or afterwards.

    Source: Ho and Salimans 2022, "Classifier-Free Diffusion Guidance", equation 6, for D.
    """
    return guidance.guide(
        model, cond_pred, uncond_pred, cond_scale, x, timestep, model_options, cond, uncond
    )


def sampling_function(
    model: Any,
    x: torch.Tensor,
    timestep: torch.Tensor,
    uncond: Any,
    cond: Any,
    cond_scale: float,
    model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
    seed: int | None = None,
) -> torch.Tensor:
    """Denoise a latent under guidance; at scale 1 the negative prompt is left out.

    Args:
        x: [B, C, ...], the noisy latent.
        timestep: [B], sigmas.
        uncond: Negative conditions, after `process_conds`.
        cond: Positive conditions.
        seed: Not used here; packs read it.
    """
    is_unguided = math.isclose(cond_scale, 1.0)
    if is_unguided and not model_options.get("disable_cfg1_optimization", False):
        uncond = None
    conds = [cond, uncond]
    about = {"conds": conds, "input": x, "sigma": timestep}
    about.update(model=model, model_options=model_options)
    if "sampler_calc_cond_batch_function" in model_options:
        out = model_options["sampler_calc_cond_batch_function"](about)
    else:
        out = calc_cond_batch(model, conds, x, timestep, model_options)
    for function in model_options.get("sampler_pre_cfg_function", ()):
        scale = {"conds_out": out, "cond_scale": cond_scale, "timestep": timestep}
        out = function({**about, **scale})
    return cfg_function(
        model, out[0], out[1], cond_scale, x, timestep, model_options, cond=cond, uncond=uncond
    )


class CFGGuider(SamplingRun):
    """A GUIDER: classifier-free guidance between a positive and a negative prompt.

    Packs subclass it and override `set_conds`, `set_cfg` or `predict_noise`.
    """

    def set_conds(self, positive: Conditioning, negative: Conditioning) -> None:
        """Set the prompts."""
        self.inner_set_conds({"positive": positive, "negative": negative})

    def set_cfg(self, cfg: float) -> None:
        """Set the guidance's scale."""
        self.cfg = cfg

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
        seed: int | None = None,
    ) -> torch.Tensor:
        """Denoise [B, C, ...] at sigmas [B] under guidance (the name is historical)."""
        return sampling_function(
            self.inner_model,
            x,
            timestep,
            self.conds.get("negative"),
            self.conds.get("positive"),
            self.cfg,
            model_options=model_options,
            seed=seed,
        )


def sample(
    model: Any,
    noise: torch.Tensor,
    positive: Conditioning,
    negative: Conditioning,
    cfg: float,
    device: Any,
    sampler: Any,
    sigmas: torch.Tensor,
    model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
    latent_image: torch.Tensor | None = None,
    denoise_mask: torch.Tensor | None = None,
    callback: Any = None,
    disable_pbar: bool = False,
    seed: int | None = None,
) -> torch.Tensor:
    """Sample with a `CFGGuider`; see `SamplingRun.sample`.

    `device` and `model_options` are the patcher's own and are not looked at.
    """
    guider = CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    if latent_image is None:
        latent_image = torch.zeros_like(noise)
    return guider.sample(
        noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
    )


def ksampler(
    sampler_name: str,
    extra_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
    inpaint_options: dict[str, Any] = {},  # noqa: B006 - the same
) -> KSAMPLER:
    """A SAMPLER from the function ``sample_NAME`` that k_diffusion.sampling has at this moment.

    Raises:
        ValueError: It has none.
    """
    function = getattr(comfy.k_diffusion.sampling, f"sample_{sampler_name}", None)
    if function is None:
        raise ValueError(
            f"There is no sampler {sampler_name!r}; known are {', '.join(SAMPLER_NAMES)}."
        )
    return KSAMPLER(function, extra_options, inpaint_options)


def sampler_object(name: str) -> KSAMPLER:
    """A SAMPLER by its name in the user interface.

    Raises:
        ValueError: There is none of this name.
    """
    if name == "uni_pc":
        return KSAMPLER(uni_pc.sample_unipc)
    if name == "uni_pc_bh2":
        return KSAMPLER(uni_pc.sample_unipc_bh2)
    if name == "ddim":
        return ksampler("euler", inpaint_options={"random": True})
    return ksampler(name)


class KSampler:
    """A sampler, a scheduler and a number of steps, by name, for one model.

    Attributes:
        SAMPLERS: The list `SAMPLER_NAMES` itself, so that names added there show here.
        SCHEDULERS: The list `SCHEDULER_NAMES` itself.
        DISCARD_PENULTIMATE_SIGMA_SAMPLERS: Get one level more, and the last but one taken out.
        sigmas: [steps + 1] on the device; fewer if the picture is denoised in part only.
    """

    SCHEDULERS = SCHEDULER_NAMES
    SAMPLERS = SAMPLER_NAMES
    DISCARD_PENULTIMATE_SIGMA_SAMPLERS = {"dpm_2", "dpm_2_ancestral", "uni_pc", "uni_pc_bh2"}  # noqa: RUF012 - packs add to it

    def __init__(
        self,
        model: Any,
        steps: int,
        device: Any,
        sampler: str | None = None,
        scheduler: str | None = None,
        denoise: float | None = None,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
    ) -> None:
        """Compute the schedule.

        Args:
            model: A patcher.
            steps: How many.
            device: Where the sigmas go.
            sampler: One of `SAMPLERS`; the first for any other name, as for the scheduler.
            denoise: The part of the schedule that is run, 0 to 1; None is all of it.
        """
        self.model = model
        self.device = device
        self.sampler = _known(sampler, self.SAMPLERS)
        self.scheduler = _known(scheduler, self.SCHEDULERS)
        self.set_steps(steps, denoise)
        self.denoise = denoise
        self.model_options = model_options

    def calculate_sigmas(self, steps: int) -> torch.Tensor:
        """The whole schedule of so many steps."""
        is_longer = self.sampler in self.DISCARD_PENULTIMATE_SIGMA_SAMPLERS
        sampling = self.model.get_model_object("model_sampling")
        sigmas = calculate_sigmas(sampling, self.scheduler, steps + is_longer)
        return torch.cat([sigmas[:-2], sigmas[-1:]]) if is_longer else sigmas

    def set_steps(self, steps: int, denoise: float | None = None) -> None:
        """Set how many steps are run, of a longer schedule if `denoise` is below 1."""
        self.steps = steps
        if denoise is None or denoise > 0.9999:
            self.sigmas = self.calculate_sigmas(steps).to(self.device)
        elif denoise <= 0.0:
            self.sigmas = torch.empty(0)
        else:
            longer = self.calculate_sigmas(int(steps / denoise)).to(self.device)
            self.sigmas = longer[-(steps + 1) :]

    def sample(
        self,
        noise: torch.Tensor,
        positive: Conditioning,
        negative: Conditioning,
        cfg: float,
        latent_image: torch.Tensor | None = None,
        start_step: int | None = None,
        last_step: int | None = None,
        force_full_denoise: bool = False,
        denoise_mask: torch.Tensor | None = None,
        sigmas: torch.Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> torch.Tensor:
        """Run the schedule, or a part of it; see `SamplingRun.sample` for the rest.

        Args:
            start_step: The first step; beyond the last one the latent is returned unchanged.
            last_step: The step before which the run ends.
            force_full_denoise: Let a run that ends early end at sigma 0.
            sigmas: Instead of the schedule.
        """
        sigmas = self.sigmas if sigmas is None else sigmas
        if last_step is not None and last_step < len(sigmas) - 1:
            sigmas = sigmas[: last_step + 1].clone()
            if force_full_denoise:
                sigmas[-1] = 0
        if start_step is not None:
            if start_step >= len(sigmas) - 1:
                return torch.zeros_like(noise) if latent_image is None else latent_image
            sigmas = sigmas[start_step:]
        return sample(
            *(self.model, noise, positive, negative, cfg, self.device),
            sampler_object(self.sampler),
            sigmas,
            self.model_options,
            latent_image,
            *(denoise_mask, callback, disable_pbar, seed),
        )


def _known(name: str | None, names: list[str]) -> str:
    return name if name in names else names[0]

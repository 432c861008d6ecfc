"""The run from noise to latent: load, prepare the prompts, sample, let go.

`samplers.CFGGuider` adds how to denoise; what packs may replace stays in `samplers`.
"""

from __future__ import annotations

from typing import Any

import torch

import comfy.model_management
from comfy import sampler_helpers, step_times
from comfy.cond_batches import forget_free_memory
from comfy.conditioning import process_conds
from comfy.hooks import EnumWeightTarget, HookGroup, create_target_dict
from comfy.nan_watch import NanWatch
from comfy.patcher_extension import (
    WrapperExecutor,
    WrappersMP,
    copy_nested_dicts,
    get_all_wrappers,
    merge_nested_dicts,
)
from comfy.sampler_objects import sampler_name


def cast_to_load_options(
    model_options: dict[str, Any], device: Any = None, dtype: torch.dtype | None = None
) -> None:
    """Move what packs put under `to_load_options` of the model options, in place."""
    targets = [target for target in (device, dtype) if target is not None]
    sampler_helpers.cast_options(model_options.get("to_load_options"), *targets)


class SamplingRun:
    """Holds a model and its prompts, and samples.

    Attributes:
        model_patcher: The MODEL.
        model_options: Its options; a copy during a run.
        original_conds: Converted prompts by name, as they were set.
        conds: During a run: the same, prepared.
        cfg: The guidance's scale.
        inner_model: During a run: the loaded `BaseModel`.
        loaded_models: During a run: what else was loaded.
    """

    inner_model: Any
    loaded_models: list[Any]
    conds: sampler_helpers.Conds
    _nan_watch: NanWatch | None = None

    def __init__(self, model_patcher: Any) -> None:
        self.model_patcher = model_patcher
        self.model_options = model_patcher.model_options
        self.original_conds: sampler_helpers.Conds = {}
        self.conds = {}
        self.cfg = 1.0

    def inner_set_conds(self, conds: dict[str, Any]) -> None:
        """Set CONDITIONING by name."""
        for name, cond in conds.items():
            self.original_conds[name] = sampler_helpers.convert_cond(cond)

    def __call__(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Denoise, as `outer_predict_noise`."""
        return self.outer_predict_noise(*args, **kwargs)

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
        seed: int | None = None,
    ) -> torch.Tensor:
        """Denoise [B, C, ...] at sigmas [B] (the name is historical)."""
        raise NotImplementedError(f"{type(self).__name__} has no method predict_noise.")

    def outer_predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - ComfyUI's signature; never changed
        seed: int | None = None,
    ) -> torch.Tensor:
        """Denoise with the wrappers of packs around it.

        Raises:
            InterruptProcessingException: The user ended the run.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        executor = self._executor(WrappersMP.PREDICT_NOISE, self.predict_noise, self)
        denoised = executor.execute(x, timestep, model_options, seed)
        if self._nan_watch is not None:
            self._nan_watch.note(timestep, denoised)
        return denoised

    def _executor(self, kind: str, method: Any, owner: Any) -> WrapperExecutor:
        wrappers = get_all_wrappers(kind, self.model_options, is_model_options=True)
        return WrapperExecutor.new_class_executor(method, owner, wrappers)

    def _register_hooks(self) -> HookGroup | None:
        """Let the hooks of all prompts give the patcher their weights; None without hooks."""
        groups = {
            id(c["hooks"]): c["hooks"]
            for cond in self.conds.values()
            for c in cond
            if c.get("hooks") is not None
        }
        hooks = HookGroup.combine_all_hooks(groups.values())
        if hooks is not None:
            self.model_patcher.register_all_hook_patches(
                hooks,
                create_target_dict(EnumWeightTarget.Model),
                self.model_options,
                registered=HookGroup(),
            )
        return hooks

    def inner_sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        device: Any,
        sampler: Any,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None,
        callback: Any,
        disable_pbar: bool,
        seed: int | None,
        latent_shapes: Any = None,
    ) -> torch.Tensor:
        """Sample with everything loaded and on its device; returns a latent, fp32."""
        if torch.count_nonzero(latent_image) > 0:
            latent_image = self.inner_model.process_latent_in(latent_image)
        self.conds = process_conds(
            self.inner_model,
            noise,
            self.conds,
            device,
            latent_image,
            denoise_mask,
            seed,
            latent_shapes=latent_shapes or [latent_image.shape],
        )
        options = copy_nested_dicts(self.model_options)
        options.setdefault("transformer_options", {})["sample_sigmas"] = sigmas
        extra_args = {"model_options": options, "seed": seed}
        executor = self._executor(WrappersMP.SAMPLER_SAMPLE, sampler.sample, sampler)
        self._nan_watch = NanWatch()
        forget_free_memory()
        callback = step_times.STEP_TIMES.timed(sampler_name(sampler), callback)
        samples = executor.execute(
            self, sigmas, extra_args, callback, noise, latent_image, denoise_mask, disable_pbar
        )
        self._nan_watch.report(sampler_name(sampler), sigmas)
        return self.inner_model.process_latent_out(samples.to(torch.float32))

    def outer_sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        latent_shapes: Any = None,
    ) -> torch.Tensor:
        """Load the models, sample, and let them go."""
        patcher = self.model_patcher
        self.inner_model, self.conds, self.loaded_models = sampler_helpers.prepare_sampling(
            patcher, noise.shape, self.conds, self.model_options
        )
        device, hooks = patcher.load_device, None
        try:
            if denoise_mask is not None:
                denoise_mask = sampler_helpers.prepare_mask(denoise_mask, noise.shape, device)
            cast_to_load_options(self.model_options, device=device, dtype=patcher.model_dtype())
            hooks = self._register_hooks()
            patcher.pre_run()
            return self.inner_sample(
                noise.to(device),
                latent_image.to(device),
                device,
                sampler,
                sigmas.to(device),
                denoise_mask,
                callback,
                disable_pbar,
                seed,
                latent_shapes=latent_shapes,
            )
        finally:
            try:
                patcher.cleanup()
            finally:
                if hooks is not None:
                    patcher.restore_hook_patches()
                sampler_helpers.cleanup_models(self.conds, self.loaded_models)
                del self.inner_model, self.loaded_models

    def sample(
        self,
        noise: torch.Tensor,
        latent_image: torch.Tensor,
        sampler: Any,
        sigmas: torch.Tensor,
        denoise_mask: torch.Tensor | None = None,
        callback: Any = None,
        disable_pbar: bool = False,
        seed: int | None = None,
    ) -> torch.Tensor:
        """Sample.

        Args:
            noise: [B, C, ...], unit normal.
            latent_image: Of the same shape; zeros where there is none.
            sampler: A `Sampler`.
            sigmas: [steps + 1], descending. Without any the latent is returned as it is.
            denoise_mask: [B or 1, ..., H, W] of any size, 1 where the latent may change.
            callback: Called as ``callback(step, denoised, x, steps)``.
            disable_pbar: Draw no bar.
            seed: Of the samplers' own noise.

        Returns:
            A latent as nodes hand it on, fp32.
        """
        if sigmas.shape[-1] == 0:
            return latent_image
        self.conds = {name: [dict(c) for c in cond] for name, cond in self.original_conds.items()}
        given_options = self.model_options
        self.model_options = copy_nested_dicts(given_options)
        options = self.model_options.setdefault("transformer_options", {})
        for name in ("wrappers", "callbacks"):
            mine = getattr(self.model_patcher, name)
            options[name] = merge_nested_dicts(options.get(name, {}), mine)
        try:
            executor = self._executor(WrappersMP.OUTER_SAMPLE, self.outer_sample, self)
            return executor.execute(
                noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed
            )
        finally:
            cast_to_load_options(self.model_options, device=self.model_patcher.offload_device)
            self.model_options = given_options
            self.conds, self._nan_watch = {}, None

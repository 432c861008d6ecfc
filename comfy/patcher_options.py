"""The setters of a `ModelPatcher` that change its model options and nothing else."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch

import comfy.model_options

Function = Callable[..., Any]


class OptionSetters:
    """Mixed into `ModelPatcher`.

    Attributes:
        model_options: Go with the model through sampling; each clone has its own.
    """

    model_options: dict[str, Any]

    def set_model_sampler_cfg_function(
        self, sampler_cfg_function: Function, disable_cfg1_optimization: bool = False
    ) -> None:
        """Replace the formula of guidance.

        Args:
            sampler_cfg_function: Called with one dict, or, in its older form, with cond, uncond
                and scale.
            disable_cfg1_optimization: Compute the negative prompt also where its weight is zero.
        """
        if len(inspect.signature(sampler_cfg_function).parameters) == 3:

            def from_dict(args: dict[str, Any]) -> Any:
                return sampler_cfg_function(args["cond"], args["uncond"], args["cond_scale"])

            self.model_options["sampler_cfg_function"] = from_dict
        else:
            self.model_options["sampler_cfg_function"] = sampler_cfg_function
        if disable_cfg1_optimization:
            self.model_options["disable_cfg1_optimization"] = True

    def set_model_sampler_post_cfg_function(
        self, post_cfg_function: Function, disable_cfg1_optimization: bool = False
    ) -> None:
        """See `comfy.model_options.set_model_options_post_cfg_function`."""
        comfy.model_options.set_model_options_post_cfg_function(
            self.model_options, post_cfg_function, disable_cfg1_optimization
        )

    def set_model_sampler_pre_cfg_function(
        self, pre_cfg_function: Function, disable_cfg1_optimization: bool = False
    ) -> None:
        """See `comfy.model_options.set_model_options_pre_cfg_function`."""
        comfy.model_options.set_model_options_pre_cfg_function(
            self.model_options, pre_cfg_function, disable_cfg1_optimization
        )

    def set_model_sampler_calc_cond_batch_function(
        self, sampler_calc_cond_batch_function: Function
    ) -> None:
        """Replace the computation of all predictions of a step."""
        self.model_options["sampler_calc_cond_batch_function"] = sampler_calc_cond_batch_function

    def set_model_unet_function_wrapper(self, unet_wrapper_function: Function) -> None:
        """Call the network through a function: fn(apply_model, args) gives the output."""
        self.model_options["model_function_wrapper"] = unet_wrapper_function

    def set_model_denoise_mask_function(self, denoise_mask_function: Function) -> None:
        """Let a function give the mask of each step: fn(sigma, mask, extra_options)."""
        self.model_options["denoise_mask_function"] = denoise_mask_function

    def set_model_patch(self, patch: Any, name: str) -> None:
        """See `comfy.model_options.set_model_options_patch`."""
        comfy.model_options.set_model_options_patch(self.model_options, patch, name)

    def set_model_patch_replace(
        self,
        patch: Any,
        name: str,
        block_name: str,
        number: int,
        transformer_index: int | None = None,
    ) -> None:
        """See `comfy.model_options.set_model_options_patch_replace`."""
        comfy.model_options.set_model_options_patch_replace(
            self.model_options, patch, name, block_name, number, transformer_index
        )

    def set_model_attn1_patch(self, patch: Any) -> None:
        """Change q, k, v of self-attention: fn(n, context, value, extra_options)."""
        self.set_model_patch(patch, "attn1_patch")

    def set_model_attn2_patch(self, patch: Any) -> None:
        """Change q, k, v of cross-attention: fn(n, context, value, extra_options)."""
        self.set_model_patch(patch, "attn2_patch")

    def set_model_attn1_replace(
        self, patch: Any, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Replace one self-attention: fn(q, k, v, extra_options)."""
        self.set_model_patch_replace(patch, "attn1", block_name, number, transformer_index)

    def set_model_attn2_replace(
        self, patch: Any, block_name: str, number: int, transformer_index: int | None = None
    ) -> None:
        """Replace one cross-attention: fn(q, k, v, extra_options)."""
        self.set_model_patch_replace(patch, "attn2", block_name, number, transformer_index)

    def set_model_attn1_output_patch(self, patch: Any) -> None:
        """Change the result of self-attention: fn(out, extra_options)."""
        self.set_model_patch(patch, "attn1_output_patch")

    def set_model_attn2_output_patch(self, patch: Any) -> None:
        """Change the result of cross-attention: fn(out, extra_options)."""
        self.set_model_patch(patch, "attn2_output_patch")

    def set_model_input_block_patch(self, patch: Any) -> None:
        """Change the result of an input block: fn(h, transformer_options)."""
        self.set_model_patch(patch, "input_block_patch")

    def set_model_input_block_patch_after_skip(self, patch: Any) -> None:
        """Change the result of an input block once it is kept for the skip."""
        self.set_model_patch(patch, "input_block_patch_after_skip")

    def set_model_output_block_patch(self, patch: Any) -> None:
        """Change what goes into an output block: fn(h, hsp, transformer_options)."""
        self.set_model_patch(patch, "output_block_patch")

    def set_model_emb_patch(self, patch: Any) -> None:
        """Change the embedding of time: fn(emb, model_channels, transformer_options)."""
        self.set_model_patch(patch, "emb_patch")

    def set_model_forward_timestep_embed_patch(self, patch: Any) -> None:
        """Handle layers of other kinds inside blocks."""
        self.set_model_patch(patch, "forward_timestep_embed_patch")

    def set_model_double_block_patch(self, patch: Any) -> None:
        """Change the result of a double block."""
        self.set_model_patch(patch, "double_block")

    def set_model_post_input_patch(self, patch: Any) -> None:
        """Change a DiT's embedded inputs: fn({img, txt, img_ids, txt_ids, ...})."""
        self.set_model_patch(patch, "post_input")

    def set_model_noise_refiner_patch(self, patch: Any) -> None:
        """Change the result of a refiner of the noise."""
        self.set_model_patch(patch, "noise_refiner")

    def set_model_rope_options(
        self,
        scale_x: float,
        shift_x: float,
        scale_y: float,
        shift_y: float,
        scale_t: float,
        shift_t: float,
        **kwargs: Any,
    ) -> None:
        """Scale and shift the positions that rotary embeddings see, axis by axis."""
        self.model_options["transformer_options"]["rope_options"] = {
            "scale_x": scale_x,
            "shift_x": shift_x,
            "scale_y": scale_y,
            "shift_y": shift_y,
            "scale_t": scale_t,
            "shift_t": shift_t,
            **kwargs,
        }

    def model_patches_to(self, device: torch.device | torch.dtype) -> None:
        """Move patches that can be moved to a device, or to a dtype."""
        options = self.model_options["transformer_options"]
        for patches in options.get("patches", {}).values():
            patches[:] = [_moved(patch, device) for patch in patches]
        for replaced in options.get("patches_replace", {}).values():
            for block, patch in replaced.items():
                replaced[block] = _moved(patch, device)
        if "model_function_wrapper" in self.model_options:
            wrapper = self.model_options["model_function_wrapper"]
            self.model_options["model_function_wrapper"] = _moved(wrapper, device)

    def model_patches_models(self) -> list[Any]:
        """The patchers of models that patches use."""
        options = self.model_options["transformer_options"]
        patches = [one for group in options.get("patches", {}).values() for one in group]
        for replaced in options.get("patches_replace", {}).values():
            patches += replaced.values()
        if "model_function_wrapper" in self.model_options:
            patches.append(self.model_options["model_function_wrapper"])
        return [model for patch in patches if hasattr(patch, "models") for model in patch.models()]


def _moved(patch: Any, target: torch.device | torch.dtype) -> Any:
    return patch.to(target) if hasattr(patch, "to") else patch

"""What all control nets have in common: a hint, a strength, a part of the schedule, a chain.

A control net is asked at each step for residuals that the diffusion network adds to its features.
Nodes copy it, so that one that was loaded once can serve several prompts with different hints.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

import comfy.model_management
import comfy.utils
from comfy.model_patcher import ModelPatcher

Residuals = dict[str, list["torch.Tensor | None"]]
"""For "input", "middle" and "output" blocks; the network takes the last one of a list first."""


class StrengthType(enum.Enum):
    """How a strength is spread over the residuals of one list."""

    CONSTANT = 1
    LINEAR_UP = 2


def broadcast_image_to(
    tensor: torch.Tensor, target_batch_size: int, batched_number: int
) -> torch.Tensor:
    """Give each latent of a batch its hint.

    Args:
        tensor: [hints, ...].
        target_batch_size: Latents, all prompts together.
        batched_number: Prompts; each has the same latents in the same order.

    Returns:
        One hint as it is, it fits all; else [target_batch_size, ...], hints in turn for the latents
        of one prompt, the same again for the next.
    """
    if tensor.shape[0] == 1:
        return tensor
    latents = target_batch_size // batched_number
    for_one = comfy.utils.repeat_to_batch_size(tensor, latents)
    return torch.cat([for_one] * batched_number)


def patcher_of(network: torch.nn.Module, load_device: torch.device | None) -> ModelPatcher:
    """Wrap a control net's network; it runs where models run if not told otherwise."""
    return ModelPatcher(
        network,
        load_device=load_device or comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def _unchanged(image: torch.Tensor) -> torch.Tensor:
    return image


class ControlBase:
    """A control net without a network.

    Attributes:
        cond_hint_original: The hint as it was given, [B, C, H, W], 0 to 1.
        cond_hint: The same, at the size and on the device of the run; None between runs.
        strength: Factor of the residuals.
        strength_type: How it is spread.
        timestep_percent_range: From when to when, 0 is pure noise and 1 the picture.
        timestep_range: The same as sigmas, during a run.
        previous_controlnet: Whose residuals are added to these, or None.
        global_average_pooling: Whether each channel of a residual is replaced by its mean.
        compression_ratio: Pixels of the hint per position of the latent.
        hint_multiple: The hint's sides are rounded up to multiples of it.
        upscale_algorithm: How the hint is resized.
        latent_format: Of a net that sees latents, not pictures; None of all that load here.
        vae: For such a net.
        extra_concat_orig: What such a net sees beside the hint.
        concat_mask: Whether such a net sees a mask.
        extra_conds: What of a prompt the network takes besides the tokens.
        extra_args: Further arguments of the network.
        extra_hooks: Of this net, or None.
        preprocess_image: What is done to the resized hint.
    """

    def __init__(self) -> None:
        self.cond_hint_original: torch.Tensor | None = None
        self.cond_hint: torch.Tensor | None = None
        self.strength = 1.0
        self.strength_type = StrengthType.CONSTANT
        self.timestep_percent_range = (0.0, 1.0)
        self.timestep_range: tuple[float, float] | None = None
        self.previous_controlnet: ControlBase | None = None
        self.global_average_pooling = False
        self.compression_ratio = 8
        self.hint_multiple = 1
        self.upscale_algorithm = "nearest-exact"
        self.latent_format: Any = None
        self.vae: Any = None
        self.extra_concat_orig: list[torch.Tensor] = []
        self.concat_mask = False
        self.extra_conds: list[str] = []
        self.extra_args: dict[str, Any] = {}
        self.extra_hooks: Any = None
        self.preprocess_image: Callable[[torch.Tensor], torch.Tensor] = _unchanged

    # -- what nodes set ----------------------------------------------------------------------------

    def set_cond_hint(
        self,
        cond_hint: torch.Tensor,
        strength: float = 1.0,
        timestep_percent_range: tuple[float, float] = (0.0, 1.0),
        vae: Any = None,
        extra_concat: Sequence[torch.Tensor] = (),
    ) -> ControlBase:
        """Set hint, strength and part of the schedule; returns itself.

        Args:
            cond_hint: [B, C, H, W], 0 to 1.
            strength: See the class, like the rest.
            timestep_percent_range: See there.
            vae: See there.
            extra_concat: See there.
        """
        self.cond_hint_original = cond_hint
        self.cond_hint = None
        self.strength = strength
        self.timestep_percent_range = timestep_percent_range
        self.vae = vae
        self.extra_concat_orig = list(extra_concat)
        return self

    def set_previous_controlnet(self, controlnet: ControlBase | None) -> ControlBase:
        """Add to the residuals of another one; returns itself."""
        self.previous_controlnet = controlnet
        return self

    def set_extra_arg(self, argument: str, value: Any = None) -> None:
        """Hand the network a further argument."""
        self.extra_args[argument] = value

    def copy(self) -> ControlBase:
        """Make one with the same network, and settings of its own."""
        raise NotImplementedError(f"{type(self).__name__} does not say how it is copied")

    def copy_to(self, c: ControlBase) -> None:
        """Give another one the settings of this one."""
        for name in (
            "cond_hint_original",
            "strength",
            "strength_type",
            "timestep_percent_range",
            "global_average_pooling",
            "compression_ratio",
            "hint_multiple",
            "upscale_algorithm",
            "latent_format",
            "vae",
            "concat_mask",
            "extra_hooks",
            "preprocess_image",
        ):
            setattr(c, name, getattr(self, name))
        c.extra_args = dict(self.extra_args)
        c.extra_conds = list(self.extra_conds)
        c.extra_concat_orig = list(self.extra_concat_orig)

    # -- a run -------------------------------------------------------------------------------------

    def get_models(self) -> list[Any]:
        """The patchers that must be loaded for a run, those of the chain included."""
        return [] if self.previous_controlnet is None else self.previous_controlnet.get_models()

    def get_extra_hooks(self) -> list[Any]:
        """The hooks of this net and of the chain."""
        own = [] if self.extra_hooks is None else [self.extra_hooks]
        before = self.previous_controlnet
        return own if before is None else own + before.get_extra_hooks()

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        """Bytes of activations besides those of the diffusion network."""
        before = self.previous_controlnet
        return 0 if before is None else before.inference_memory_requirements(dtype)

    def pre_run(self, model: Any, percent_to_timestep_function: Callable[[float], float]) -> None:
        """Learn which sigmas the percentages are.

        Args:
            model: The `BaseModel` that is controlled.
            percent_to_timestep_function: Its `percent_to_sigma`.
        """
        start, end = self.timestep_percent_range
        self.timestep_range = (
            percent_to_timestep_function(start),
            percent_to_timestep_function(end),
        )
        if self.previous_controlnet is not None:
            self.previous_controlnet.pre_run(model, percent_to_timestep_function)

    def cleanup(self) -> None:
        """Forget what belongs to a run."""
        self.cond_hint = None
        self.timestep_range = None
        if self.previous_controlnet is not None:
            self.previous_controlnet.cleanup()

    def get_control(
        self,
        x_noisy: torch.Tensor,
        t: torch.Tensor,
        cond: Mapping[str, Any],
        batched_number: int,
        transformer_options: Mapping[str, Any],
    ) -> Residuals | None:
        """Make the residuals of one step.

        Args:
            x_noisy: Latents of all prompts of the batch, [B, C, h, w].
            t: Their sigmas, [B].
            cond: What the diffusion network gets: "c_crossattn", "y", ...
            batched_number: Prompts in the batch.
            transformer_options: Of this call.

        Returns:
            Sums over the chain; None if no net of the chain is awake.
        """
        before = None
        if self.previous_controlnet is not None:
            before = self.previous_controlnet.get_control(
                x_noisy, t, cond, batched_number, transformer_options
            )
        if not self.is_awake(float(t[0])):
            return before
        own = self.residuals(x_noisy, t, cond, batched_number)
        # As they are: the network that takes them knows in which dtype it computes.
        return self.control_merge(own, before, None)

    def residuals(
        self, x_noisy: torch.Tensor, t: torch.Tensor, cond: Mapping[str, Any], batched_number: int
    ) -> Residuals:
        """Make this net's own, at full strength; arguments as `get_control`'s."""
        raise NotImplementedError(f"{type(self).__name__} makes no residuals")

    def is_awake(self, sigma: float) -> bool:
        """Whether the net takes part at this noise level."""
        if self.timestep_range is None:
            return True
        start, end = self.timestep_range
        return end <= sigma <= start

    def resized_hint(self, x_noisy: torch.Tensor) -> torch.Tensor:
        """The hint at the size of a latent, each latent's own; made once for a run.

        Args:
            x_noisy: [B, C, h, w].

        Returns:
            [B', channels, ratio * h, ratio * w], on the latent's device.

        Raises:
            ValueError: If there is no hint.
        """
        if self.cond_hint_original is None:
            raise ValueError(
                "A ControlNet takes part in the run and was given no picture: connect one to the "
                "node that applies it."
            )
        multiple = self.hint_multiple
        sides = [side * self.compression_ratio for side in x_noisy.shape[-2:]]
        height, width = (math.ceil(side / multiple) * multiple for side in sides)
        if self.cond_hint is None or self.cond_hint.shape[-2:] != (height, width):
            resized = comfy.utils.common_upscale(
                self.cond_hint_original, width, height, self.upscale_algorithm, "center"
            )
            self.cond_hint = self.preprocess_image(resized).to(x_noisy.device)
        return self.cond_hint

    def control_merge(
        self, control: Residuals, control_prev: Residuals | None, output_dtype: torch.dtype | None
    ) -> Residuals:
        """Apply the strength to residuals, and add them to those of the nets before.

        Args:
            control: This net's; left as they are.
            control_prev: Sums of the nets before, or None.
            output_dtype: Of the result; None for that of each residual.
        """
        merged: Residuals = {"input": [], "middle": [], "output": []}
        for name, own in control.items():
            for index, residual in enumerate(own):
                if residual is not None:
                    residual = self._weighted(residual, len(own) - index)
                    residual = residual.to(dtype=output_dtype)
                merged[name].append(residual)
        for name, earlier in (control_prev or {}).items():
            sums = merged[name]
            sums += [None] * (len(earlier) - len(sums))
            for index, residual in enumerate(earlier):
                present = sums[index]
                if residual is not None:
                    sums[index] = residual if present is None else present + residual
        return merged

    def _weighted(self, residual: torch.Tensor, from_end: int) -> torch.Tensor:
        if self.global_average_pooling:
            residual = residual.mean((2, 3), keepdim=True).expand_as(residual)
        is_linear = self.strength_type is StrengthType.LINEAR_UP
        factor = self.strength**from_end if is_linear else self.strength
        return residual if factor == 1.0 else residual * factor

"""What a function that wraps a model's call is called with."""

from __future__ import annotations

from typing import Any, Protocol, TypedDict

import torch


class UnetApplyFunction(Protocol):
    """The model's call that a wrapper stands around."""

    def __call__(self, x: torch.Tensor, t: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """Predict from a noisy latent, (batch, channels, height, width), and sigmas, (batch,)."""
        ...


class UnetApplyConds(TypedDict, total=False):
    """The conditions of a call.

    Attributes:
        c_concat: Further channels.
        c_crossattn: What attention looks at, (batch, tokens, features).
        control: Control nets' outputs by place.
        transformer_options: Patches, sigmas and more; packs add entries of their own.
    """

    c_concat: torch.Tensor
    c_crossattn: torch.Tensor
    control: Any
    transformer_options: dict[str, Any]


class UnetParams(TypedDict):
    """One call of the model.

    Attributes:
        input: The noisy latent.
        timestep: Its sigmas.
        c: Conditions.
        cond_or_uncond: 0 or 1 per part of the batch: positive or negative.
    """

    input: torch.Tensor
    timestep: torch.Tensor
    c: UnetApplyConds
    cond_or_uncond: list[int]


class UnetWrapperFunction(Protocol):
    """What ``set_model_unet_function_wrapper`` takes."""

    def __call__(self, apply_model: UnetApplyFunction, params: UnetParams) -> torch.Tensor:
        """Call the model in a way of one's own, and give its prediction."""
        ...

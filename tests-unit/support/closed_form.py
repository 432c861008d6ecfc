"""Diffusion models whose denoiser is a formula, in a real `BaseModel` and a real patcher."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import torch

from comfy import latent_formats
from comfy.conds import CONDCrossAttn, CONDRegular
from comfy.model_base import BaseModel, ModelType
from comfy.model_patcher import ModelPatcher
from comfy.supported_models_base import BASE

CPU = torch.device("cpu")
CHANNELS = 4
STD = 0.5
"""Of the data that `gaussian_model` knows."""


class Formula(torch.nn.Module):
    """A network of one weight. Its prompt is a number, the mean of the tokens.

    Attributes:
        calls: The keyword arguments of each call, and its input as `x`.
    """

    def __init__(self, kind: str, dtype: Any = None, device: Any = None, **config: Any) -> None:
        super().__init__()
        self.kind, self.dtype = kind, dtype
        self.out = config["operations"].Linear(1, 1, bias=False, dtype=dtype, device=device)
        self.calls: list[dict[str, Any]] = []
        self.sigmas = torch.zeros(0)

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Shape of x."""
        self.calls.append({"x": x, "timesteps": timesteps, "context": context, **kwargs})
        mean = context.mean(dim=(1, 2)).reshape(-1, *(1,) * (x.ndim - 1))
        answer: torch.Tensor
        if self.kind == "paint":
            answer = mean.expand_as(x)
        elif self.kind == "echo":
            answer = mean * x
        else:
            answer = self._noise(x, timesteps, mean)
        answer = self.out(answer.unsqueeze(-1)).squeeze(-1)
        return answer

    def _noise(self, x: torch.Tensor, timesteps: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        sigma = self.sigmas[timesteps.long()].reshape(-1, *(1,) * (x.ndim - 1))
        state = x * (sigma**2 + 1) ** 0.5
        denoised = mean + STD**2 / (STD**2 + sigma**2) * (state - mean)
        return (state - denoised) / sigma


class _Config(BASE):
    unet_extra_config: Mapping[str, Any] = {}
    latent_format = latent_formats.SD15


class PaintModel(BaseModel):
    """A `BaseModel` whose tests may add arguments of the network to a condition, as `extra`."""

    def extra_conds(self, **kwargs: Any) -> dict[str, CONDRegular]:
        """See `BaseModel.extra_conds`."""
        return {**super().extra_conds(**kwargs), **kwargs.get("extra", {})}


def _patcher(kind: str, model_type: ModelType) -> ModelPatcher:
    config = _Config({"kind": kind, "in_channels": CHANNELS, "dtype": torch.float32})
    model = PaintModel(config, model_type, device=CPU, unet_model=Formula)
    with torch.no_grad():
        model.diffusion_model.out.weight.fill_(1.0)
    model.diffusion_model.requires_grad_(False)
    model.diffusion_model.sigmas = model.model_sampling.sigmas
    return ModelPatcher(model, load_device=CPU, offload_device=CPU)


def paint_model() -> ModelPatcher:
    """D is the prompt's number everywhere, whatever the noise."""
    return _patcher("paint", ModelType.IMG_TO_IMG)


def echo_model() -> ModelPatcher:
    """D is the prompt's number times x."""
    return _patcher("echo", ModelType.IMG_TO_IMG)


def gaussian_model() -> ModelPatcher:
    """The ideal denoiser of data N(prompt's number, STD^2), predicting noise."""
    return _patcher("gauss", ModelType.EPS)


def prompt(value: float, tokens: int = 3, **keys: Any) -> list[Any]:
    """CONDITIONING that stands for a number."""
    return [[torch.full((1, tokens, 2), float(value)), keys]]


def prepared(value: float, **keys: Any) -> dict[str, Any]:
    """The same as a condition that is ready for the loop."""
    model_conds = keys.pop("model_conds", {})
    tokens = torch.full((1, keys.pop("tokens", 3), 2), float(value))
    model_conds = {"c_crossattn": CONDCrossAttn(tokens), **model_conds}
    return {"model_conds": model_conds, "uuid": uuid.uuid4(), **keys}

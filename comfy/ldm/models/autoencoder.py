"""The Stable Diffusion autoencoder, and its configuration as told by its weights' shapes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import comfy.ops
from comfy.ldm.modules.diffusionmodules.model import Decoder, Encoder
from comfy.ldm.modules.distributions.distributions import DiagonalGaussianDistribution


class AutoencoderKL(nn.Module):
    """Images to latents and back.

    Args:
        embed_dim: Channels of latents; None if there are no 1x1 convolutions between them and
            encoder and decoder, as in the autoencoders of Stable Diffusion 3 and Flux.
        ddconfig: Arguments of `Encoder` and `Decoder`; `ddconfig_from_state_dict` finds them.
        dtype: Of the weights.
        device: Of the weights.
        operations: Makes the layers; see `comfy.ops`.
    """

    def __init__(
        self,
        embed_dim: int | None,
        ddconfig: Mapping[str, Any],
        dtype: torch.dtype | None = None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.embed_dim = embed_dim
        self.encoder = Encoder(**ddconfig, **place, operations=operations)
        if embed_dim is not None:
            z_channels = ddconfig["z_channels"]
            factor = 2 if ddconfig["double_z"] else 1
            self.quant_conv = operations.Conv2d(factor * z_channels, factor * embed_dim, 1, **place)
            self.post_quant_conv = operations.Conv2d(embed_dim, z_channels, 1, **place)
        self.decoder = Decoder(**ddconfig, **place, operations=operations)

    def posterior(self, x: torch.Tensor) -> DiagonalGaussianDistribution:
        """Where the latents of images are.

        Args:
            x: [batch, channels, height, width], -1 to 1.
        """
        moments = self.encoder(x)
        if self.embed_dim is not None:
            moments = self.quant_conv(moments)
        return DiagonalGaussianDistribution(moments)

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """The most likely latents of images.

        Args:
            x: [batch, channels, height, width], -1 to 1; sizes are multiples of 8.

        Returns:
            [batch, embed_dim, height / 8, width / 8].
        """
        return self.posterior(x).mode()

    def decode(self, z: torch.Tensor) -> torch.Tensor:
        """The images of latents; the inverse of `encode` as far as there is one."""
        if self.embed_dim is not None:
            z = self.post_quant_conv(z)
        result: torch.Tensor = self.decoder(z)
        return result

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode and decode."""
        return self.decode(self.encode(x))


def _count(sd: Mapping[str, torch.Tensor], pattern: str) -> int:
    count = 0
    while pattern.format(count) in sd:
        count += 1
    return count


def ddconfig_from_state_dict(sd: Mapping[str, torch.Tensor]) -> dict[str, Any]:
    """Find an autoencoder's configuration.

    Args:
        sd: Weights by their names in checkpoints, without prefix; only shapes are looked at.

    Returns:
        Arguments of `Encoder` and `Decoder`.

    Raises:
        KeyError: If a weight is missing that tells something.
    """
    ch = sd["encoder.conv_in.weight"].shape[0]
    levels = _count(sd, "encoder.down.{}.block.0.conv1.weight")
    z_channels = sd["decoder.conv_in.weight"].shape[1]
    return {
        "ch": ch,
        "ch_mult": [
            sd[f"encoder.down.{level}.block.0.conv1.weight"].shape[0] // ch
            for level in range(levels)
        ],
        "num_res_blocks": _count(sd, "encoder.down.0.block.{}.conv1.weight"),
        "in_channels": sd["encoder.conv_in.weight"].shape[1],
        "out_ch": sd["decoder.conv_out.weight"].shape[0],
        "z_channels": z_channels,
        "double_z": sd["encoder.conv_out.weight"].shape[0] == 2 * z_channels,
        "attn_resolutions": [],
        "resolution": 256,
        "dropout": 0.0,
    }


def embed_dim_from_state_dict(sd: Mapping[str, torch.Tensor]) -> int | None:
    """The `embed_dim` of an `AutoencoderKL` with these weights; see there."""
    weight = sd.get("post_quant_conv.weight")
    return None if weight is None else weight.shape[1]

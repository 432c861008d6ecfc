"""TAESD, an autoencoder that is small enough for previews.

Source: Ollin Boer Bohan's Tiny AutoEncoder for Stable Diffusion. Its files hold encoder and decoder
as bare sequences of layers; decoders read latents as the diffusion model sees them.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import comfy.ops
import comfy.utils

_CHANNELS = 64


def _conv(n_in: int, n_out: int, **kwargs: Any) -> nn.Module:
    conv: nn.Module = comfy.ops.disable_weight_init.Conv2d(n_in, n_out, 3, padding=1, **kwargs)
    return conv


class Clamp(nn.Module):
    """Smoothly to -3 .. 3."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Any shape."""
        return torch.tanh(x / 3) * 3


class Block(nn.Module):
    """Three 3x3 convolutions with ReLU; residual."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            _conv(channels, channels),
            nn.ReLU(inplace=True),
            _conv(channels, channels),
            nn.ReLU(inplace=True),
            _conv(channels, channels),
        )
        self.fuse = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features [batch, channels, height, width]."""
        result: torch.Tensor = self.fuse(self.conv(x).add_(x))
        return result


def _blocks() -> list[nn.Module]:
    return [Block(_CHANNELS) for _ in range(3)]


def Encoder(latent_channels: int = 4) -> nn.Sequential:
    """Image, 0 to 1, to latent of an eighth of the size."""
    layers = [_conv(3, _CHANNELS), Block(_CHANNELS)]
    for _ in range(3):
        layers += [_conv(_CHANNELS, _CHANNELS, stride=2, bias=False), *_blocks()]
    return nn.Sequential(*layers, _conv(_CHANNELS, latent_channels))


def Decoder(latent_channels: int = 4) -> nn.Sequential:
    """Latent to image, 0 to 1, of eight times the size."""
    layers = [Clamp(), _conv(latent_channels, _CHANNELS), nn.ReLU(inplace=True)]
    for _ in range(3):
        layers += [*_blocks(), nn.Upsample(scale_factor=2), _conv(_CHANNELS, _CHANNELS, bias=False)]
    return nn.Sequential(*layers, Block(_CHANNELS), _conv(_CHANNELS, 3))


def _load(network: nn.Module, path: str) -> None:
    # Previews run at every step, so these few megabytes are read once, not on every call.
    sd = comfy.utils.load_torch_file(path, safe_load=True, device=torch.device("cpu"))
    try:
        network.load_state_dict(sd, assign=True)
    except RuntimeError as err:
        raise ValueError(f"{path} does not hold this part of TAESD. {err}") from err


class TAESD(nn.Module):
    """Images to latents and back, roughly and fast.

    Latents are x here and (x - vae_shift) * vae_scale in the networks: with the defaults, 0 and 1,
    they are the diffusion model's; with a latent format's numbers, those of its autoencoder.

    Args:
        encoder_path: File of the encoder's weights; without one they are not set.
        decoder_path: File of the decoder's weights, likewise.
        latent_channels: 4, or 16 for Stable Diffusion 3 and Flux.

    Raises:
        ValueError: If a file holds something else.
    """

    def __init__(
        self,
        encoder_path: str | None = None,
        decoder_path: str | None = None,
        latent_channels: int = 4,
    ) -> None:
        super().__init__()
        self.taesd_encoder = Encoder(latent_channels)
        self.taesd_decoder = Decoder(latent_channels)
        self.vae_scale = nn.Parameter(torch.tensor(1.0))
        self.vae_shift = nn.Parameter(torch.tensor(0.0))
        if encoder_path is not None:
            _load(self.taesd_encoder, encoder_path)
        if decoder_path is not None:
            _load(self.taesd_decoder, decoder_path)

    def decode(self, x: torch.Tensor) -> torch.Tensor:
        """Map latents [batch, latent_channels, h, w] to images [batch, 3, 8 h, 8 w], -1 to 1."""
        image: torch.Tensor = self.taesd_decoder((x - self.vae_shift) * self.vae_scale)
        return image * 2 - 1

    def encode(self, x: torch.Tensor) -> torch.Tensor:
        """Map images [batch, 3, 8 h, 8 w], -1 to 1, to latents [batch, latent_channels, h, w]."""
        latent: torch.Tensor = self.taesd_encoder(x * 0.5 + 0.5)
        return latent / self.vae_scale + self.vae_shift

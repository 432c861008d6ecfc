"""Layers of the Stable Diffusion UNet."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional

import comfy.ops
from comfy.ldm.modules.diffusionmodules.util import norm_groups


class TimestepBlock(nn.Module):
    """A layer that is called with the embedding of the timestep, too."""

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Map features [batch, channels, height, width], embedding [batch, channels]."""
        raise NotImplementedError


class Upsample(nn.Module):
    """Nearest neighbour to twice the size, or to the size of the skip connection, then 3x3."""

    def __init__(
        self,
        channels: int,
        use_conv: bool = True,
        out_channels: int | None = None,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.use_conv = use_conv
        if use_conv:
            out = out_channels or channels
            self.conv = operations.Conv2d(channels, out, 3, padding=1, dtype=dtype, device=device)

    def forward(self, x: torch.Tensor, output_shape: Sequence[int] | None = None) -> torch.Tensor:
        """Enlarge; the last two of `output_shape` say to which size, where odd sizes were halved."""
        height, width = x.shape[2:]
        size = (2 * height, 2 * width) if output_shape is None else tuple(output_shape[-2:])
        x = functional.interpolate(x, size=size, mode="nearest")
        return self.conv(x) if self.use_conv else x


class Downsample(nn.Module):
    """Every second position of a 3x3 convolution, or the mean of 2x2."""

    def __init__(
        self,
        channels: int,
        use_conv: bool = True,
        out_channels: int | None = None,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        self.channels = channels
        self.use_conv = use_conv
        if use_conv:
            out = out_channels or channels
            self.op = operations.Conv2d(
                channels, out, 3, stride=2, padding=1, dtype=dtype, device=device
            )
        else:
            self.op = nn.AvgPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Halve, rounding up with a convolution."""
        result: torch.Tensor = self.op(x)
        return result


class ResBlock(TimestepBlock):
    """Two 3x3 convolutions with the timestep's embedding between them; residual."""

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        dropout: float = 0.0,
        out_channels: int | None = None,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        out_channels = out_channels or channels
        self.channels = channels
        self.emb_channels = emb_channels
        self.out_channels = out_channels
        # The norms' outputs are nobody else's, so their activations need no memory of their own.
        self.in_layers = nn.Sequential(
            operations.GroupNorm(norm_groups(channels), channels, **place),
            nn.SiLU(inplace=True),
            operations.Conv2d(channels, out_channels, 3, padding=1, **place),
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), operations.Linear(emb_channels, out_channels, **place)
        )
        self.out_layers = nn.Sequential(
            operations.GroupNorm(norm_groups(out_channels), out_channels, **place),
            nn.SiLU(inplace=True),
            nn.Dropout(dropout),
            operations.Conv2d(out_channels, out_channels, 3, padding=1, **place),
        )
        if out_channels == channels:
            self.skip_connection: nn.Module = nn.Identity()
        else:
            self.skip_connection = operations.Conv2d(channels, out_channels, 1, **place)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        """Map features [batch, channels, height, width], embedding [batch, emb_channels]."""
        h = self.in_layers(x)
        h = h + self.emb_layers(emb).type(h.dtype)[:, :, None, None]
        h = self.out_layers(h)
        return self.skip_connection(x) + h

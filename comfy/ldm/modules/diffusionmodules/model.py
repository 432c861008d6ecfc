"""Encoder and decoder of the Stable Diffusion autoencoder, under the names its files use.

At full resolution one feature map is the largest tensor of all; so activations are computed in the
place of the norms that feed them, and sums in the place of one summand. Both are nobody else's.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

import comfy.ldm.modules.attention
import comfy.ops
from comfy.ldm.modules.diffusionmodules.util import norm_groups


def nonlinearity(x: torch.Tensor) -> torch.Tensor:
    """SiLU, in place."""
    return functional.silu(x, inplace=True)


def Normalize(
    in_channels: int,
    num_groups: int | None = None,
    dtype=None,
    device=None,
    operations=comfy.ops.disable_weight_init,
) -> nn.Module:
    """GroupNorm as all of the autoencoder has it."""
    norm: nn.Module = operations.GroupNorm(
        num_groups or norm_groups(in_channels),
        in_channels,
        eps=1e-6,
        affine=True,
        dtype=dtype,
        device=device,
    )
    return norm


class Upsample(nn.Module):
    """Nearest neighbour to twice the size, then 3x3."""

    def __init__(
        self, in_channels: int, dtype=None, device=None, operations=comfy.ops.disable_weight_init
    ) -> None:
        super().__init__()
        self.conv = operations.Conv2d(
            in_channels, in_channels, 3, padding=1, dtype=dtype, device=device
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, channels, height, width] to twice the height and width."""
        result: torch.Tensor = self.conv(functional.interpolate(x, scale_factor=2.0))
        return result


class Downsample(nn.Module):
    """Every second position of a 3x3 convolution, padded at the right and the bottom only."""

    def __init__(
        self, in_channels: int, dtype=None, device=None, operations=comfy.ops.disable_weight_init
    ) -> None:
        super().__init__()
        self.conv = operations.Conv2d(
            in_channels, in_channels, 3, stride=2, dtype=dtype, device=device
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [batch, channels, height, width] to half the height and width, rounded down."""
        result: torch.Tensor = self.conv(functional.pad(x, (0, 1, 0, 1)))
        return result


class ResnetBlock(nn.Module):
    """Two 3x3 convolutions; residual."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int | None = None,
        dropout: float = 0.0,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        out_channels = out_channels or in_channels
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.norm1 = Normalize(in_channels, **place, operations=operations)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **place)
        self.norm2 = Normalize(out_channels, **place, operations=operations)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **place)
        if in_channels != out_channels:
            self.nin_shortcut = operations.Conv2d(in_channels, out_channels, 1, **place)

    def forward(self, x: torch.Tensor, temb: None = None) -> torch.Tensor:
        """Map features [batch, channels, height, width]; there is no timestep, `temb` is None."""
        h = self.conv1(nonlinearity(self.norm1(x)))
        h = nonlinearity(self.norm2(h))
        h = self.conv2(self.dropout(h))
        if self.in_channels != self.out_channels:
            x = self.nin_shortcut(x)
        result: torch.Tensor = h.add_(x)
        return result


class AttnBlock(nn.Module):
    """Attention of one head over the positions of a feature map; residual."""

    def __init__(
        self, in_channels: int, dtype=None, device=None, operations=comfy.ops.disable_weight_init
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        self.norm = Normalize(in_channels, **place, operations=operations)
        self.q = operations.Conv2d(in_channels, in_channels, 1, **place)
        self.k = operations.Conv2d(in_channels, in_channels, 1, **place)
        self.v = operations.Conv2d(in_channels, in_channels, 1, **place)
        self.proj_out = operations.Conv2d(in_channels, in_channels, 1, **place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map features [batch, channels, height, width]."""
        h = self.norm(x)
        q, k, v = (
            layer(h).flatten(2).transpose(1, 2).contiguous() for layer in (self.q, self.k, self.v)
        )
        out = comfy.ldm.modules.attention.optimized_attention(q, k, v, 1)
        h = out.transpose(1, 2).reshape(x.shape)
        result: torch.Tensor = self.proj_out(h).add_(x)
        return result


class _Middle(nn.Module):
    def __init__(self, channels: int, dropout: float, layer: dict[str, Any]) -> None:
        super().__init__()
        self.block_1 = ResnetBlock(channels, dropout=dropout, **layer)
        self.attn_1 = AttnBlock(channels, **layer)
        self.block_2 = ResnetBlock(channels, dropout=dropout, **layer)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.block_2(self.attn_1(self.block_1(h)))
        return result


class _Level(nn.Module):
    """Resnets from each width to the next, then perhaps a change of size."""

    def __init__(self, widths: Sequence[int], dropout: float, layer: dict[str, Any]) -> None:
        super().__init__()
        self.block = nn.ModuleList(
            ResnetBlock(before, after, dropout, **layer)
            for before, after in itertools.pairwise(widths)
        )


def _in_order(levels: Iterable[nn.Module]) -> Iterator[nn.Module]:
    """The layers as they are called.

    Levels have no forward: their caller would hold a level's input until the level is done.
    """
    for level in levels:
        yield from cast(_Level, level).block
        for name in ("downsample", "upsample"):
            if hasattr(level, name):
                yield getattr(level, name)


def _refuse_attention(resolutions: Sequence[int]) -> None:
    if resolutions:
        raise ValueError(
            f"An autoencoder with attention at the resolutions {list(resolutions)} is not known: "
            "Stable Diffusion's have it in the middle only."
        )


class Encoder(nn.Module):
    """Image to the parameters of a latent's distribution.

    Args:
        ch: Channels at full resolution.
        ch_mult: Channels of each level, as multiples of `ch`; each level after the first is half
            the size of the one before.
        num_res_blocks: Of each level.
        in_channels: Of the image.
        z_channels: Of the latent.
        double_z: Yield means and logarithms of variances, not one value only.
        out_ch: Of the decoder's image; told, not used.
        attn_resolutions: Must be empty.
        resolution: Of images it was trained with; told, not used.
        dropout: While training.
        dtype: Of the weights.
        device: Of the weights.
        operations: Makes the layers; see `comfy.ops`.
    """

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        in_channels: int = 3,
        z_channels: int = 4,
        double_z: bool = True,
        out_ch: int = 3,
        attn_resolutions: Sequence[int] = (),
        resolution: int = 256,
        dropout: float = 0.0,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        _refuse_attention(attn_resolutions)
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        layer = {**place, "operations": operations}
        self.conv_in = operations.Conv2d(in_channels, ch, 3, padding=1, **place)
        self.down = nn.ModuleList()
        width = ch
        for index, mult in enumerate(ch_mult):
            level = _Level([width, *[ch * mult] * num_res_blocks], dropout, layer)
            width = ch * mult
            if index < len(ch_mult) - 1:
                level.downsample = Downsample(width, **layer)
            self.down.append(level)
        self.mid = _Middle(width, dropout, layer)
        self.norm_out = Normalize(width, **layer)
        out = 2 * z_channels if double_z else z_channels
        self.conv_out = operations.Conv2d(width, out, 3, padding=1, **place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Encode.

        Args:
            x: [batch, in_channels, height, width], -1 to 1.

        Returns:
            [batch, z_channels (twice that with `double_z`), height / 8, width / 8], where 8 is 2
            to the number of levels less one.
        """
        h = self.conv_in(x)
        for layer in _in_order(self.down):
            h = layer(h)
        h = self.mid(h)
        result: torch.Tensor = self.conv_out(nonlinearity(self.norm_out(h)))
        return result


class Decoder(nn.Module):
    """Latent to image; arguments as the encoder's, `out_ch` being the image's channels."""

    def __init__(
        self,
        *,
        ch: int,
        ch_mult: Sequence[int] = (1, 2, 4, 4),
        num_res_blocks: int = 2,
        in_channels: int = 3,
        z_channels: int = 4,
        double_z: bool = True,
        out_ch: int = 3,
        attn_resolutions: Sequence[int] = (),
        resolution: int = 256,
        dropout: float = 0.0,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        _refuse_attention(attn_resolutions)
        place: dict[str, Any] = {"dtype": dtype, "device": device}
        layer = {**place, "operations": operations}
        width = ch * ch_mult[-1]
        self.conv_in = operations.Conv2d(z_channels, width, 3, padding=1, **place)
        self.mid = _Middle(width, dropout, layer)
        levels: list[nn.Module] = []
        for index, mult in reversed(list(enumerate(ch_mult))):
            level = _Level([width, *[ch * mult] * (num_res_blocks + 1)], dropout, layer)
            width = ch * mult
            if index > 0:
                level.upsample = Upsample(width, **layer)
            levels.append(level)
        # Numbered from the image's side, called from the latent's.
        self.up = nn.ModuleList(reversed(levels))
        self.norm_out = Normalize(width, **layer)
        self.conv_out = operations.Conv2d(width, out_ch, 3, padding=1, **place)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """Decode.

        Args:
            z: [batch, z_channels, height, width].

        Returns:
            [batch, out_ch, 8 height, 8 width], about -1 to 1; 8 as in `Encoder.forward`.
        """
        h = self.mid(self.conv_in(z))
        for layer in _in_order(reversed(list(self.up))):
            h = layer(h)
        result: torch.Tensor = self.conv_out(nonlinearity(self.norm_out(h)))
        return result

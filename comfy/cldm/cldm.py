"""The network of a ControlNet, under the names its files use.

A copy of a UNet's input side and middle, which is also shown a hint picture; what each of its
blocks yields goes through a convolution that training began at zero, and is added to the UNet's.

Source: Zhang, Rao, Agrawala: Adding conditional control to text-to-image diffusion models (2023),
section 3.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import comfy.ops
from comfy.cldm.union import Union
from comfy.ldm.modules.diffusionmodules.openaimodel import (
    TimestepEmbedSequential,
    forward_timestep_embed,
    input_side,
    levels_of,
)
from comfy.ldm.modules.diffusionmodules.time_embedding import TimeEmbedding
from comfy.ldm.modules.diffusionmodules.unet_blocks import UNetBlocks

HINT_WIDTHS = (16, 32, 96, 256)
"""Channels on the way from the hint picture to the first block, each at half the size before."""


def _hint_layers(hint_channels: int, widths: Sequence[int], blocks: UNetBlocks) -> list[nn.Module]:
    """Pairs of 3x3 convolutions, the second of which halves and widens; the last only widens."""

    def conv(before: int, after: int, stride: int = 1) -> nn.Module:
        made: nn.Module = blocks.operations.Conv2d(
            before, after, 3, stride=stride, padding=1, **blocks.place
        )
        return made

    layers: list[nn.Module] = [conv(hint_channels, widths[0]), nn.SiLU()]
    for before, after in itertools.pairwise(widths):
        layers += [conv(before, before), nn.SiLU(), conv(before, after, stride=2), nn.SiLU()]
    return [*layers, conv(widths[-1], blocks.model_channels)]


class ControlNet(TimeEmbedding):
    """Turns a hint picture into residuals for a UNet.

    Args:
        hint_channels: Of the hint picture.
        hint_widths: See `HINT_WIDTHS`.
        union: types, type_width and depth of a `Union`; None for a net of one type.
        image_size: As in `openaimodel.UNetModel`, like all others.
        in_channels: See there.
        model_channels: See there.
        num_res_blocks: See there.
        channel_mult: See there.
        transformer_depth: See there.
        transformer_depth_middle: See there.
        context_dim: See there.
        use_linear_in_transformer: See there.
        num_classes: See there.
        adm_in_channels: See there.
        num_heads: See there.
        num_head_channels: See there.
        use_spatial_transformer: See there.
        legacy: See there.
        dropout: See there.
        attn_precision: See there.
        dtype: See there.
        device: See there.
        operations: See there.
    """

    def __init__(
        self,
        image_size: int | None = None,
        in_channels: int = 4,
        model_channels: int = 320,
        hint_channels: int = 3,
        num_res_blocks: int | Sequence[int] = 2,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        transformer_depth: Sequence[int] = (),
        transformer_depth_middle: int = 0,
        context_dim: int | None = None,
        use_linear_in_transformer: bool = False,
        num_classes: str | None = None,
        adm_in_channels: int | None = None,
        num_heads: int = -1,
        num_head_channels: int = -1,
        use_spatial_transformer: bool = True,
        legacy: bool = False,
        dropout: float = 0.0,
        attn_precision: torch.dtype | None = None,
        hint_widths: Sequence[int] = HINT_WIDTHS,
        union: Mapping[str, int] | None = None,
        dtype: torch.dtype | None = None,
        device: Any = None,
        operations: Any = comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        self.num_res_blocks = counts = levels_of(num_res_blocks, len(channel_mult))
        self.in_channels = in_channels
        self.hint_channels = hint_channels
        self.dtype = dtype
        no_output_side = [0] * (sum(counts) + len(counts))
        transformer = {"context_dim": context_dim, "use_linear": use_linear_in_transformer}
        blocks = UNetBlocks(
            in_channels,
            model_channels,
            channel_mult,
            counts,
            (transformer_depth, transformer_depth_middle, no_output_side),
            (num_heads, num_head_channels),
            {**transformer, "attn_precision": attn_precision},
            dropout,
            {"dtype": dtype, "device": device, "operations": operations},
        )
        self.build_embedders(blocks, num_classes, adm_in_channels)
        self.input_hint_block = TimestepEmbedSequential(
            *_hint_layers(hint_channels, hint_widths, blocks)
        )
        self._build(blocks, union)

    def _build(self, blocks: UNetBlocks, union: Mapping[str, int] | None) -> None:
        """Make the layers, in the order of the forward pass: weights are fetched ahead in it."""
        operations, place = blocks.operations, blocks.place

        def zero_conv(channels: int) -> TimestepEmbedSequential:
            return TimestepEmbedSequential(operations.Conv2d(channels, channels, 1, **place))

        self.union = None
        if union is not None:
            width = blocks.model_channels
            self.union = Union(**union, channels=width, operations=operations, place=place)
        self.input_blocks, self.middle_block, widths = input_side(blocks)
        self.zero_convs = nn.ModuleList(zero_conv(width) for width in widths)
        self.middle_block_out = None if self.middle_block is None else zero_conv(widths[-1])

    def forward(
        self,
        x: torch.Tensor,
        hint: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        control_type: Sequence[int] = (),
        **kwargs: Any,
    ) -> dict[str, list[torch.Tensor]]:
        """Make residuals.

        Args:
            x: [batch, in_channels, height, width]; its dtype is the one of all features.
            hint: [batch, hint_channels, 8 height, 8 width], 0 to 1.
            timesteps: [batch], 0 to 999.
            context: [batch, tokens, context_dim].
            y: [batch, adm_in_channels].
            control_type: Number of the hint's type, for a union; empty to let it guess.
            **kwargs: Without effect.

        Returns:
            "output": one residual for each skip connection, in the order of the input side, which
            the output side takes from the end. "middle": one, or none.
        """
        emb = self.embed(x, timesteps, y)
        if self.union is not None:
            emb = self.union.embed(control_type, emb)
        shown = self.input_hint_block(hint, emb, context)
        h, skips = x, []
        for block in self.input_blocks:
            h = forward_timestep_embed(block, h, emb, context)
            if shown is not None:
                if self.union is not None:
                    shown = self.union.mark(shown, h, control_type)
                h, shown = h + shown, None
            skips.append(h)
        if self.middle_block is not None:
            h = forward_timestep_embed(self.middle_block, h, emb, context)
        for number, zero_conv in enumerate(self.zero_convs):
            skips[number] = zero_conv(skips[number], emb, context)
        middle = [] if self.middle_block_out is None else [self.middle_block_out(h, emb, context)]
        return {"middle": middle, "output": skips}

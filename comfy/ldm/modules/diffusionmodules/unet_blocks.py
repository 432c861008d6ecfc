"""Which layers stand in which block of the Stable Diffusion UNet.

Blocks are lists of layers in the order of the forward pass, so that their numbers are those in the
checkpoints: a resnet or a change of size first, then a transformer, then an enlargement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.unet_layers import Downsample, ResBlock, Upsample

Blocks = list[list[nn.Module]]


@dataclass(frozen=True)
class UNetBlocks:
    """Makes the blocks.

    Attributes:
        in_channels: As in `openaimodel.UNetModel`, like all that is not explained here.
        transformer_depths: On the input side, in the middle, on the output side.
        heads: num_heads and num_head_channels.
        transformer: Further arguments of each transformer.
        layer: dtype, device and operations.
    """

    in_channels: int
    model_channels: int
    channel_mult: Sequence[int]
    num_res_blocks: Sequence[int]
    transformer_depths: tuple[Sequence[int], int, Sequence[int]]
    heads: tuple[int, int]
    transformer: Mapping[str, Any]
    dropout: float
    layer: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Check that the lists fit together."""
        levels, inputs = len(self.channel_mult), sum(self.num_res_blocks)
        for name, values, length in (
            ("num_res_blocks", self.num_res_blocks, levels),
            ("transformer_depth", self.transformer_depths[0], inputs),
            ("transformer_depth_output", self.transformer_depths[2], inputs + levels),
        ):
            if len(values) != length:
                raise ValueError(
                    f"The UNet's {name} is {list(values)}, which should have {length} entries: "
                    f"channel_mult {list(self.channel_mult)}, "
                    f"num_res_blocks {list(self.num_res_blocks)}."
                )

    @property
    def place(self) -> dict[str, Any]:
        """dtype and device of the weights."""
        return {key: self.layer[key] for key in ("dtype", "device")}

    @property
    def operations(self) -> Any:
        """What makes the layers."""
        return self.layer["operations"]

    def _resnet(self, channels: int, out_channels: int) -> nn.Module:
        return ResBlock(
            channels,
            4 * self.model_channels,
            self.dropout,
            out_channels=out_channels,
            **self.layer,
        )

    def _transformer(self, channels: int, depth: int) -> list[nn.Module]:
        if depth <= 0:
            return []
        heads, width = self.heads
        if (heads > 0) == (width > 0):
            raise ValueError(
                "Give the UNet either num_heads or num_head_channels; the other is -1."
            )
        if heads > 0:
            width = channels // heads
        if channels % width:
            raise ValueError(
                f"{channels} channels of the UNet cannot be split in heads of {width}."
            )
        return [
            SpatialTransformer(
                channels,
                channels // width,
                width,
                depth=depth,
                dropout=self.dropout,
                **self.transformer,
                **self.layer,
            )
        ]

    def input_side(self) -> tuple[Blocks, list[int]]:
        """The blocks from the latent down, and the channels that each of them yields."""
        channels = self.model_channels
        conv = self.operations.Conv2d
        first = conv(self.in_channels, channels, 3, padding=1, **self.place)
        blocks: Blocks = [[first]]
        yielded = [channels]
        depths = iter(self.transformer_depths[0])
        for level, mult in enumerate(self.channel_mult):
            for _ in range(self.num_res_blocks[level]):
                resnet = self._resnet(channels, mult * self.model_channels)
                channels = mult * self.model_channels
                blocks.append([resnet, *self._transformer(channels, next(depths))])
                yielded.append(channels)
            if level < len(self.channel_mult) - 1:
                blocks.append([Downsample(channels, **self.layer)])
                yielded.append(channels)
        return blocks, yielded

    def middle(self) -> list[nn.Module]:
        """The block at the bottom."""
        channels = self.channel_mult[-1] * self.model_channels
        depth = self.transformer_depths[1]
        if depth < -1:
            return []
        layers = [self._resnet(channels, channels)]
        if depth >= 0:
            layers += [*self._transformer(channels, depth), self._resnet(channels, channels)]
        return layers

    def output_side(self, skipped: Sequence[int]) -> Blocks:
        """The blocks back up, which also take what the input side yielded, last one first."""
        channels = self.channel_mult[-1] * self.model_channels
        skips = reversed(skipped)
        depths = reversed(self.transformer_depths[2])
        blocks: Blocks = []
        for level, mult in reversed(list(enumerate(self.channel_mult))):
            for index in range(self.num_res_blocks[level] + 1):
                resnet = self._resnet(channels + next(skips), mult * self.model_channels)
                channels = mult * self.model_channels
                block = [resnet, *self._transformer(channels, next(depths))]
                if level > 0 and index == self.num_res_blocks[level]:
                    block.append(Upsample(channels, **self.layer))
                blocks.append(block)
        return blocks

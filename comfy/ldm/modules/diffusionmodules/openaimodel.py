"""The UNet of Stable Diffusion 1, 2 and XL, under the names its checkpoints use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

import comfy.ops
from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.time_embedding import TimeEmbedding
from comfy.ldm.modules.diffusionmodules.unet_blocks import UNetBlocks
from comfy.ldm.modules.diffusionmodules.unet_layers import Downsample as Downsample
from comfy.ldm.modules.diffusionmodules.unet_layers import ResBlock as ResBlock
from comfy.ldm.modules.diffusionmodules.unet_layers import TimestepBlock, Upsample
from comfy.ldm.modules.diffusionmodules.util import norm_groups
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers

Options = dict[str, Any]
"""transformer_options: patches and facts of one call; a forward pass writes into its own copy."""

Control = Mapping[str, Sequence["torch.Tensor | None"]]
"""A ControlNet's residuals for "input", "middle" and "output"; the last one is used first."""


def _by_handler(layer: nn.Module, x: torch.Tensor, *rest: Any, options: Options) -> Any:
    """What a patch makes of a layer that is none of ours; None if no patch claims it."""
    for kind, handler in options.get("patches", {}).get("forward_timestep_embed_patch", ()):
        if isinstance(layer, kind):
            return handler(layer, x, *rest)
    return None


def forward_timestep_embed(
    ts: nn.Module,
    x: torch.Tensor,
    emb: torch.Tensor,
    context: torch.Tensor | None = None,
    transformer_options: Options | None = None,
    output_shape: Sequence[int] | None = None,
    time_context: torch.Tensor | None = None,
    num_video_frames: int | None = None,
    image_only_indicator: torch.Tensor | None = None,
) -> torch.Tensor:
    """Call layers one after the other, each with the arguments that its kind takes.

    Args:
        ts: The layers of one block, iterable.
        x: [batch, channels, height, width].
        emb: [batch, embedding channels].
        context: [batch, tokens, context channels].
        transformer_options: Gets "activations_shape" before, and counts "transformer_index" after
            each transformer.
        output_shape: What an `Upsample` shall yield; its last two sizes are used.
        time_context: This and the rest are for layers of video models that patches handle.
        num_video_frames: See there.
        image_only_indicator: See there.

    Returns:
        [batch, channels, height, width].
    """
    options = {} if transformer_options is None else transformer_options
    video = (time_context, num_video_frames, image_only_indicator)
    for layer in ts:  # type: ignore[attr-defined]  # a Sequential
        if isinstance(layer, TimestepBlock):
            x = layer(x, emb)
        elif isinstance(layer, SpatialTransformer):
            options["activations_shape"] = list(x.shape)
            x = layer(x, context, options)
            options["transformer_index"] = options.get("transformer_index", 0) + 1
        elif isinstance(layer, Upsample):
            x = layer(x, output_shape=output_shape)
        else:
            rest = (emb, context, options, output_shape, *video)
            handled = _by_handler(layer, x, *rest, options=options)
            x = layer(x) if handled is None else handled
    return x


_VIDEO = ("time_context", "num_video_frames", "image_only_indicator")


class TimestepEmbedSequential(nn.Sequential, TimestepBlock):
    """The layers of one block; see `forward_timestep_embed`."""

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Call all layers."""
        return forward_timestep_embed(self, *args, **kwargs)


def apply_control(h: torch.Tensor, control: Any, name: str) -> torch.Tensor:
    """Add the next residual of a ControlNet.

    Args:
        h: [batch, channels, height, width].
        control: Lists of residuals by name, or None; the last one is taken off its list.
        name: "input", "middle" or "output".

    Raises:
        ValueError: If the residual is of another shape.
    """
    if not control or not control.get(name):
        return h
    residual = control[name].pop()
    if residual is None:
        return h
    if residual.shape[1:] != h.shape[1:]:
        raise ValueError(
            f"The ControlNet's residual for an {name} block has the shape {list(residual.shape)}, "
            f"the block's features have {list(h.shape)}: it was made for another model or size."
        )
    return h + residual.to(h.dtype)


def levels_of(num_res_blocks: int | Sequence[int], levels: int) -> list[int]:
    """Give each level its number of resnets."""
    if isinstance(num_res_blocks, int):
        return [num_res_blocks] * levels
    return list(num_res_blocks)


def input_side(
    blocks: UNetBlocks,
) -> tuple[nn.ModuleList, TimestepEmbedSequential | None, list[int]]:
    """Make the way down and the block at the bottom, if there is one.

    Returns:
        These, and the channels that each block on the way down yields.
    """
    inputs, yielded = blocks.input_side()
    middle = blocks.middle()
    way_down = nn.ModuleList(TimestepEmbedSequential(*layers) for layers in inputs)
    return way_down, TimestepEmbedSequential(*middle) if middle else None, yielded


class UNetModel(TimeEmbedding):
    """Predicts the noise (or v) of a latent.

    Args:
        image_size: Size of latents it was trained with; told, not used.
        in_channels: Of the latent and what is concatenated to it.
        model_channels: Of the first level.
        out_channels: Of the prediction.
        num_res_blocks: Of each level, or one number.
        channel_mult: Channels of each level, as multiples of `model_channels`.
        transformer_depth: Of each resnet on the input side.
        transformer_depth_output: Of each resnet on the output side, levels in the same order.
        transformer_depth_middle: -1 leaves one resnet in the middle, -2 nothing.
        context_dim: Channels of the context.
        use_linear_in_transformer: Projections around transformers are linear, not 1x1.
        num_classes: "sequential" if there is a vector y.
        adm_in_channels: Channels of y.
        num_heads: Of every attention; or
        num_head_channels: channels of every head. The other one is -1.
        use_spatial_transformer: True; told, not used.
        legacy: False; told, not used.
        dropout: While training.
        attn_precision: Dtype of attention's scores; None for the features'.
        dtype: Of the weights.
        device: Of the weights.
        operations: Makes the layers; see `comfy.ops`.
    """

    def __init__(
        self,
        image_size: int | None = None,
        in_channels: int = 4,
        model_channels: int = 320,
        out_channels: int = 4,
        num_res_blocks: int | Sequence[int] = 2,
        channel_mult: Sequence[int] = (1, 2, 4, 4),
        transformer_depth: Sequence[int] = (),
        transformer_depth_output: Sequence[int] = (),
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
        dtype: torch.dtype | None = None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        self.num_res_blocks = levels_of(num_res_blocks, len(channel_mult))
        self.image_size = image_size
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.num_classes = num_classes
        self.dtype = dtype
        blocks = UNetBlocks(
            in_channels,
            model_channels,
            channel_mult,
            self.num_res_blocks,
            (transformer_depth, transformer_depth_middle, transformer_depth_output),
            (num_heads, num_head_channels),
            {
                "context_dim": context_dim,
                "use_linear": use_linear_in_transformer,
                "attn_precision": attn_precision,
            },
            dropout,
            {"dtype": dtype, "device": device, "operations": operations},
        )
        self._build(blocks, adm_in_channels)

    def _build(self, blocks: UNetBlocks, adm_in_channels: int | None) -> None:
        """Make the layers, in the order of the forward pass: weights are fetched ahead in it."""
        channels = blocks.model_channels
        operations, place = blocks.operations, blocks.place
        self.build_embedders(blocks, self.num_classes, adm_in_channels)
        self.input_blocks, self.middle_block, skipped = input_side(blocks)
        outputs = blocks.output_side(skipped)
        self.output_blocks = nn.ModuleList(TimestepEmbedSequential(*layers) for layers in outputs)
        self.out = nn.Sequential(
            operations.GroupNorm(norm_groups(channels), channels, **place),
            nn.SiLU(inplace=True),
            operations.Conv2d(channels, self.out_channels, 3, padding=1, **place),
        )

    def forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        context: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        control: Control | None = None,
        transformer_options: Options | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Predict.

        Args:
            x: [batch, in_channels, height, width]; its dtype is the one of all features.
            timesteps: [batch], 0 to 999.
            context: [batch, tokens, context_dim].
            y: [batch, adm_in_channels].
            control: Residuals of ControlNets; left as they are.
            transformer_options: Patches, wrappers and facts of this call; left as they are.
            **kwargs: For wrappers, and for layers that patches handle: "time_context",
                "num_video_frames" and "image_only_indicator".

        Returns:
            [batch, out_channels, height, width], dtype of `x`.
        """
        options = {} if transformer_options is None else transformer_options
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, options)
        executor = WrapperExecutor.new_class_executor(self._forward, self, wrappers)
        result: torch.Tensor = executor.execute(
            x, timesteps, context, y, control, options, **kwargs
        )
        return result

    def _forward(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        context: torch.Tensor | None = None,
        y: torch.Tensor | None = None,
        control: Control | None = None,
        transformer_options: Options | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        options = {
            **(transformer_options or {}),
            "original_shape": list(x.shape),
            "transformer_index": 0,
        }
        patches = options.get("patches", {})
        residuals = {name: list(parts) for name, parts in (control or {}).items()}
        emb = self.embed(x, timesteps, y, patches.get("emb_patch", ()), options)
        rest = (emb, context, options)
        video: dict[str, Any] = {key: kwargs.get(key) for key in _VIDEO}

        h, skips = x, []
        for index, block in enumerate(self.input_blocks):
            options["block"] = ("input", index)
            h = forward_timestep_embed(block, h, *rest, **video)
            h = apply_control(h, residuals, "input")
            for patch in patches.get("input_block_patch", ()):
                h = patch(h, options)
            skips.append(h)
            for patch in patches.get("input_block_patch_after_skip", ()):
                h = patch(h, options)

        options["block"] = ("middle", 0)
        if self.middle_block is not None:
            h = forward_timestep_embed(self.middle_block, h, *rest, **video)
        h = apply_control(h, residuals, "middle")

        for index, block in enumerate(self.output_blocks):
            options["block"] = ("output", index)
            skip = apply_control(skips.pop(), residuals, "output")
            for patch in patches.get("output_block_patch", ()):
                h, skip = patch(h, skip, options)
            h = torch.cat([h, skip], dim=1)
            del skip
            shape = skips[-1].shape if skips else None
            h = forward_timestep_embed(block, h, *rest, output_shape=shape, **video)
        result: torch.Tensor = self.out(h.type(x.dtype))
        return result

"""Attention as the networks call it, and the transformer blocks of the Stable Diffusion UNet.

Everything that attends calls `optimized_attention`; which way it takes is in `attention_backends`.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import comfy.ops
from comfy.cli_args import args
from comfy.ldm.modules.attention_backends import AttentionUnavailable as AttentionUnavailable
from comfy.ldm.modules.attention_backends import (
    JoinedHeads,
    attention_basic,
    attention_flash,
    attention_pytorch,
    attention_sage,
    attention_split,
    attention_sub_quad,
    attention_xformers,
)
from comfy.ldm.modules.diffusionmodules.util import norm_groups
from comfy.ldm.modules.feed_forward import GEGLU as GEGLU
from comfy.ldm.modules.feed_forward import FeedForward as FeedForward

Options = Mapping[str, Any]
"""transformer_options: what the sampler and patches tell the network about this call."""

_functions: dict[str, JoinedHeads] = {
    "basic": attention_basic,
    "sub_quad": attention_sub_quad,
    "split": attention_split,
    "pytorch": attention_pytorch,
    "sage": attention_sage,
    "flash": attention_flash,
    "xformers": attention_xformers,
}

REGISTERED_ATTENTION_FUNCTIONS: Mapping[str, JoinedHeads] = types.MappingProxyType(_functions)
"""Name to function; `register_attention_function` adds."""


def _by_flags() -> JoinedHeads:
    if args.use_sage_attention:
        return attention_sage
    if args.use_flash_attention:
        return attention_flash
    if args.use_split_cross_attention:
        return attention_split
    if args.use_quad_cross_attention:
        return attention_sub_quad
    return attention_pytorch


def optimized_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    heads: int,
    mask: torch.Tensor | None = None,
    attn_precision: torch.dtype | None = None,
    skip_reshape: bool = False,
    skip_output_reshape: bool = False,
    **kwargs: Any,
) -> torch.Tensor:
    """Attend in the way that the command line asks for; by torch's kernels if it asks for none.

    Arguments and result are those of `attention_backends.JoinedHeads`.

    Raises:
        AttentionUnavailable: If a flag asks for a package that is not installed.
    """
    return _by_flags()(
        q,
        k,
        v,
        heads,
        mask=mask,
        attn_precision=attn_precision,
        skip_reshape=skip_reshape,
        skip_output_reshape=skip_output_reshape,
        **kwargs,
    )


optimized_attention_masked: JoinedHeads = optimized_attention


def optimized_attention_for_device(
    device: torch.device, mask: bool = False, small_input: bool = False
) -> JoinedHeads:
    """The function to call for inputs of one kind.

    Args:
        device: Where they are. torch has fused kernels for all devices that we know.
        mask: They come with a mask.
        small_input: Few tokens, as in text encoders: torch's kernels, whatever the flags say.
    """
    if small_input:
        return attention_pytorch
    return optimized_attention_masked if mask else optimized_attention


def register_attention_function(name: str, func: JoinedHeads) -> None:
    """Make a function known under a name; see `get_attention_function`.

    Raises:
        ValueError: If the name is another function's.
    """
    known = _functions.setdefault(name, func)
    if known is not func:
        raise ValueError(
            f"Attention '{name}' is {known!r} already; register {func!r} under another name."
        )


def get_attention_function(name: str, default: Any = ...) -> Any:
    """The attention function of a name; "optimized" is `optimized_attention`.

    Args:
        name: As registered.
        default: What to return if there is none.

    Raises:
        KeyError: If there is none, and no default.
    """
    if name == "optimized":
        return optimized_attention
    if name in _functions:
        return _functions[name]
    if default is ...:
        raise KeyError(f"No attention function is called '{name}', only {sorted(_functions)}.")
    return default


def exists(value: Any) -> bool:
    """Whether the value is not None."""
    return value is not None


def default(value: Any, otherwise: Any) -> Any:
    """The value, or the other one if it is None."""
    return otherwise if value is None else value


class CrossAttention(nn.Module):
    """Multi-head attention from `query_dim` wide tokens to `context_dim` wide ones."""

    def __init__(
        self,
        query_dim: int,
        context_dim: int | None = None,
        heads: int = 8,
        dim_head: int = 64,
        dropout: float = 0.0,
        attn_precision: torch.dtype | None = None,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        inner = heads * dim_head
        context_dim = default(context_dim, query_dim)
        self.heads = heads
        self.dim_head = dim_head
        self.attn_precision = attn_precision
        self.to_q = operations.Linear(query_dim, inner, bias=False, **place)
        self.to_k = operations.Linear(context_dim, inner, bias=False, **place)
        self.to_v = operations.Linear(context_dim, inner, bias=False, **place)
        out = operations.Linear(inner, query_dim, **place)
        self.to_out = nn.Sequential(out, nn.Dropout(dropout))

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        value: torch.Tensor | None = None,
        mask: torch.Tensor | None = None,
        transformer_options: Options | None = None,
    ) -> torch.Tensor:
        """Attend.

        Args:
            x: [batch, tokens, query_dim].
            context: [batch, other tokens, context_dim]; `x` if None.
            value: What values are made of; `context` if None.
            mask: See `attention_backends`.
            transformer_options: Handed on.

        Returns:
            [batch, tokens, query_dim].
        """
        context = default(context, x)
        attend = optimized_attention if mask is None else optimized_attention_masked
        out = attend(
            self.to_q(x),
            self.to_k(context),
            self.to_v(default(value, context)),
            self.heads,
            mask=mask,
            attn_precision=self.attn_precision,
            transformer_options=transformer_options or {},
        )
        result: torch.Tensor = self.to_out(out)
        return result


class BasicTransformerBlock(nn.Module):
    """Attention to the picture itself, attention to the context, feed-forward; each residual."""

    def __init__(
        self,
        dim: int,
        n_heads: int,
        d_head: int,
        dropout: float = 0.0,
        context_dim: int | None = None,
        gated_ff: bool = True,
        disable_self_attn: bool = False,
        attn_precision: torch.dtype | None = None,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        built: dict[str, Any] = {**place, "operations": operations, "dropout": dropout}
        heads: dict[str, Any] = {
            "heads": n_heads,
            "dim_head": d_head,
            "attn_precision": attn_precision,
        }
        self.n_heads = n_heads
        self.d_head = d_head
        self.attn_precision = attn_precision
        self.disable_self_attn = disable_self_attn
        first_context = context_dim if disable_self_attn else None
        self.norm1 = operations.LayerNorm(dim, **place)
        self.attn1 = CrossAttention(dim, first_context, **heads, **built)
        self.norm2 = operations.LayerNorm(dim, **place)
        self.attn2 = CrossAttention(dim, context_dim, **heads, **built)
        self.norm3 = operations.LayerNorm(dim, **place)
        self.ff = FeedForward(dim, glu=gated_ff, **built)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        transformer_options: Options | None = None,
    ) -> torch.Tensor:
        """Map tokens [batch, tokens, dim], with context [batch, other tokens, context_dim]."""
        options = transformer_options or {}
        extra = {k: v for k, v in options.items() if k not in ("patches", "patches_replace")}
        extra["n_heads"] = self.n_heads
        extra["dim_head"] = self.d_head
        extra["attn_precision"] = self.attn_precision
        first_context = context if self.disable_self_attn else None
        x = x + self._attend("attn1", self.norm1(x), first_context, options, extra)
        for patch in options.get("patches", {}).get("middle_patch", ()):
            x = patch(x, extra)
        x = x + self._attend("attn2", self.norm2(x), context, options, extra)
        return x + self.ff(self.norm3(x))

    def _attend(
        self,
        name: str,
        n: torch.Tensor,
        context: torch.Tensor | None,
        options: Options,
        extra: dict[str, Any],
    ) -> torch.Tensor:
        """Call "attn1" or "attn2", with everything that is hooked to it."""
        attention = self.attn1 if name == "attn1" else self.attn2
        patches = options.get("patches", {})
        value: torch.Tensor | None = None
        for patch in patches.get(f"{name}_patch", ()):
            context = default(context, n)
            n, context, value = patch(n, context, default(value, context), extra)
        replace = _replacement(name, options)
        if replace is None:
            n = attention(n, context=context, value=value, transformer_options=options)
        else:
            context = default(context, n)
            value = default(value, context)
            q, k, v = attention.to_q(n), attention.to_k(context), attention.to_v(value)
            n = attention.to_out(replace(q, k, v, extra))
        for patch in patches.get(f"{name}_output_patch", ()):
            n = patch(n, extra)
        return n


def _replacement(name: str, options: Options) -> Any:
    """What stands in for this attention: for this transformer block, else for the whole block."""
    replacements = options.get("patches_replace", {}).get(name)
    if not replacements or "block" not in options:
        return None
    block = tuple(options["block"])
    return replacements.get((*block, options.get("block_index", 0)), replacements.get(block))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of an image; residual."""

    def __init__(
        self,
        in_channels: int,
        n_heads: int,
        d_head: int,
        depth: int = 1,
        dropout: float = 0.0,
        context_dim: int | None = None,
        disable_self_attn: bool = False,
        use_linear: bool = False,
        attn_precision: torch.dtype | None = None,
        dtype=None,
        device=None,
        operations=comfy.ops.disable_weight_init,
    ) -> None:
        super().__init__()
        place = {"dtype": dtype, "device": device}
        inner = n_heads * d_head
        self.in_channels = in_channels
        self.use_linear = use_linear
        self.norm = operations.GroupNorm(
            norm_groups(in_channels), in_channels, eps=1e-6, affine=True, **place
        )
        project = operations.Linear if use_linear else operations.Conv2d
        kernel = {} if use_linear else {"kernel_size": 1}
        self.proj_in = project(in_channels, inner, **kernel, **place)
        self.transformer_blocks = nn.ModuleList(
            BasicTransformerBlock(
                inner,
                n_heads,
                d_head,
                dropout=dropout,
                context_dim=context_dim,
                disable_self_attn=disable_self_attn,
                attn_precision=attn_precision,
                **place,
                operations=operations,
            )
            for _ in range(depth)
        )
        self.proj_out = project(inner, in_channels, **kernel, **place)

    def forward(
        self,
        x: torch.Tensor,
        context: torch.Tensor | None = None,
        transformer_options: Options | None = None,
    ) -> torch.Tensor:
        """Map an image [batch, channels, height, width]; context as in the blocks."""
        options = transformer_options or {}
        height, width = x.shape[2:]
        h = self.norm(x)
        if not self.use_linear:
            h = self.proj_in(h)
        h = h.flatten(2).transpose(1, 2).contiguous()
        if self.use_linear:
            h = self.proj_in(h)
        for index, block in enumerate(self.transformer_blocks):
            h = block(h, context, {**options, "block_index": index})
        if self.use_linear:
            h = self.proj_out(h)
        h = h.transpose(1, 2).unflatten(2, (height, width)).contiguous()
        if not self.use_linear:
            h = self.proj_out(h)
        return h + x

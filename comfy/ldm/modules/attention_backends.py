"""softmax(q k^T / sqrt(d) + mask) v, by several ways that differ in memory and in the package used.

Every function here takes the heads joined, as a layer's projections give them, or apart; see
`JoinedHeads`. Masks: booleans (True takes part) or values that are added to the scores, of shape
[queries, keys], [batch, queries, keys] or [batch, heads, queries, keys]; sizes may be 1.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any, Protocol

import torch

import comfy.ops
from comfy.cli_args import args

SPLIT_BYTES = 256 << 20
"""Scores that `attention_split` holds at a time."""

TILE_BYTES = 32 << 20
"""Scores that `attention_sub_quad` holds at a time."""

TILE_KEYS = 1024

_HALVES = (torch.float16, torch.bfloat16)

Attend = Callable[..., torch.Tensor]
"""(q, k, v, mask, precision) to output; q, k, v, output: [batch, heads, tokens, channels]."""


class AttentionUnavailable(ImportError):
    """A flag or a caller asks for an attention kernel whose package is not installed."""


class JoinedHeads(Protocol):
    """The public form of an attention function."""

    def __call__(
        self,
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
        """Attend.

        Args:
            q: [batch, queries, heads * channels], or [batch, heads, queries, channels].
            k: The same with keys.
            v: As `k`.
            heads: Number of heads.
            mask: See the module.
            attn_precision: Dtype of the scores; None is that of `q`.
            skip_reshape: q, k and v come with four dimensions.
            skip_output_reshape: Return four dimensions.
            **kwargs: "transformer_options", whose "optimized_attention_override" is called in
                place of the function, as ``override(function, q, k, v, heads, **rest)``.

        Returns:
            [batch, queries, heads * channels], or four dimensions like `q`; dtype of `q`.
        """
        ...


def _split_heads(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    batch, tokens, width = tensor.shape
    return tensor.view(batch, tokens, heads, width // heads).transpose(1, 2)


def _join_heads(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.transpose(1, 2).flatten(2)


def _four_dimensions(mask: torch.Tensor) -> torch.Tensor:
    if mask.dim() == 2:
        return mask[None, None]
    if mask.dim() == 3:
        return mask[:, None]
    if mask.dim() == 4:
        return mask
    raise ValueError(
        f"An attention mask of shape {list(mask.shape)}: give [queries, keys], "
        "[batch, queries, keys] or [batch, heads, queries, keys]."
    )


def _precision(asked: torch.dtype | None) -> torch.dtype | None:
    if args.dont_upcast_attention:
        return None
    return torch.float32 if args.force_upcast_attention else asked


def _take_override(kwargs: dict[str, Any]) -> tuple[Callable[..., Any] | None, dict[str, Any]]:
    """The override, and the keywords without it: whoever is called next must not call it again."""
    options = kwargs.get("transformer_options") or {}
    if "optimized_attention_override" not in options:
        return None, kwargs
    rest = dict(options)
    override = rest.pop("optimized_attention_override")
    return override, {**kwargs, "transformer_options": rest}


def joined_heads(attend: Attend) -> JoinedHeads:
    """Give a function on separate heads its public form; see `JoinedHeads`."""

    @functools.wraps(attend)
    def attention(
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
        override, kwargs = _take_override(kwargs)
        if override is not None:
            result: torch.Tensor = override(
                attention,
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
            return result
        if not skip_reshape:
            q, k, v = (_split_heads(tensor, heads) for tensor in (q, k, v))
        if mask is not None:
            mask = _four_dimensions(mask)
        out = attend(q, k, v, mask, _precision(attn_precision))
        return out if skip_output_reshape else _join_heads(out)

    return attention


def _scores(q: torch.Tensor, k: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """q k^T + mask; the scale is in `q` already."""
    scores = q @ k.transpose(-1, -2)
    if mask is None:
        return scores
    if mask.dtype == torch.bool:
        return scores.masked_fill_(~mask, -torch.inf)
    return scores.add_(mask)


def _scaled(
    q: torch.Tensor, k: torch.Tensor, precision: torch.dtype | None
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = precision or q.dtype
    return q.to(dtype) * q.shape[-1] ** -0.5, k.to(dtype)


def _part(mask: torch.Tensor | None, dim: int, start: int, size: int) -> torch.Tensor | None:
    if mask is None or mask.shape[dim] == 1:
        return mask
    return mask.narrow(dim, start, min(size, mask.shape[dim] - start))


def _rows(q: torch.Tensor, keys: int, budget_bytes: int) -> int:
    """How many queries have their scores within the budget."""
    row_bytes = q.shape[0] * q.shape[1] * keys * q.element_size()
    return max(1, min(q.shape[2], budget_bytes // row_bytes))


@joined_heads
def attention_basic(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    """The formula at once, with all scores in memory."""
    q, k = _scaled(q, k, precision)
    return _scores(q, k, mask).softmax(-1).to(v.dtype) @ v


@joined_heads
def attention_split(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    """The formula for some queries at a time: at most `SPLIT_BYTES` of scores, or one row each."""
    out = v.new_empty((*q.shape[:3], v.shape[3]))
    q, k = _scaled(q, k, precision)
    rows = _rows(q, k.shape[2], SPLIT_BYTES)
    for start in range(0, q.shape[2], rows):
        part = _scores(q[:, :, start : start + rows], k, _part(mask, 2, start, rows))
        out[:, :, start : start + rows] = part.softmax(-1).to(v.dtype) @ v
    return out


def _tiled_rows(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None
) -> torch.Tensor:
    """Softmax over tiles of keys, keeping for each query the maximum m, sum l and output o.

    Source: Milakov, Gimelshein: Online normalizer calculation for softmax (2018), algorithm 3;
    Rabe, Staats: Self-attention does not need O(n^2) memory (2021).
    """
    lowest = torch.finfo(q.dtype).min
    m = q.new_full((*q.shape[:3], 1), lowest)
    l = q.new_zeros((*q.shape[:3], 1))  # noqa: E741  # the papers' letter
    o = q.new_zeros((*q.shape[:3], v.shape[3]))
    for start in range(0, k.shape[2], TILE_KEYS):
        keys = slice(start, start + TILE_KEYS)
        scores = _scores(q, k[:, :, keys], _part(mask, 3, start, TILE_KEYS))
        # The result does not depend on m, so no gradient flows through it.
        m_new = torch.maximum(m, scores.detach().amax(-1, keepdim=True))
        p = scores.sub_(m_new).exp_()
        decay = (m - m_new).exp()
        l = l * decay + p.sum(-1, keepdim=True)  # noqa: E741
        o = o * decay + p @ v[:, :, keys].to(p.dtype)
        m = m_new
    return o / l


@joined_heads
def attention_sub_quad(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    """The formula tile by tile: memory grows with the tokens, not with their square."""
    out = v.new_empty((*q.shape[:3], v.shape[3]))
    q, k = _scaled(q, k, precision)
    rows = _rows(q, min(k.shape[2], TILE_KEYS), TILE_BYTES)
    for start in range(0, q.shape[2], rows):
        some = q[:, :, start : start + rows]
        out[:, :, start : start + rows] = _tiled_rows(some, k, v, _part(mask, 2, start, rows))
    return out


def _attend_torch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    dtype = q.dtype
    if args.force_upcast_attention and precision is not None:
        q, k, v = q.to(precision), k.to(precision), v.to(precision)
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.to(q.dtype)
    return comfy.ops.scaled_dot_product_attention(q, k, v, attn_mask=mask).to(dtype)


@joined_heads
def attention_pytorch(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    """torch's fused kernels.

    They hold scores in fp32 whatever the inputs are, so `precision` says nothing new to them;
    only ``--force-upcast-attention`` widens the inputs, too.
    """
    return _attend_torch(q, k, v, mask, precision)


def _kernel(package: str, function: str) -> Callable[..., Any]:
    try:
        kernel: Callable[..., Any] = getattr(importlib.import_module(package), function)
    except ImportError as err:
        raise AttentionUnavailable(
            f"Attention by '{package}' was asked for, but that package cannot be imported ({err}). "
            "Install it, or leave out the flag that asks for it.",
            name=package,
        ) from err
    return kernel


def _with_tokens_first(
    kernel: Callable[..., Any], q: torch.Tensor, k: torch.Tensor, v: torch.Tensor
) -> torch.Tensor:
    """Call a kernel that wants and gives [batch, tokens, heads, channels]."""
    out: torch.Tensor = kernel(*(tensor.transpose(1, 2) for tensor in (q, k, v)))
    return out.transpose(1, 2)


def _suits_half_kernels(q: torch.Tensor, mask: torch.Tensor | None) -> bool:
    return mask is None and q.dtype in _HALVES


@joined_heads
def attention_sage(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    """Package sageattention; what it does not know (masks, fp32) goes to torch's kernels."""
    kernel = _kernel("sageattention", "sageattn")
    if not _suits_half_kernels(q, mask):
        return _attend_torch(q, k, v, mask, precision)
    out: torch.Tensor = kernel(q, k, v, tensor_layout="HND", is_causal=False)
    return out


@joined_heads
def attention_flash(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    """Package flash-attn; what it does not know (masks, fp32) goes to torch's kernels."""
    kernel = _kernel("flash_attn", "flash_attn_func")
    if not _suits_half_kernels(q, mask):
        return _attend_torch(q, k, v, mask, precision)
    return _with_tokens_first(kernel, q, k, v)


@joined_heads
def attention_xformers(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    mask: torch.Tensor | None,
    precision: torch.dtype | None,
) -> torch.Tensor:
    """Package xformers; masks go to torch's kernels."""
    kernel = _kernel("xformers.ops", "memory_efficient_attention")
    if mask is not None:
        return _attend_torch(q, k, v, mask, precision)
    return _with_tokens_first(kernel, q, k, v)

"""What GLIGEN adds to a UNet: object tokens out of boxes, and gated layers that attend to them.

Source: Li et al. 2023, "GLIGEN: Open-Set Grounded Text-to-Image Generation", section 4, and
https://github.com/gligen/GLIGEN for what the paper leaves open. Tensors' names are those of its
files.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from comfy.ldm.modules.attention import CrossAttention, optimized_attention
from comfy.ldm.modules.feed_forward import FeedForward

MAX_BOXES = 30
"""Object tokens that the published networks were trained with; unused ones are null tokens."""

COORDINATES = 4

Options = Mapping[str, Any]

_LONGEST_WAVE = 100.0
# Of SD 1.x, for callers that do not tell the heads of the block.
_HEADS = 8


class FourierEmbedder(nn.Module):
    """Numbers as waves.

    Source: https://github.com/gligen/GLIGEN; Tancik et al. 2020, "Fourier Features Let Networks
    Learn High Frequency Functions in Low Dimensional Domains".
    """

    def __init__(self, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map [..., n] to [..., frequencies * 2 * n].

        For each f_k = 100^(k / frequencies): sin(f_k x) of all n numbers, then cos(f_k x).
        """
        powers = torch.arange(self.frequencies, dtype=x.dtype, device=x.device) / self.frequencies
        angles = torch.exp(math.log(_LONGEST_WAVE) * powers)[:, None] * x[..., None, :]
        return torch.stack([angles.sin(), angles.cos()], dim=-2).flatten(-3)


class PositionNet(nn.Module):
    """Boxes and texts to object tokens."""

    def __init__(self, text: int, place: int, hidden: int, out: int, built: Options) -> None:
        """Build it without weights.

        Args:
            text: Channels of a text's embedding.
            place: Numbers that tell a box.
            hidden: Channels of the layers between.
            out: Channels of a token.
            built: ``operations``, ``dtype`` and ``device`` of the layers.
        """
        super().__init__()
        linear, where = _layers(built)
        self.null_positive_feature = nn.Parameter(torch.empty(text, **where))
        self.null_position_feature = nn.Parameter(torch.empty(place, **where))
        self.embedder = FourierEmbedder(place // (2 * COORDINATES))
        self.linears = nn.Sequential(
            linear.Linear(text + place, hidden, **where),
            nn.SiLU(),
            linear.Linear(hidden, hidden, **where),
            nn.SiLU(),
            linear.Linear(hidden, out, **where),
        )

    def forward(self, corners: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Make the tokens of all boxes, and null tokens for those that are not there.

        Args:
            corners: [boxes, 4]: left, top, right, bottom; the picture's sides are 1.
            texts: [boxes, text channels].

        Returns:
            [MAX_BOXES, token channels].
        """
        unused = (MAX_BOXES - len(corners), 1)
        null_place = self.null_position_feature.to(corners).repeat(*unused)
        null_text = self.null_positive_feature.to(texts).repeat(*unused)
        places = torch.cat([self.embedder(corners), null_place])
        tokens: torch.Tensor = self.linears(
            torch.cat([torch.cat([texts, null_text]), places], dim=-1)
        )
        return tokens


class GatedSelfAttentionDense(nn.Module):
    """Attention of the picture to itself and the objects, and a feed-forward; both gated."""

    def __init__(self, width: int, objects: int, inner: int, mult: int, built: Options) -> None:
        """Build it without weights.

        Args:
            width: Channels of the picture's tokens.
            objects: Channels of the objects'.
            inner: Channels of the attention, all heads together.
            mult: Channels inside of the feed-forward, in units of `width`.
            built: See `PositionNet`.
        """
        super().__init__()
        linear, where = _layers(built)
        self.width = width
        self.linear = linear.Linear(objects, width, **where)
        self.norm1 = linear.LayerNorm(width, **where)
        # Cut into heads at the call, as the block's own attention is.
        self.attn = CrossAttention(width, heads=1, dim_head=inner, **built)
        self.norm2 = linear.LayerNorm(width, **where)
        self.ff = FeedForward(width, mult=mult, glu=True, **built)
        self.alpha_attn = nn.Parameter(torch.empty((), **where))
        self.alpha_dense = nn.Parameter(torch.empty((), **where))

    def forward(self, x: torch.Tensor, objects: torch.Tensor, options: Options) -> torch.Tensor:
        """Map the picture's tokens.

        Args:
            x: [batch, tokens, width].
            objects: [objects, their width], the same for the whole batch.
            options: Of the block: ``n_heads``, ``attn_precision``, what is handed on.

        Returns:
            [batch, tokens, width].
        """
        shown = self.norm1(self.linear(objects)).expand(x.shape[0], -1, -1)
        seen = self.norm1(x)
        # Objects are looked at but do not look: what would become of them is used nowhere.
        both = torch.cat([seen, shown], dim=1)
        attended = optimized_attention(
            self.attn.to_q(seen),
            self.attn.to_k(both),
            self.attn.to_v(both),
            options.get("n_heads", _HEADS),
            attn_precision=options.get("attn_precision"),
            transformer_options=options,
        )
        x = x + torch.tanh(self.alpha_attn.to(x)) * self.attn.to_out(attended)
        return x + torch.tanh(self.alpha_dense.to(x)) * self.ff(self.norm2(x))


def _layers(built: Options) -> tuple[Any, dict[str, Any]]:
    return built["operations"], {"dtype": built["dtype"], "device": built["device"]}

"""What a union ControlNet has besides: one network for hints of several types.

The embedding of the time is also told which types are shown; a small transformer compares a hint's
mean features, marked with its type, with those of the latent, and shifts the hint's channels.

Source: the layers of xinsir's "ControlNet++: all-in-one" (2024), as diffusers' ControlNetUnionModel
has them. Theirs attends along the batch, so that pictures and prompts of a batch change each other;
here each attends to its own hint and latent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

import comfy.ops
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

_HEADS = 8


class _Attention(nn.Module):
    def __init__(self, width: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.in_proj = operations.Linear(width, 3 * width, **place)
        self.out_proj = operations.Linear(width, width, **place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        result: torch.Tensor = self.out_proj(optimized_attention(q, k, v, _HEADS))
        return result


class _Mlp(nn.Module):
    def __init__(self, width: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.c_fc = operations.Linear(width, 4 * width, **place)
        self.c_proj = operations.Linear(4 * width, width, **place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c_fc(x)
        result: torch.Tensor = self.c_proj(x * torch.sigmoid(1.702 * x))
        return result


class _Block(nn.Module):
    def __init__(self, width: int, operations: Any, place: dict[str, Any]) -> None:
        super().__init__()
        self.ln_1 = operations.LayerNorm(width, **place)
        self.attn = _Attention(width, operations, place)
        self.ln_2 = operations.LayerNorm(width, **place)
        self.mlp = _Mlp(width, operations, place)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attn(self.ln_1(x))
        result: torch.Tensor = x + self.mlp(self.ln_2(x))
        return result


class Union(nn.Module):
    """Tells a ControlNet the type of its hint.

    Args:
        types: How many there are.
        channels: Of the first block, and of the transformer.
        type_width: Sinusoids of each type.
        depth: Blocks of the transformer.
        operations: Makes the layers.
        place: dtype and device.
    """

    def __init__(
        self,
        types: int,
        channels: int,
        type_width: int,
        depth: int,
        operations: Any = comfy.ops.disable_weight_init,
        place: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        place = place or {}
        embedding = 4 * channels
        self.type_width = type_width
        self.control_add_embedding = nn.Sequential(
            operations.Linear(types * type_width, embedding, **place),
            nn.SiLU(),
            operations.Linear(embedding, embedding, **place),
        )
        self.task_embedding = nn.Parameter(torch.empty(types, channels, **place))
        self.transformer_layes = nn.ModuleList(
            _Block(channels, operations, place) for _ in range(depth)
        )
        self.spatial_ch_projs = operations.Linear(channels, channels, **place)

    def embed(self, control_type: Sequence[int], emb: torch.Tensor) -> torch.Tensor:
        """Add the types to the embedding of the time.

        Args:
            control_type: Numbers of the types that are shown; may be empty.
            emb: [batch, 4 * channels].
        """
        shown = torch.zeros(self.task_embedding.shape[0], device=emb.device)
        shown[list(control_type)] = 1.0
        waves = timestep_embedding(shown, self.type_width).flatten().to(emb.dtype)
        result: torch.Tensor = emb + self.control_add_embedding(waves[None])
        return result

    def mark(
        self, hint: torch.Tensor, features: torch.Tensor, control_type: Sequence[int]
    ) -> torch.Tensor:
        """Shift the channels of a hint as becomes its type.

        Args:
            hint: Features of the hint, [batch or 1, channels, height, width].
            features: Of the latent, [batch, channels, height, width].
            control_type: One number; without one the hint stays as it is.

        Raises:
            ValueError: For several types: there is one picture.
        """
        if not control_type:
            return hint
        if len(control_type) > 1:
            raise ValueError(
                f"A union ControlNet is shown one picture and told {len(control_type)} types "
                f"({list(control_type)}): apply it once for each picture and type."
            )
        marked = hint.mean((2, 3)) + self.task_embedding[control_type[0]].to(hint)
        x = torch.stack([marked.expand(features.shape[0], -1), features.mean((2, 3))], dim=1)
        for layer in self.transformer_layes:
            x = layer(x)
        result: torch.Tensor = hint + self.spatial_ch_projs(x[:, 0])[:, :, None, None]
        return result

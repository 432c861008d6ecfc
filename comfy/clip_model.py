"""CLIP's text encoder: a transformer that sees only what comes before.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
section 2.4. Weights have the names of the transformers library's ``CLIPTextModel``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

import comfy.ldm.modules.attention

END_TOKEN = 49407

Attention = Callable[..., torch.Tensor]


def quick_gelu(x: torch.Tensor) -> torch.Tensor:
    """Approximate GELU by ``x * sigmoid(1.702 x)``."""
    return x * torch.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "quick_gelu": quick_gelu,
    "gelu": torch.nn.functional.gelu,
}

CLIP_L: Mapping[str, Any] = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": None,
}
CLIP_H: Mapping[str, Any] = {
    **CLIP_L,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 1024,
}
CLIP_G: Mapping[str, Any] = {
    **CLIP_L,
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}


class CLIPAttention(torch.nn.Module):
    """Attention of all heads; see `CLIPTextModel` for the arguments of all layers here."""

    def __init__(
        self, embed_dim: int, heads: int, dtype: Any, device: Any, operations: Any
    ) -> None:
        super().__init__()
        self.heads = heads
        linear = operations.Linear
        self.q_proj = linear(embed_dim, embed_dim, bias=True, dtype=dtype, device=device)
        self.k_proj = linear(embed_dim, embed_dim, bias=True, dtype=dtype, device=device)
        self.v_proj = linear(embed_dim, embed_dim, bias=True, dtype=dtype, device=device)
        self.out_proj = linear(embed_dim, embed_dim, bias=True, dtype=dtype, device=device)

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, optimized_attention: Attention
    ) -> torch.Tensor:
        """Attend; x has shape (batch, tokens, width), mask is added to the scores."""
        q, k, v = self.q_proj(x), self.k_proj(x), self.v_proj(x)
        attended: torch.Tensor = self.out_proj(optimized_attention(q, k, v, self.heads, mask))
        return attended


class CLIPMLP(torch.nn.Module):
    """Two linear layers and an activation."""

    def __init__(
        self,
        embed_dim: int,
        intermediate_size: int,
        activation: str,
        dtype: Any,
        device: Any,
        operations: Any,
    ) -> None:
        super().__init__()
        self.fc1 = operations.Linear(embed_dim, intermediate_size, dtype=dtype, device=device)
        self.activation = ACTIVATIONS[activation]
        self.fc2 = operations.Linear(intermediate_size, embed_dim, dtype=dtype, device=device)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (..., width) to the same shape."""
        mapped: torch.Tensor = self.fc2(self.activation(self.fc1(x)))
        return mapped


class CLIPLayer(torch.nn.Module):
    """Attention and MLP, each on its normalized input and added to it."""

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        width = config["hidden_size"]
        layer_norm = operations.LayerNorm
        self.layer_norm1 = layer_norm(width, dtype=dtype, device=device)
        self.self_attn = CLIPAttention(
            width, config["num_attention_heads"], dtype, device, operations
        )
        self.layer_norm2 = layer_norm(width, dtype=dtype, device=device)
        self.mlp = CLIPMLP(
            width, config["intermediate_size"], config["hidden_act"], dtype, device, operations
        )

    def forward(
        self, x: torch.Tensor, mask: torch.Tensor | None, optimized_attention: Attention
    ) -> torch.Tensor:
        """See `CLIPAttention.forward`."""
        x = x + self.self_attn(self.layer_norm1(x), mask, optimized_attention)
        added: torch.Tensor = x + self.mlp(self.layer_norm2(x))
        return added


class CLIPEncoder(torch.nn.Module):
    """The stack of layers."""

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            CLIPLayer(config, dtype, device, operations) for _ in range(config["num_hidden_layers"])
        )

    def forward(
        self,
        x: torch.Tensor,
        mask: torch.Tensor | None = None,
        intermediate_output: int | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Run all layers; also return what one of them gave.

        Args:
            x: (batch, tokens, width).
            mask: Added to the scores, broadcast to (batch, heads, tokens, tokens).
            intermediate_output: Index of the layer; negative counts from the last, -1.

        Returns:
            The last layer's output, and that one's, or None.

        Raises:
            IndexError: If there is no such layer.
        """
        wanted = None
        if intermediate_output is not None:
            wanted = range(len(self.layers))[intermediate_output]
        attention = comfy.ldm.modules.attention.optimized_attention_for_device(
            x.device, mask=mask is not None, small_input=True
        )
        intermediate = None
        for index, layer in enumerate(self.layers):
            x = layer(x, mask, attention)
            if index == wanted:
                intermediate = x
        return x, intermediate


class CLIPEmbeddings(torch.nn.Module):
    """Vectors of tokens plus vectors of their places."""

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        width = config["hidden_size"]
        embedding = operations.Embedding
        self.token_embedding = embedding(config["vocab_size"], width, dtype=dtype, device=device)
        self.position_embedding = embedding(
            config["max_position_embeddings"], width, dtype=dtype, device=device
        )

    def forward(
        self,
        input_tokens: torch.Tensor | None,
        embeds: torch.Tensor | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> torch.Tensor:
        """Embed ids (batch, tokens), or add places to vectors (batch, tokens, width)."""
        if embeds is None:
            embeds = self.token_embedding(input_tokens, out_dtype=dtype)
        places = torch.arange(embeds.shape[1], device=embeds.device)
        summed: torch.Tensor = embeds + self.position_embedding(places, out_dtype=embeds.dtype)
        return summed


class CLIPTextModel_(torch.nn.Module):
    """The encoder without its projection; state dicts call it ``text_model``."""

    def __init__(self, config: Mapping[str, Any], dtype: Any, device: Any, operations: Any) -> None:
        super().__init__()
        self.eos_token_id = config.get("eos_token_id", END_TOKEN)
        self.embeddings = CLIPEmbeddings(config, dtype, device, operations)
        self.encoder = CLIPEncoder(config, dtype, device, operations)
        self.final_layer_norm = operations.LayerNorm(
            config["hidden_size"], dtype=dtype, device=device
        )

    def forward(
        self,
        input_tokens: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        embeds: torch.Tensor | None = None,
        num_tokens: list[int] | None = None,
        intermediate_output: int | None = None,
        final_layer_norm_intermediate: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """See `CLIPTextModel.forward`; without the projected result."""
        x = self.embeddings(input_tokens, embeds, dtype)
        mask = _causal_mask(x.shape[1], x.dtype, x.device)
        if attention_mask is not None:
            hidden = attention_mask.to(x.device)[:, None, None, :] == 0
            mask = mask.masked_fill(hidden, torch.finfo(x.dtype).min)
        x, intermediate = self.encoder(x, mask, intermediate_output)
        x = self.final_layer_norm(x)
        if intermediate is not None and final_layer_norm_intermediate:
            intermediate = self.final_layer_norm(intermediate)
        rows = torch.arange(x.shape[0], device=x.device)
        return x, intermediate, x[rows, self._ends(input_tokens, num_tokens, x.device)]

    def _ends(
        self, input_tokens: torch.Tensor | None, num_tokens: list[int] | None, device: torch.device
    ) -> torch.Tensor:
        """Place of the first end token of each row."""
        if num_tokens is not None:
            return torch.tensor(num_tokens, device=device) - 1
        if input_tokens is None:
            raise ValueError(
                "embedded tokens need num_tokens: where the end token is, cannot be seen"
            )
        return (input_tokens == self.eos_token_id).int().argmax(dim=-1)


def _causal_mask(tokens: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """(tokens, tokens): 0 where a row may look, the least number of the dtype where not."""
    least = torch.finfo(dtype).min
    return torch.full((tokens, tokens), least, dtype=dtype, device=device).triu_(1)


class CLIPTextModel(torch.nn.Module):
    """CLIP's text encoder with its projection, if it has one.

    Args:
        config_dict: See `comfy.clip_keys.clip_config_from_state_dict`; ``eos_token_id`` may be
            given, too.
        dtype: Of the weights; None is torch's default.
        device: Of the weights; `meta` for a network that is filled by
            ``load_state_dict(assign=True)``.
        operations: The family of layers, of `comfy.ops`.
    """

    def __init__(
        self,
        config_dict: Mapping[str, Any],
        dtype: torch.dtype | None,
        device: torch.device | str | None,
        operations: Any,
    ) -> None:
        super().__init__()
        self.num_layers: int = config_dict["num_hidden_layers"]
        self.text_model = CLIPTextModel_(config_dict, dtype, device, operations)
        width, projected = config_dict["hidden_size"], config_dict.get("projection_dim")
        self.text_projection = (
            None
            if projected is None
            else operations.Linear(width, projected, bias=False, dtype=dtype, device=device)
        )
        self.dtype = dtype

    def get_input_embeddings(self) -> torch.nn.Module:
        """The table of token vectors."""
        return self.text_model.embeddings.token_embedding

    def set_input_embeddings(self, embeddings: torch.nn.Module) -> None:
        """Exchange the table of token vectors."""
        self.text_model.embeddings.token_embedding = embeddings

    def forward(
        self,
        input_tokens: torch.Tensor | None,
        attention_mask: torch.Tensor | None = None,
        embeds: torch.Tensor | None = None,
        num_tokens: list[int] | None = None,
        intermediate_output: int | None = None,
        final_layer_norm_intermediate: bool = True,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
        """Encode.

        Args:
            input_tokens: Ids, (batch, tokens), integers; None with `embeds`.
            attention_mask: (batch, tokens), 0 where no token may look.
            embeds: Vectors instead of ids, (batch, tokens, width).
            num_tokens: Tokens of each row up to its first end token, this one counted.
            intermediate_output: See `CLIPEncoder.forward`.
            final_layer_norm_intermediate: Normalize that layer's output, too.
            dtype: In which ids are embedded, and so what layers that cast compute in.

        Returns:
            Normalized output of the last layer, (batch, tokens, width); that of the chosen layer,
            or None; projected and plain output at the first end token, (batch, projection) and
            (batch, width). Without a projection the two are the same.
        """
        last, intermediate, pooled = self.text_model(
            input_tokens,
            attention_mask,
            embeds,
            num_tokens,
            intermediate_output,
            final_layer_norm_intermediate,
            dtype,
        )
        projected = pooled if self.text_projection is None else self.text_projection(pooled)
        return last, intermediate, projected, pooled

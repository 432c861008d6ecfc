"""Stable Diffusion's use of CLIP: prompts to tokens with weights, tokens to conditioning.

`SDTokenizer` and `SDClipModel` are one encoder's halves; `SD1Tokenizer` and `SD1ClipModel` give
them the shape that `comfy.clip.CLIP` expects of every family: dicts by encoder's name.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import comfy.ops
from comfy.clip_model import CLIP_L, CLIPTextModel
from comfy.clip_tokenizer import SPECIAL_TOKENS, SDTokenizer
from comfy.prompt_weights import escape_important as escape_important
from comfy.prompt_weights import token_weights as token_weights
from comfy.prompt_weights import unescape_important as unescape_important
from comfy.textual_inversion import Directories
from comfy.textual_inversion import expand_directory_list as expand_directory_list
from comfy.textual_inversion import load_embed as load_embed

logger = logging.getLogger(__name__)

Chunks = Sequence[Sequence[Sequence[Any]]]
"""Chunks of tokens, each (id or vector, weight) and perhaps the number of its word."""


class SD1Tokenizer:
    """The tokenizer of a family with one text encoder, whose attribute is ``clip_<name>``.

    Args:
        embedding_directory: See `SDTokenizer`.
        tokenizer_data: See `SDTokenizer`.
        clip_name: Key of the results.
        tokenizer: Made with these two arguments.
        name: Of the attribute, if it shall not be ``clip_<clip_name>``.
    """

    def __init__(
        self,
        embedding_directory: Directories = None,
        tokenizer_data: Mapping[str, Any] | None = None,
        clip_name: str = "l",
        tokenizer: Any = SDTokenizer,
        name: str | None = None,
    ) -> None:
        self.clip_name = clip_name
        self.clip = name or f"clip_{clip_name}"
        made = tokenizer(embedding_directory=embedding_directory, tokenizer_data=tokenizer_data)
        setattr(self, self.clip, made)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """See `SDTokenizer.tokenize_with_weights`; chunks by encoder's name."""
        own: SDTokenizer = getattr(self, self.clip)
        return {self.clip_name: own.tokenize_with_weights(text, return_word_ids, **kwargs)}

    def untokenize(self, token_weight_pair: Sequence[Sequence[Any]]) -> list[tuple[Any, str]]:
        """See `SDTokenizer.untokenize`."""
        own: SDTokenizer = getattr(self, self.clip)
        return own.untokenize(token_weight_pair)

    def state_dict(self) -> dict[str, Any]:
        """See `SDTokenizer.state_dict`."""
        own: SDTokenizer = getattr(self, self.clip)
        return own.state_dict()


def gen_empty_tokens(special_tokens: Mapping[str, int], length: int) -> list[int]:
    """The ids of an empty prompt: start, end, padding, `length` in all."""
    ids = [special_tokens["start"], special_tokens["end"]]
    return ids + [special_tokens["pad"]] * (length - len(ids))


class ClipTokenWeightEncoder:
    """Mixed into an encoder: chunks with weights to one conditioning.

    The encoder has ``special_tokens`` and ``encode(chunks of ids) -> (outputs, pooled)``.
    """

    special_tokens: Mapping[str, int]

    def encode(self, tokens: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode chunks of equal length; see `SDClipModel.forward`."""
        raise NotImplementedError

    def encode_token_weights(
        self, token_weight_pairs: Chunks
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode all chunks, weigh their tokens, and lay them end to end.

        With z a chunk's output and z0 that of an empty prompt, token j becomes
        ``z0[j] + weight[j] * (z[j] - z0[j])``.

        Args:
            token_weight_pairs: Chunks of (id or vector, weight, ...); none at all is an empty
                prompt.

        Returns:
            (1, chunks * tokens, width), and the pooled output of the first chunk or None.
        """
        chunks = [[pair[0] for pair in chunk] for chunk in token_weight_pairs]
        weights = [[float(pair[1]) for pair in chunk] for chunk in token_weight_pairs]
        weighted = any(weight != 1.0 for row in weights for weight in row)
        if weighted or not chunks:
            length = max(map(len, chunks), default=2)
            chunks.append(gen_empty_tokens(self.special_tokens, length))
        out, pooled = self.encode(chunks)
        first_pooled = None if pooled is None else pooled[:1]
        if weighted:
            empty = out[-1:]
            scale = torch.tensor(weights, dtype=out.dtype, device=out.device)[:, :, None]
            changed = empty + scale * (out[:-1] - empty)
            # Where the weight is 1 the output is kept to the last bit.
            out = torch.where(scale == 1.0, out[:-1], changed)
        return out.reshape(1, -1, out.shape[-1]), first_pooled


class SDClipModel(torch.nn.Module, ClipTokenWeightEncoder):
    """One CLIP text encoder, and which of its outputs a family wants.

    Args:
        device: Of the weights: `meta`, for those that `load_sd` assigns.
        max_length: Tokens in a chunk.
        layer: "last", or "hidden" for the one that `layer_idx` counts from the end.
        layer_idx: -1 is the last layer, -2 the one before it.
        textmodel_json_config: Numbers of the network; CLIP-L's if None. `model_options` may give
            others under ``<name>_config``.
        dtype: Of the weights.
        special_tokens: Ids of "start", "end" and "pad".
        layer_norm_hidden_state: Apply the final norm to a hidden layer's output, too.
        return_projected_pooled: Of the two pooled outputs, the projected one.
        model_options: ``custom_operations``: the layers to use, instead of those that compute in
            fp32 whatever the weights are stored in.
        name: Under which `model_options` knows the encoder.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        max_length: int = 77,
        layer: str = "last",
        layer_idx: int | None = None,
        textmodel_json_config: Mapping[str, Any] | None = None,
        dtype: torch.dtype | None = None,
        special_tokens: Mapping[str, int] = SPECIAL_TOKENS,
        layer_norm_hidden_state: bool = True,
        return_projected_pooled: bool = True,
        model_options: Mapping[str, Any] | None = None,
        name: str = "clip_l",
    ) -> None:
        super().__init__()
        options = model_options or {}
        config = options.get(f"{name}_config", textmodel_json_config or CLIP_L)
        operations = options.get("custom_operations", comfy.ops.manual_cast)
        self.config = dict(config)
        self.transformer = CLIPTextModel(config, dtype, device, operations)
        self.num_layers = self.transformer.num_layers
        self.max_length = max_length
        self.special_tokens = dict(special_tokens)
        self.layer_norm_hidden_state = layer_norm_hidden_state
        self.layer, self.layer_idx = layer, layer_idx
        self.return_projected_pooled = return_projected_pooled
        self.execution_device: torch.device | None = None
        self._defaults = (layer, layer_idx, return_projected_pooled)

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """Choose outputs until `reset_clip_options`.

        Args:
            options: ``layer``: as `layer_idx`; None, or beyond the first layer, is the last.
                ``projected_pooled``: as `return_projected_pooled`. ``execution_device``: where to
                compute, if it is not where the token table is.
        """
        layer_idx = options.get("layer", self.layer_idx)
        self.return_projected_pooled = options.get("projected_pooled", self.return_projected_pooled)
        self.execution_device = options.get("execution_device", self.execution_device)
        if layer_idx is None or not -self.num_layers <= layer_idx < self.num_layers:
            self.layer, self.layer_idx = "last", None
        else:
            self.layer, self.layer_idx = "hidden", layer_idx

    def reset_clip_options(self) -> None:
        """Go back to the family's own choice."""
        self.layer, self.layer_idx, self.return_projected_pooled = self._defaults
        self.execution_device = None

    def set_default_layer(self, layer_idx: int) -> None:
        """Change which layer `reset_clip_options` goes back to, and go back to it."""
        self._defaults = ("hidden", layer_idx, self._defaults[2])
        self.reset_clip_options()

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether weights of this configuration are of this network, its projection aside."""
        return all(
            self.config.get(key) == value
            for key, value in config.items()
            if key not in ("projection_dim", "hidden_act")
        )

    def forward(self, tokens: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode chunks of one length.

        Args:
            tokens: Rows of ids and, for textual inversions, vectors of shape (width,).

        Returns:
            (rows, tokens, width) of the chosen layer and the chosen pooled output, (rows,
            projection or width); both fp32.
        """
        table: Any = self.transformer.get_input_embeddings()
        device: torch.device = self.execution_device or table.weight.device
        ids, ends, places = self._as_ids(tokens)
        input_ids = torch.tensor(ids, dtype=torch.long, device=device)
        embeds = table(input_ids, out_dtype=torch.float32)
        for (row, column), vector in places:
            embeds[row, column] = vector.to(device=device, dtype=embeds.dtype)
        last, hidden, projected, pooled = self.transformer(
            None,
            embeds=embeds,
            num_tokens=ends,
            intermediate_output=self.layer_idx if self.layer == "hidden" else None,
            final_layer_norm_intermediate=self.layer_norm_hidden_state,
        )
        out = last if self.layer == "last" else hidden
        chosen = projected if self.return_projected_pooled else pooled
        return out.float(), chosen.float()

    def _as_ids(
        self, tokens: Sequence[Sequence[Any]]
    ) -> tuple[list[list[int]], list[int], list[tuple[tuple[int, int], torch.Tensor]]]:
        """Ids, 0 in place of vectors; tokens up to the first end; where vectors go."""
        width = self.config["hidden_size"]
        end, pad = self.special_tokens["end"], self.special_tokens["pad"]
        ids: list[list[int]] = []
        places: list[tuple[tuple[int, int], torch.Tensor]] = []
        for row, chunk in enumerate(tokens):
            kept: list[int] = []
            for token in chunk:
                if not isinstance(token, torch.Tensor):
                    kept.append(int(token))
                elif token.shape == (width,):
                    places.append(((row, len(kept)), token))
                    kept.append(0)
                else:
                    logger.warning(
                        "a vector of shape %s stands in the prompt, this text encoder needs "
                        "(%d,); it is left out",
                        tuple(token.shape),
                        width,
                    )
            ids.append(kept + [pad] * (len(chunk) - len(kept)))
        ends = [1 + (row.index(end) if end in row else len(row) - 1) for row in ids]
        return ids, ends, places

    def encode(self, tokens: Sequence[Sequence[Any]]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """See `forward`."""
        return self(tokens)

    def load_sd(self, sd: Mapping[str, torch.Tensor]) -> Any:
        """Take the weights over, without copying; names as of `comfy.clip_keys.clip_text_keys`.

        Returns:
            torch's result, with ``missing_keys`` and ``unexpected_keys``.
        """
        return self.transformer.load_state_dict(sd, strict=False, assign=True)


class SD1ClipModel(torch.nn.Module):
    """The text side of a family with one encoder, whose attribute is ``clip_<name>``.

    Args:
        device: See `SDClipModel`.
        dtype: See `SDClipModel`.
        model_options: See `SDClipModel`.
        clip_name: Key of this encoder's chunks.
        clip_model: Made with the first three arguments and ``name``.
        name: Of the attribute, if it shall not be ``clip_<clip_name>``.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
        clip_name: str = "l",
        clip_model: Any = SDClipModel,
        name: str | None = None,
    ) -> None:
        super().__init__()
        self.clip_name = clip_name
        self.clip = name or f"clip_{clip_name}"
        made = clip_model(device=device, dtype=dtype, model_options=model_options, name=self.clip)
        setattr(self, self.clip, made)
        self.dtypes = {dtype} if dtype is not None else set()

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """See `SDClipModel.set_clip_options`."""
        getattr(self, self.clip).set_clip_options(options)

    def reset_clip_options(self) -> None:
        """See `SDClipModel.reset_clip_options`."""
        getattr(self, self.clip).reset_clip_options()

    def encode_token_weights(self, token_weight_pairs: Mapping[str, Chunks]) -> Any:
        """Encode this encoder's chunks; see `ClipTokenWeightEncoder.encode_token_weights`."""
        return getattr(self, self.clip).encode_token_weights(token_weight_pairs[self.clip_name])

    def load_sd(self, sd: Mapping[str, torch.Tensor]) -> Any:
        """See `SDClipModel.load_sd`."""
        return getattr(self, self.clip).load_sd(sd)

"""The text side of Stable Diffusion XL: CLIP-L and CLIP-bigG side by side; the refiner's bigG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from comfy.clip_keys import clip_config_from_state_dict
from comfy.clip_model import CLIP_G
from comfy.clip_tokenizer import OPEN_CLIP_SPECIAL_TOKENS, OpenClipTokenizer, SDTokenizer
from comfy.sd1_clip import Chunks, SD1ClipModel, SD1Tokenizer, SDClipModel
from comfy.textual_inversion import Directories


class SDXLClipGTokenizer(OpenClipTokenizer):
    """bigG's tokenizer."""

    width = CLIP_G["hidden_size"]
    key = "clip_g"


class SDXLClipG(SDClipModel):
    """bigG as SDXL reads it: the last layer but one, not normalized; see `SDClipModel`."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
        name: str = "clip_g",
    ) -> None:
        super().__init__(
            device,
            layer="hidden",
            layer_idx=-2,
            textmodel_json_config=CLIP_G,
            dtype=dtype,
            special_tokens=OPEN_CLIP_SPECIAL_TOKENS,
            layer_norm_hidden_state=False,
            model_options=model_options,
            name=name,
        )


class SDXLTokenizer:
    """Both tokenizers; arguments as `SD1Tokenizer`'s."""

    def __init__(
        self,
        embedding_directory: Directories = None,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        self.clip_l = SDTokenizer(embedding_directory, tokenizer_data=tokenizer_data)
        self.clip_g = SDXLClipGTokenizer(embedding_directory, tokenizer_data)

    def tokenize_with_weights(
        self, text: str, return_word_ids: bool = False, **kwargs: Any
    ) -> dict[str, Any]:
        """See `SDTokenizer.tokenize_with_weights`; chunks under "g" and "l"."""
        return {
            "g": self.clip_g.tokenize_with_weights(text, return_word_ids, **kwargs),
            "l": self.clip_l.tokenize_with_weights(text, return_word_ids, **kwargs),
        }

    def untokenize(self, token_weight_pair: Sequence[Sequence[Any]]) -> list[tuple[Any, str]]:
        """See `SDTokenizer.untokenize`."""
        return self.clip_g.untokenize(token_weight_pair)

    def state_dict(self) -> dict[str, Any]:
        """See `SDTokenizer.state_dict`."""
        return {}


class SDXLClipModel(torch.nn.Module):
    """Both encoders; arguments as `SD1ClipModel`'s."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.clip_l = SDClipModel(
            device,
            layer="hidden",
            layer_idx=-2,
            dtype=dtype,
            layer_norm_hidden_state=False,
            model_options=model_options,
        )
        self.clip_g = SDXLClipG(device, dtype, model_options)
        self.dtypes = {dtype} if dtype is not None else set()

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """See `SDClipModel.set_clip_options`; for both."""
        self.clip_l.set_clip_options(options)
        self.clip_g.set_clip_options(options)

    def reset_clip_options(self) -> None:
        """See `SDClipModel.reset_clip_options`."""
        self.clip_l.reset_clip_options()
        self.clip_g.reset_clip_options()

    def encode_token_weights(
        self, token_weight_pairs: Mapping[str, Chunks]
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Encode with both.

        Args:
            token_weight_pairs: Chunks under "g" and "l".

        Returns:
            Features of L, then of bigG, (1, tokens, both widths), cut to the shorter; bigG's
            pooled output.
        """
        g_out, g_pooled = self.clip_g.encode_token_weights(token_weight_pairs["g"])
        l_out, _ = self.clip_l.encode_token_weights(token_weight_pairs["l"])
        tokens = min(l_out.shape[1], g_out.shape[1])
        return torch.cat([l_out[:, :tokens], g_out[:, :tokens]], dim=-1), g_pooled

    def load_sd(self, sd: Mapping[str, torch.Tensor]) -> Any:
        """Give one encoder's weights to the encoder they are of; see `SDClipModel.load_sd`.

        Raises:
            ValueError: If they are of neither.
        """
        config = clip_config_from_state_dict(sd)
        for encoder in (self.clip_g, self.clip_l):
            if config is not None and encoder.fits(config):
                return encoder.load_sd(sd)
        raise ValueError(
            f"these weights are of neither text encoder of SDXL: {config or 'no CLIP at all'}"
        )


class SDXLRefinerTokenizer(SD1Tokenizer):
    """The refiner's tokenizer: bigG's alone."""

    def __init__(
        self,
        embedding_directory: Directories = None,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            embedding_directory, tokenizer_data, clip_name="g", tokenizer=SDXLClipGTokenizer
        )


class SDXLRefinerClipModel(SD1ClipModel):
    """The refiner's text side: bigG alone."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(device, dtype, model_options, clip_name="g", clip_model=SDXLClipG)

"""The text side of Stable Diffusion 2: OpenCLIP's ViT-H."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from comfy.clip_model import CLIP_H
from comfy.clip_tokenizer import OPEN_CLIP_SPECIAL_TOKENS, OpenClipTokenizer
from comfy.sd1_clip import SD1ClipModel, SD1Tokenizer, SDClipModel
from comfy.textual_inversion import Directories


class SD2ClipHModel(SDClipModel):
    """ViT-H as Stable Diffusion 2 reads it: the last layer but one, normalized.

    diffusers' files leave out the last layer, which nobody reads: there the last is the one.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
        name: str = "clip_h",
    ) -> None:
        super().__init__(
            device,
            layer="hidden",
            layer_idx=-2,
            textmodel_json_config=CLIP_H,
            dtype=dtype,
            special_tokens=OPEN_CLIP_SPECIAL_TOKENS,
            model_options=model_options,
            name=name,
        )
        if self.num_layers == CLIP_H["num_hidden_layers"] - 1:
            self.set_default_layer(-1)


class SD2ClipHTokenizer(OpenClipTokenizer):
    """ViT-H's tokenizer."""

    width = CLIP_H["hidden_size"]
    key = "clip_h"


class SD2Tokenizer(SD1Tokenizer):
    """Chunks under "h"."""

    def __init__(
        self,
        embedding_directory: Directories = None,
        tokenizer_data: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(
            embedding_directory, tokenizer_data, clip_name="h", tokenizer=SD2ClipHTokenizer
        )


class SD2ClipModel(SD1ClipModel):
    """Encodes chunks under "h"."""

    def __init__(
        self,
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        model_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(device, dtype, model_options, clip_name="h", clip_model=SD2ClipHModel)

"""Tensors, and dicts with tensors, that links carry."""

from __future__ import annotations

from typing import TypedDict

import torch

ImageInput = torch.Tensor
"""Pictures, (batch, height, width, channels), 0 to 1."""

MaskInput = torch.Tensor
"""Masks, (batch, height, width), 0 to 1."""


class AudioInput(TypedDict):
    """Sounds of one length.

    Attributes:
        waveform: (batch, channels, samples), -1 to 1.
        sample_rate: Samples per second.
    """

    waveform: torch.Tensor
    sample_rate: int


class _Samples(TypedDict):
    samples: torch.Tensor


class LatentInput(_Samples, total=False):
    """Latents.

    Attributes:
        samples: (batch, channels, height, width), or with frames before the height.
        noise_mask: Where they may change, 0 to 1.
        batch_index: Which noise each gets, by its number in a batch.
    """

    noise_mask: torch.Tensor | None
    batch_index: list[int] | None

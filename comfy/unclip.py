"""Pictures as conditions of unCLIP networks: their embeddings, noised, and how noisy they are.

Ramesh et al. 2022, "Hierarchical Text-Conditional Image Generation with CLIP Latents", section
2.1. The vector y of such a network is the embedding that CLIP has of a picture, followed by a
sinusoidal embedding of the level to which it was noised: noise leaves the network free to depart
from the picture.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from comfy.ldm.modules.diffusionmodules.util import timestep_embedding

LEVELS = 1000
MERGE_AUGMENTATION = 0.05
"""How far the sum of several pictures is noised: sums are no embeddings that CLIP could make."""

_OFFSET = 0.008
_MOST_BETA = 0.999
# The latent's noise is drawn from the bare seed; from the same, both would begin alike.
_OWN_SEED = 0x756E434C4950


def kept_shares(levels: int = LEVELS) -> torch.Tensor:
    """How much of the signal's variance each level keeps.

    Returns:
        [levels], float32, from nearly 1 down to nearly 0.

    Source: Nichol, Dhariwal 2021, "Improved Denoising Diffusion Probabilistic Models", equation
        17, no step taking more than 0.999 of what is left.
    """
    time = torch.arange(levels + 1, dtype=torch.float64) / levels
    signal = torch.cos((time + _OFFSET) / (1 + _OFFSET) * (math.pi / 2)) ** 2
    kept = (signal[1:] / signal[:-1]).clamp(min=1 - _MOST_BETA)
    return kept.cumprod(0).float()


class NoiseAugmentation:
    """Noises embeddings of pictures, and says how much.

    Attributes:
        width: Of an embedding.
        mean: Of embeddings of many pictures, [width]; None is 0. May still be in its file.
        std: Their standard deviation, likewise; None is 1.
    """

    def __init__(
        self, width: int, mean: torch.Tensor | None = None, std: torch.Tensor | None = None
    ) -> None:
        self.width, self.mean, self.std = width, mean, std
        self._kept = kept_shares()

    def level(self, augmentation: float) -> int:
        """The level, 0 to LEVELS - 1, that a share, 0 to 1, means."""
        return round((LEVELS - 1) * augmentation)

    def noised(self, embeds: torch.Tensor, level: int, noise: torch.Tensor) -> torch.Tensor:
        """Mix embeddings, normalized by the statistics, with noise.

        Args:
            embeds: [B, width], float32.
            level: Of `level`.
            noise: Like `embeds`, standard normal.

        Returns:
            Like `embeds`, on the scale of embeddings.

        Source: Ho et al. 2020, "Denoising Diffusion Probabilistic Models", equation 4.
        """
        mean = 0.0 if self.mean is None else self.mean.flatten().to(embeds)
        std = 1.0 if self.std is None else self.std.flatten().to(embeds)
        kept = self._kept[level].to(embeds)
        mixed = (embeds - mean) / std * kept.sqrt() + noise.to(embeds) * (1 - kept).sqrt()
        return mixed * std + mean

    def __call__(
        self, embeds: torch.Tensor, level: int, generator: torch.Generator
    ) -> torch.Tensor:
        """Noise embeddings [B, width], and append that of the level: [B, 2 * width].

        The noise is drawn on the generator's device, so that it is the same on all others.
        """
        noise = torch.randn(embeds.shape, generator=generator, device=generator.device)
        told = timestep_embedding(torch.tensor([float(level)]), self.width).to(embeds)
        mixed = self.noised(embeds, level, noise)
        return torch.cat([mixed, told.expand(embeds.shape[0], -1)], dim=1)


def unclip_vector(
    augment: NoiseAugmentation,
    entries: Sequence[Mapping[str, Any]],
    seed: int | None = None,
    merge_augmentation: float = MERGE_AUGMENTATION,
) -> torch.Tensor:
    """Make the vector y of a prompt's pictures.

    Args:
        augment: Of the model.
        entries: The prompt's ``unclip_conditioning``: ``clip_vision_output`` of one picture or
            several, ``strength``, ``noise_augmentation``.
        seed: Of the noise; None is 0.
        merge_augmentation: See `MERGE_AUGMENTATION`; without effect on a single picture.

    Returns:
        [1, 2 * augment.width], float32; zeros if there are no pictures.

    Raises:
        ValueError: If a picture was embedded by an encoder of another width.
    """
    generator = torch.Generator().manual_seed((seed or 0) ^ _OWN_SEED)
    rows = []
    for entry in entries:
        embeds = entry["clip_vision_output"].image_embeds.float()
        if embeds.shape[-1] != augment.width:
            raise ValueError(
                f"The model takes pictures embedded to {augment.width} numbers, this one has "
                f"{embeds.shape[-1]}: encode it with the CLIP vision encoder that belongs to the "
                "model, which unCLIPCheckpointLoader takes out of the same file."
            )
        level = augment.level(entry["noise_augmentation"])
        rows += [augment(one[None], level, generator) * entry["strength"] for one in embeds]
    if not rows:
        return torch.zeros(1, 2 * augment.width)
    if len(rows) == 1:
        return rows[0]
    total = torch.stack(rows).sum(dim=0)[:, : augment.width]
    return augment(total, augment.level(merge_augmentation), generator)

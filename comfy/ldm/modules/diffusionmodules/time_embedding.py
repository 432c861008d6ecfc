"""How the networks of Stable Diffusion are told the time, and the vector y beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from comfy.ldm.modules.diffusionmodules.unet_blocks import UNetBlocks
from comfy.ldm.modules.diffusionmodules.util import timestep_embedding


def _embedder(channels: int, blocks: UNetBlocks) -> nn.Sequential:
    out, linear = 4 * blocks.model_channels, blocks.operations.Linear
    return nn.Sequential(
        linear(channels, out, **blocks.place), nn.SiLU(), linear(out, out, **blocks.place)
    )


class TimeEmbedding(nn.Module):
    """A network with `time_embed`, and with `label_emb` if it takes a vector.

    Attributes:
        model_channels: Of the sinusoids; the embedding has four times as many.
    """

    model_channels: int

    def build_embedders(
        self, blocks: UNetBlocks, num_classes: str | None, adm_in_channels: int | None
    ) -> None:
        """Make the layers.

        Args:
            blocks: Of the same network.
            num_classes: "sequential" if there is a vector y, else None.
            adm_in_channels: Channels of y.

        Raises:
            ValueError: For another kind of y.
        """
        self.model_channels = blocks.model_channels
        self.time_embed = _embedder(blocks.model_channels, blocks)
        self.label_emb: nn.Sequential | None = None
        if num_classes is None:
            return
        if num_classes != "sequential" or adm_in_channels is None:
            raise ValueError(
                f"A UNet with num_classes={num_classes!r} and adm_in_channels={adm_in_channels} "
                "is not known: only 'sequential' with channels."
            )
        self.label_emb = nn.Sequential(_embedder(adm_in_channels, blocks))

    def embed(
        self,
        x: torch.Tensor,
        timesteps: torch.Tensor,
        y: torch.Tensor | None,
        patches: Sequence[Callable[..., torch.Tensor]] = (),
        options: Any = None,
    ) -> torch.Tensor:
        """Embed.

        Args:
            x: Latents, [batch, ...], of the dtype that is wanted.
            timesteps: [batch].
            y: [batch, adm_in_channels] if the network takes it.
            patches: Change the embedding of the time.
            options: What they are called with.

        Returns:
            [batch, 4 * model_channels].

        Raises:
            ValueError: If y is missing, or is not of this batch.
        """
        emb: torch.Tensor = self.time_embed(
            timestep_embedding(timesteps, self.model_channels).to(x.dtype)
        )
        for patch in patches:
            emb = patch(emb, self.model_channels, options)
        if self.label_emb is None:
            return emb
        if y is None or y.shape[0] != x.shape[0]:
            raise ValueError(
                "This UNet is conditioned on a vector y, one for each latent of the batch of "
                f"{x.shape[0]}; it got {'none' if y is None else list(y.shape)}."
            )
        return emb + self.label_emb(y)

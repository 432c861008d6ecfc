"""Which autoencoder a state dict is, and what the VAE object must know of it.

A row of `KINDS` for each: a key by which it is known, and a function that builds it, or None for
one that is known but not supported yet. A new autoencoder is a row here and a network in ``ldm``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from comfy.file_kinds import explain
from comfy.ldm.models import diffusers_names
from comfy.ldm.models.autoencoder import (
    AutoencoderKL,
    ddconfig_from_state_dict,
    embed_dim_from_state_dict,
)
from comfy.state_loading import assign, numbers_from_shapes
from comfy.taesd.taesd import TAESD

# Channels of the full-size features that live at once, in units of the finest level's width.
# Counted from the layers and rounded up; not measured.
_DECODE_WIDTHS = 9
_ENCODE_WIDTHS = 5
_TAESD_DECODE_CHANNELS = 5 * 64
_TAESD_ENCODE_CHANNELS = 5 * 64

StateDict = Mapping[str, torch.Tensor]
Operations = Any


class NotAVAE(RuntimeError):
    """A state dict holds no autoencoder that can be loaded here; the message says what it holds."""


@dataclass(frozen=True)
class Autoencoder:
    """A network and its facts.

    Attributes:
        network: With `encode` (pixels -1..1 to latents) and `decode`.
        latent_channels: Of its latents.
        ratio: Pixels per position of the latent, along each side.
        decode_channels: Values per pixel that live at once while decoding.
        encode_channels: The same while encoding.
        output_channels: Of its pictures.
        casts: Whether its layers compute in another dtype than that of their weights, if asked to.
    """

    network: torch.nn.Module
    latent_channels: int
    ratio: int
    decode_channels: int
    encode_channels: int
    output_channels: int = 3
    casts: bool = True


def _kl(sd: StateDict, dtype: torch.dtype, operations: Operations, what: str) -> Autoencoder:
    with numbers_from_shapes(what):
        config = ddconfig_from_state_dict(sd)
        embed_dim = embed_dim_from_state_dict(sd)
        network = AutoencoderKL(
            embed_dim, config, dtype=dtype, device="meta", operations=operations
        )
    assign(network, sd, what)
    return Autoencoder(
        network,
        config["z_channels"] if embed_dim is None else embed_dim,
        2 ** (len(config["ch_mult"]) - 1),
        _DECODE_WIDTHS * config["ch"],
        _ENCODE_WIDTHS * config["ch"],
        config["out_ch"],
    )


def _diffusers_kl(
    sd: StateDict, dtype: torch.dtype, operations: Operations, what: str
) -> Autoencoder:
    return _kl(diffusers_names.autoencoder_from_diffusers(sd), dtype, operations, what)


def _taesd(sd: StateDict, dtype: torch.dtype, operations: Operations, what: str) -> Autoencoder:
    with numbers_from_shapes(what):
        channels = sd["taesd_decoder.1.weight"].shape[1]
    network = TAESD(latent_channels=channels)
    assign(network, sd, what, optional=r"^vae_(scale|shift)$")
    return Autoencoder(
        network, channels, 8, _TAESD_DECODE_CHANNELS, _TAESD_ENCODE_CHANNELS, casts=False
    )


@dataclass(frozen=True)
class VAEKind:
    """A row of the table.

    Attributes:
        name: Of the autoencoder.
        mark: A key that it has, and none above it.
        build: Makes it, filled, of layers from `operations`; None if it is not supported yet.
    """

    name: str
    mark: str
    build: Callable[[StateDict, torch.dtype, Operations, str], Autoencoder] | None = None


KINDS: tuple[VAEKind, ...] = (
    VAEKind("TAESD", "taesd_decoder.1.weight", _taesd),
    VAEKind("Flux 2's autoencoder", "bn.running_mean"),
    VAEKind("the Wan or Qwen autoencoder", "decoder.middle.0.residual.0.gamma"),
    VAEKind("KL with diffusers' names", diffusers_names.ENTRY, _diffusers_kl),
    VAEKind("KL", "decoder.conv_in.weight", _kl),
)


def build_autoencoder(
    sd: StateDict, dtype: torch.dtype, operations: Operations, what: str = "the VAE"
) -> Autoencoder:
    """Find, build and fill the autoencoder of a state dict; reads and copies no weight.

    Args:
        sd: Keys without prefix.
        dtype: In which its weights are kept.
        operations: Makes its layers; see `comfy.ops`.
        what: Of the file, for messages.

    Raises:
        NotAVAE: If nothing known is there, or it is not supported yet.
        IncompleteModel: If weights are missing.
    """
    kind = next((one for one in KINDS if one.mark in sd), None)
    if kind is None:
        raise NotAVAE(explain(sd, what, "a VAE"))
    if kind.build is None:
        raise NotAVAE(f"{what} is {kind.name} (found '{kind.mark}'), which is not supported yet.")
    return kind.build(sd, dtype, operations, what)
